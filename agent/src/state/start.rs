//! Decides, at the start of a run, what has to be said of each volume and what has to be read again. Pure: facts in, plan out.
//!
//! | volume | record | read | gap |
//! |---|---|---|---|
//! | unknown until now | volume-add | first copy | first copy |
//! | known, no clean stop | – | compare | unclean start |
//! | known, clean stop, no proof (a device) | – | compare | unclean start |
//! | known, clean stop, proof does not hold | – | compare | changed while stopped |
//! | known, larger or smaller now | resize | compare | changed while stopped |
//! | known, another file or device now | refused, unless a person says so | compare | changed while stopped |
//! | known, clean stop, proof holds | – | – | – |
//! | known, clean stop before all was read, proof holds | – | compare what was not | unclean start |
//! | known, not asked for now | volume-remove | – | – |

use std::path::PathBuf;

use journal::codec::{Gap, GapReason};
use journal::types::{Sectors, VolumeNo};

use super::{GroupState, Stopped};
use crate::source::Identity;
use crate::{Error, Result};

/// A volume as it is found now.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What it is called.
    pub name: String,
    /// Where its source is.
    pub path: PathBuf,
    /// Its size.
    pub size: Sectors,
    /// Which file or device it is, if that can be told.
    pub identity: Option<Identity>,
    /// Whether it is as the proof of the last clean stop says; `None`: there is no proof.
    pub unchanged: Option<bool>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order of the facts.
    pub volumes: Vec<VolumePlan>,
    /// Volumes that are no longer protected.
    pub removed: Vec<VolumeNo>,
    /// Why there are no points until a base is sealed; `None`: points go on.
    pub gap: Option<Gap>,
}

/// What is to be done for one volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// Its number.
    pub number: VolumeNo,
    /// Whether it has another size than before.
    pub resized: bool,
    /// What has to be read.
    pub action: Action,
}

/// What has to be read of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Continue,
    /// All of it; the order has nothing of it.
    FirstCopy,
    /// All of it, to send what differs.
    Compare,
    /// What the last run had left to be read, to send what differs.
    Resume,
}

impl Action {
    /// Whether what is read is compared with what the order has.
    pub fn compares(self) -> bool {
        matches!(self, Self::Compare | Self::Resume)
    }
}

/// The plan for these facts; `replaced`: a person said that a source may be another one than before.
///
/// # Errors
/// `Invalid` for a volume whose source is another one, and for two of one name.
pub fn plan(state: &GroupState, facts: &[Facts], replaced: bool) -> Result<Plan> {
    let mut next = state.next_volume;
    let mut plan = Plan { volumes: Vec::new(), removed: Vec::new(), gap: None };
    for (index, fact) in facts.iter().enumerate() {
        if facts.iter().take(index).any(|other| other.name == fact.name) {
            return Err(Error::invalid(format!("two volumes are called {}", fact.name)));
        }
        let known = state.volumes.iter().find(|(_, volume)| volume.name == fact.name);
        let Some((&number, volume)) = known else {
            plan.volumes.push(VolumePlan { number: next, resized: false, action: Action::FirstCopy });
            next = VolumeNo(next.0 + 1);
            plan.add_gap(GapReason::FirstCopy, format!("{} is copied for the first time", fact.name));
            continue;
        };
        let other = volume.identity.as_ref().zip(fact.identity.as_ref()).filter(|(was, is)| was != is);
        if let Some((was, is)) = other.filter(|_| !replaced) {
            let message = format!(
                "the source of {} was replaced by another ({is}, it was {was}). Bring the right one back; or, if this one is to be \
                 protected as {0}, start with --replaced: it is compared in full, and older points keep what they have",
                fact.name
            );
            return Err(Error::invalid(message).with_path(&fact.path));
        }
        let resized = fact.size != volume.size;
        let reason = match other {
            Some(_) => Some((GapReason::ChangedWhileStopped, "it is another file or device than before".to_owned())),
            None => why_compare(state, (volume.size, fact.size), fact.unchanged),
        };
        let is_known = other.is_none() && !resized && fact.unchanged == Some(true);
        let action = match (&reason, &state.stopped) {
            (None, _) => Action::Continue,
            (Some(_), Some(Stopped { unread: Some(unread), .. })) if is_known && unread.contains_key(&number) => {
                Action::Resume
            }
            (Some(_), _) => Action::Compare,
        };
        plan.volumes.push(VolumePlan { number, resized, action });
        if let Some((reason, why)) = reason {
            plan.add_gap(reason, format!("{}: {why}", fact.name));
        }
    }
    let kept = |number| plan.volumes.iter().any(|volume| volume.number == number);
    plan.removed = state.volumes.keys().copied().filter(|number| !kept(*number)).collect();
    Ok(plan)
}

fn why_compare(
    state: &GroupState,
    (was, is): (Sectors, Sectors),
    unchanged: Option<bool>,
) -> Option<(GapReason, String)> {
    let sizes = || format!("it had {} bytes and has {}", was.bytes(), is.bytes());
    let is_unread = state.stopped.as_ref().is_some_and(|stopped| stopped.unread.is_some());
    let (reason, why) = match (state.stopped.is_some(), was == is, unchanged) {
        (false, true, _) => (GapReason::UncleanStart, "the last run did not stop cleanly".to_owned()),
        (false, false, _) => (GapReason::UncleanStart, format!("the last run did not stop cleanly; {}", sizes())),
        (true, false, _) => (GapReason::ChangedWhileStopped, sizes()),
        (true, true, Some(false)) => {
            (GapReason::ChangedWhileStopped, "it was written to while nobody watched".to_owned())
        }
        (true, true, None) => (GapReason::UncleanStart, "nothing proves that nobody wrote to it".to_owned()),
        (true, true, Some(true)) if is_unread => {
            (GapReason::UncleanStart, "the last run was stopped before all that had changed was read".to_owned())
        }
        (true, true, Some(true)) => return None,
    };
    Some((reason, why))
}

/// More about a gap. A note is short: a thousand volumes need not all be named.
pub(crate) fn add_to_gap(gap: &mut Gap, text: &str) {
    if gap.text.len() + text.len() < 512 {
        gap.text.push_str(&format!("; {text}"));
    }
}

impl Plan {
    /// The first reason is the gap's; the others are in its text.
    fn add_gap(&mut self, reason: GapReason, text: String) {
        match &mut self.gap {
            None => self.gap = Some(Gap { reason, text }),
            Some(gap) => add_to_gap(gap, &text),
        }
    }
}
