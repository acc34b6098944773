//! What the logs of hot extents claim after an unclean end, until the receiver was met: if that is ahead, they count only as far as it
//! agrees with them.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use journal::types::{Seq, VolumeNo};

use super::group::Group;
use super::opening::Verdict;
use crate::hot::Claim;

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
pub(crate) type Verdicts = BTreeMap<VolumeNo, Verdict>;

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
