//! The command line, as scripts see it.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod alone;
mod asking;
mod call;
mod peer;
mod whole;
