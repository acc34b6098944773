//! Any instant, at once: exports and mounts of the past, with the clients that people use.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[path = "../common/mod.rs"]
mod common;

mod applications;
#[path = "../filesystems/database.rs"]
mod database;
mod exports;
mod mounts;
mod past;
mod writable;
