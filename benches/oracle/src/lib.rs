//! Stamped workloads and the oracle that judges images.
//!
//! Every 512-byte sector that a [`Workload`] writes says who wrote it, when, and as which operation ([`Stamp`]). A
//! [`Recorder`] keeps the list of operations with the times between which each one took effect. From that list a
//! [`History`] knows, for any instant, exactly which images are legal, and explains what is wrong with one that is not.
//!
//! **Invariant:** this crate imports nothing of the product, because it judges the product. It has its own NBD client.

mod client;
mod history;
mod judge;
mod log;
mod op;
mod order;
mod pick;
mod rng;
mod stamp;
mod verdict;
mod volume;
mod workload;

pub use client::{Client, Error as ClientError};
pub use history::History;
pub use judge::{Image, image_of};
pub use log::{Recorder, Ticket};
pub use op::{Kind, Micros, Op, Sectors};
pub use pick::{Hot, Pattern, SizeShare};
pub use rng::Rng;
pub use stamp::{Fill, SECTOR_BYTES, Stamp};
pub use verdict::{CrashVerdict, Finding, Found, Problem, Verdict};
pub use volume::{Volume, fill_initial};
pub use workload::{Error as WorkloadError, Stats, Workload};
