//! Merged runs: one sorted file over the indexes of many segments, so that a reader looks into few places however long the history.
//!
//! ```text
//! ┌──────┬──────┬┄┄┬───────┬──────┬──────┬┄┄┬───────┬─────────┬────────┬─────────┐
//! │ data │ data │  │ guide │ data │ data │  │ guide │ sources │ guides │ trailer │
//! └──────┴──────┴┄┄┴───────┴──────┴──────┴┄┄┴───────┴─────────┴────────┴─────────┘
//!  ◀── pages of 16 KiB, each with its checksum ───▶   in memory while it is open
//! ```
//!
//! A search goes from the list of guides (in memory) to one guide page and one data page for each class, both through [`Blocks`].
//! All of it is derived: what cannot be read is dropped, and made again from the segments.

mod blocks;
mod file;
mod merge;
mod page;
mod seek;
mod tally;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use blocks::{Block, BlockKey, Blocks};
pub use file::{MergedRun, RunNo};
pub(crate) use merge::{Input, Merge};
pub(crate) use page::Page;
pub use seek::{Query, Work};
pub(crate) use tally::Tally;
