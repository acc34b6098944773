//! The command line, as scripts see it.

mod alone;
mod asking;
mod call;
mod peer;
