//! What the agent remembers of each group between runs.
//!
//! ```text
//! STATE/groups/GROUPID/
//! ├── state.json   replaced as a whole, durably
//! └── spool/       the agent's journal
//! ```
//!
//! Directories are named by identity: a name is data, never a path.
//!
//! **Invariant:** a group is open in one agent at a time.
//! **Invariant:** what a clean stop proved is forgotten durably before anything is captured.

mod file;
mod place;
mod start;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use journal::log::Head;
use journal::types::{ChainHead, EpochId, GroupId, Sectors, Seq, VolumeNo, VolumeUuid};

pub use file::{Group, Groups};
pub use place::Place;
pub(crate) use start::add_to_gap;
pub use start::{Action, Facts, Plan, VolumePlan, plan};

use crate::source::{FileProof, Identity};

/// Epochs remembered: as many as may be in question when a receiver's head is looked for among them.
const EPOCHS_KEPT: usize = 64;
/// Ranges that are remembered to be read, of all volumes together: a megabyte of text at most.
pub(crate) const UNREAD_RANGES: usize = 32 * 1024;

/// All that is remembered of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupState {
    /// Its identity.
    pub id: GroupId,
    /// What it is called.
    pub name: String,
    /// Its volumes, by number.
    pub volumes: BTreeMap<VolumeNo, Volume>,
    /// A number that no volume of it ever had, and so none after it.
    pub next_volume: VolumeNo,
    /// The runs of the agent on it, the newest last.
    pub epochs: Vec<OpenedEpoch>,
    /// The highest head that a receiver said is durable, when that was last noted.
    pub durable: Option<Head>,
    /// Where it stood when it was last known to be the only one; `None`: in a state of an older version.
    pub place: Option<Place>,
    /// How the last run ended, if it ended cleanly and nothing was begun since.
    pub stopped: Option<Stopped>,
    /// Where the sources are being taken back to, if that is not over: until then nobody else may write to them.
    pub rollback: Option<Seq>,
}

/// A volume of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its identity.
    pub uuid: VolumeUuid,
    /// What it is called.
    pub name: String,
    /// Where its source is.
    pub path: PathBuf,
    /// Its size.
    pub size: Sectors,
    /// Which file or device its source is; `None`: nothing tells it from another.
    pub identity: Option<Identity>,
}

/// An epoch, and what it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenedEpoch {
    /// Its identity.
    pub id: EpochId,
    /// The epoch before, if there was one.
    pub parent: Option<EpochId>,
    /// The last `Seq` before.
    pub seq: Option<Seq>,
    /// The chain head there.
    pub chain: ChainHead,
}

/// A clean stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Where the order stood; all of it was durable here.
    pub head: Head,
    /// What proves that a volume was not written to since. Volumes that keep no proof are not in it.
    pub proofs: BTreeMap<VolumeNo, FileProof>,
    /// What of the sources is in no record, and in no base that is sealed; `None`: a gap was not open.
    pub unread: Option<Unread>,
}

/// Bytes of each volume, in order and apart.
pub type Unread = BTreeMap<VolumeNo, Vec<Range<u64>>>;

impl GroupState {
    /// A run begins on these volumes: from now on, until a clean stop, it counts as interrupted.
    pub fn begin(&mut self, epoch: OpenedEpoch, volumes: BTreeMap<VolumeNo, Volume>) {
        self.epochs.push(epoch);
        let old = self.epochs.len().saturating_sub(EPOCHS_KEPT);
        self.epochs.drain(..old);
        let beyond = volumes.keys().next_back().map_or(0, |last| last.0 + 1);
        self.next_volume = self.next_volume.max(VolumeNo(beyond));
        self.volumes = volumes;
        self.stopped = None;
    }

    /// What of a volume the last run, which stopped cleanly, had left to be read.
    pub fn unread(&self, volume: VolumeNo) -> &[Range<u64>] {
        let unread = self.stopped.as_ref().and_then(|stopped| stopped.unread.as_ref()?.get(&volume));
        unread.map_or(&[], Vec::as_slice)
    }

    /// Whether more is durable at a receiver than is remembered.
    pub fn is_news(&self, durable: Head) -> bool {
        self.durable.is_none_or(|known| known.seq < durable.seq)
    }

    /// What is remembered of an epoch.
    pub fn opened(&self, epoch: EpochId) -> Option<&OpenedEpoch> {
        self.epochs.iter().find(|opened| opened.id == epoch)
    }
}
