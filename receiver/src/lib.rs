//! Keeps every version: ingest, catalog, views, replica image.

pub mod catalog;
pub mod enrol;
pub mod error;
pub mod group;
pub mod time;
