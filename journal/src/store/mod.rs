//! A receiver's journal: a log, and views over it.
//!
//! One owner writes ([`Store`]). Readers hold immutable [`Version`]s, which show only what is durable; neither waits for the other.

mod cache;
mod changed;
mod clean;
mod find;
mod indexes;
mod merge;
mod records;
mod resolve;
#[cfg(test)]
mod tests;
mod timeline;
mod verify;
mod version;
mod view;
mod write;

pub use clean::{Cleaner, CompactPlan, Examined, Output, Pace, Surveyed};
pub use find::{GapInfo, NotCovered, PointInfo, When, WhyNoPoints};
pub use merge::{FAN_IN, Merger, Merging};
pub use timeline::{BEFORE_ROLLBACK, Resized, Rollback, Stretch, Timeline, VolumeInfo};
pub use verify::Verified;
pub use version::{Library, Version};
pub use view::View;
pub use write::Store;
