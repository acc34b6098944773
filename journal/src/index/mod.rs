//! Where each version of each sector is: sorted runs, one for each sealed segment, small ones for what was just appended, and files that
//! merge those of many segments.

mod build;
mod entry;
mod footer;
mod merged;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use build::times;
pub use build::{Builder, Event, FrameSpot};
pub use entry::{Entry, Rank};
pub use footer::Footer;
pub(crate) use footer::{Ending, read_events, read_footer, read_frames, read_trailer};
pub(crate) use merged::{Block, BlockKey, Blocks, Input, Merge, Page, Tally};
pub use merged::{MergedRun, Query, RunNo, Work};
pub use run::Run;
