//! What a log claims of a volume, and whether what a receiver has agrees with it. Pure.
//!
//! After a power cut the receiver is usually *ahead*: it has records that this agent, whose spool was in memory, knows nothing of. They
//! do not matter, for each of them lies in an extent that was durably called hot before it was made, and cannot have turned cold
//! since: that takes a receiver's head at or beyond it, remembered durably. So
//!
//! ```text
//!   receiver:  ──────────────┬────────────────────┐ head      every change in here
//!   agent:     ──────────────┘ remembered durable │           lies in a hot extent, or the log is an older one
//! ```
//!
//! A state directory and a source that were set back together to an old copy look like a power cut. But then the receiver has what was
//! written since: later than the last note, or where the log says that nothing was. That is what is asked (decision 16).

use std::collections::BTreeSet;

use journal::types::{Changed, Sectors, VolumeNo, WallTime};

use super::evidence::LATE_BOOT_US;
use super::{ExtentNo, Left, Testimony, extents_in};

/// What the last run, which ended uncleanly, claims of one volume.
#[derive(Clone, Debug)]
pub struct Claim {
    volume: VolumeNo,
    size: Sectors,
    hot: BTreeSet<ExtentNo>,
    noted: WallTime,
}

impl Claim {
    /// `None`: it claims nothing, and all is compared.
    pub fn of(volume: VolumeNo, size: Sectors, testimony: &Testimony) -> Option<Self> {
        match testimony {
            Testimony { left: Left::Only(hot), noted: Some(noted) } => {
                Some(Self { volume, size, hot: extents_in(hot).collect(), noted: *noted })
            }
            _ => None,
        }
    }

    /// Of which volume.
    pub fn volume(&self) -> VolumeNo {
        self.volume
    }

    /// Whether its log can be of the run that made the receiver's last record, at `time`.
    ///
    /// # Errors
    /// Why it cannot, for people.
    pub fn check_time(&self, time: WallTime) -> Result<(), String> {
        if time.0 > self.noted.0.saturating_add(LATE_BOOT_US) {
            return Err("the receiver has what was written long after the hot-extent log was last tended".to_owned());
        }
        Ok(())
    }

    /// Whether what the receiver changed, by its answer to a question from extent `first` on, agrees with it; and from where on is to be
    /// asked next.
    ///
    /// # Errors
    /// Why it does not, for people.
    pub fn check(&self, first: u32, said: &Changed) -> Result<Option<u32>, String> {
        if said.size != Some(self.size) {
            return Err("the volume has another size at the receiver".to_owned());
        }
        let cold = said.runs.iter().flat_map(|run| run.first..run.first.saturating_add(run.count));
        if let Some(cold) = cold.into_iter().find(|extent| !self.hot.contains(extent)) {
            return Err(format!("the receiver has a change in extent {cold}, which the hot-extent log does not list"));
        }
        match said.next {
            Some(next) if next <= first => Err("the receiver does not say all that it changed".to_owned()),
            next => Ok(next),
        }
    }
}
