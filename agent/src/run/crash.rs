//! What the logs of hot extents claim after an unclean end, until the receiver was met: if that is ahead, they count only as far as it
//! agrees with them.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use journal::types::{Seq, VolumeNo};

use super::group::{Group, Volume};
use crate::hot::{Claim, Hot, Left};
use crate::source::Storage;

/// What the last run left, which ended uncleanly.
#[derive(Clone, Debug)]
pub(crate) struct Crash {
    /// What the receiver had durably, as was remembered.
    pub(crate) durable: Option<Seq>,
    /// Of those volumes whose logs are believed.
    pub(crate) claims: Vec<Claim>,
    /// The others, and why.
    pub(crate) unbelieved: Verdicts,
}

/// By volume: whether the receiver agrees with its log, and why not.
pub(crate) type Verdicts = BTreeMap<VolumeNo, Result<(), String>>;

impl Group {
    /// What there is to be asked of a receiver that is ahead.
    pub(crate) fn crash(&self) -> Option<Crash> {
        self.crash.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From here on the receiver is known: if it is found ahead later, that is not because of how the last run ended.
    pub(super) fn no_crash_any_more(&self) {
        *self.crash.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What may differ of a volume from what the receiver has, while nobody writes to it: if the receiver agrees with the log that
/// this run of it began with, what that listed and what was changed since.
pub(super) fn left(volume: &Volume, hot: Option<&Hot>, verdicts: &Verdicts) -> Left {
    let all = |why: &str| Left::All { why: why.to_owned() };
    match (verdicts.get(&volume.number), hot) {
        (Some(Err(why)), _) => all(why),
        (None, _) | (_, None) => all(""),
        (Some(Ok(())), Some(hot)) if volume.source.size() == hot.size() && !volume.source.flush_failed() => hot.left(),
        (Some(Ok(())), Some(_)) => all("its size changed since, or its source failed"),
    }
}
