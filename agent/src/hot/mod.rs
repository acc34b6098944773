//! The hot-extent log: which parts of a source a crash may have left different from what a receiver has.
//!
//! ```text
//!   a change ──► marks: open? ──yes──────────────────────────► source ──► capture ──► marks: left
//!                  │ no                                          ▲
//!                  ▼                                             │
//!               ledger: say it hot ──► one transaction, durable ─┘   (many changes share one)
//!
//!   tended: what was left long ago, is flushed on the source and durable at a receiver is closed, and said cold some time
//! ```
//!
//! An *extent* here is 4 MiB of the volume. After an unclean end only those that the log calls hot are read and compared.
//!
//! **Invariant:** an extent is durably said to be hot before a change of it reaches the source.
//! **Invariant:** it is said to be cold only after a flush of the source that began after its last change had been captured, and
//! after a receiver had all that was captured until then durably.
//! **Invariant:** a log that cannot be written means "all": it says so, or is gone, or is too old to be believed.
//!
//! `marks` is what every change looks at: no lock, no I/O. `ledger` decides what to say: no I/O, no clock. `codec` are the bytes
//! (`docs/FORMAT.md`), `recover` what they mean after a crash, `evidence` whether they can be believed, `claim` whether what the
//! receiver has agrees with them, `file` the file, `gate` ties them together.

mod claim;
mod codec;
mod evidence;
mod file;
mod gate;
mod ledger;
mod marks;
mod recover;
#[cfg(test)]
mod sweep_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod worlds;

use std::collections::BTreeSet;
use std::ops::Range;

use journal::types::{BootId, CHANGED_EXTENT_SECTORS, EpochId, GroupId, Sectors, VolumeUuid};

pub use claim::Claim;
pub use evidence::{Now, Testimony, left_by};
pub use gate::{Hot, Pass, Place};

/// Sectors of an extent: 4 MiB. Small enough that a thousand of them are compared in seconds, large enough that a busy volume
/// has few. Receivers count in them as well.
pub const EXTENT_SECTORS: u64 = CHANGED_EXTENT_SECTORS;
/// Bytes of an extent.
pub const EXTENT_BYTES: u64 = EXTENT_SECTORS * 512;
/// Extents of one volume that the log lists: 256 GiB that are written to at once. Beyond it says "all" until there are fewer.
const HOT_MAX: usize = 65_536;

/// An extent's number on its volume.
pub(crate) type ExtentNo = u32;

/// What the log is about. A log that is about something else proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The group.
    pub group: GroupId,
    /// The volume.
    pub volume: VolumeUuid,
    /// The run of the agent that writes it.
    pub epoch: EpochId,
    /// The volume's size.
    pub size: Sectors,
    /// The device that the source is a file on.
    pub dev: u64,
    /// The source's inode.
    pub inode: u64,
}

impl Subject {
    /// The name of the volume's log: volumes are named by identity.
    pub fn file_name(&self) -> String {
        format!("{}.hot", self.volume)
    }
}

/// What has to be compared after an unclean end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Left {
    /// These bytes: in order, apart.
    Only(Vec<Range<u64>>),
    /// All of it.
    All {
        /// Why, for people.
        why: String,
    },
}

impl Left {
    /// With the extents of these bytes as well.
    pub(crate) fn with(self, more: &[Range<u64>], size: Sectors) -> Self {
        match self {
            Self::Only(known) => {
                let both: BTreeSet<_> = extents_in(&known).chain(extents_in(more)).collect();
                Self::Only(ranges(both, size))
            }
            all @ Self::All { .. } => all,
        }
    }
}

/// A log as it is read or begun: the boot it is of stands beside what it is about, for it may be another one by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Head {
    subject: Subject,
    boot: BootId,
    salt: [u8; 16],
    /// Whether all is hot until the transactions say otherwise, which they never do: a new log does.
    is_all: bool,
}

/// Neighbours as one; the last extent may be shorter.
fn ranges(extents: impl IntoIterator<Item = ExtentNo>, size: Sectors) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for extent in extents {
        let start = u64::from(extent) * EXTENT_BYTES;
        let end = size.bytes().min(start + EXTENT_BYTES);
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

/// The extents of such ranges.
fn extents_in(ranges: &[Range<u64>]) -> impl Iterator<Item = ExtentNo> {
    let number = |at: u64| ExtentNo::try_from(at / EXTENT_BYTES).unwrap_or(ExtentNo::MAX);
    ranges.iter().filter(|range| !range.is_empty()).flat_map(move |range| number(range.start)..=number(range.end - 1))
}

/// How many extents a volume has; `None` if the log cannot number them.
fn extents_of(size: Sectors) -> Option<ExtentNo> {
    ExtentNo::try_from(size.count().div_ceil(EXTENT_SECTORS)).ok()
}
