//! Bad input and faults, as the real processes meet them: each is refused with its reason, or survived without losing what was
//! durable. What needs root and loop devices is skipped aloud without them.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[path = "../common/mod.rs"]
mod common;

mod damage;
mod device;
mod errors;
mod failing;
mod pairs;
mod reserve;
mod source;
mod source_errors;
mod space;
mod times;
mod trust;
