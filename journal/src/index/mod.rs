//! Where each version of each sector is: sorted runs, one for each sealed segment, small ones for what was just appended.

mod build;
mod entry;
mod footer;
mod run;
#[cfg(test)]
mod tests;

pub(crate) use build::times;
pub use build::{Builder, Event, FrameSpot};
pub use entry::{Entry, Rank};
pub use footer::Footer;
pub(crate) use footer::{Ending, read_events, read_footer, read_trailer};
pub use run::Run;
