//! Keeps every version: ingest, catalog, views, replica image.

pub mod catalog;
mod checked;
pub mod enrol;
pub mod error;
pub mod group;
pub mod image;
pub mod restore;
pub mod rollback;
#[cfg(test)]
mod testing;
pub mod time;
