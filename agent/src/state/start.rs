//! Decides, at the start of a run, what has to be said of each volume and what has to be read again. Pure: facts in, plan out.
//!
//! | volume | record | read | gap |
//! |---|---|---|---|
//! | unknown until now | volume-add | first copy | first copy |
//! | known, no clean stop | – | compare | unclean start |
//! | known, clean stop, no proof (a device) | – | compare | unclean start |
//! | known, clean stop, proof does not hold | – | compare | changed while stopped |
//! | known, larger now | resize | compare | changed while stopped |
//! | known, smaller now | refused | | |
//! | known, clean stop, proof holds | – | – | – |
//! | known, not asked for now | volume-remove | – | – |

use std::path::PathBuf;

use journal::codec::{Gap, GapReason};
use journal::types::{Sectors, VolumeNo};

use super::GroupState;
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
    /// Whether its size has to be recorded.
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
}

/// The plan for these facts.
///
/// # Errors
/// `Invalid` for a volume that is smaller than before, and for two of one name.
pub fn plan(state: &GroupState, facts: &[Facts]) -> Result<Plan> {
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
        if fact.size < volume.size {
            let (was, is) = (volume.size.bytes(), fact.size.bytes());
            let message = format!("{} had {was} bytes and has only {is} now", fact.name);
            return Err(Error::invalid(message).with_path(&fact.path));
        }
        let resized = fact.size > volume.size;
        let reason = why_compare(state, resized, fact.unchanged);
        let action = if reason.is_some() { Action::Compare } else { Action::Continue };
        plan.volumes.push(VolumePlan { number, resized, action });
        if let Some((reason, why)) = reason {
            plan.add_gap(reason, format!("{}: {why}", fact.name));
        }
    }
    let kept = |number| plan.volumes.iter().any(|volume| volume.number == number);
    plan.removed = state.volumes.keys().copied().filter(|number| !kept(*number)).collect();
    Ok(plan)
}

fn why_compare(state: &GroupState, resized: bool, unchanged: Option<bool>) -> Option<(GapReason, &'static str)> {
    match (state.stopped.is_some(), resized, unchanged) {
        (false, _, _) => Some((GapReason::UncleanStart, "the last run did not stop cleanly")),
        (true, true, _) => Some((GapReason::ChangedWhileStopped, "it is larger than before")),
        (true, false, Some(false)) => Some((GapReason::ChangedWhileStopped, "it was written to while nobody watched")),
        (true, false, None) => Some((GapReason::UncleanStart, "nothing proves that nobody wrote to it")),
        (true, false, Some(true)) => None,
    }
}

impl Plan {
    /// The first reason is the gap's; the others are in its text.
    fn add_gap(&mut self, reason: GapReason, text: String) {
        match &mut self.gap {
            None => self.gap = Some(Gap { reason, text }),
            // A note is short: a thousand volumes need not all be named.
            Some(gap) if gap.text.len() + text.len() < 512 => gap.text.push_str(&format!("; {text}")),
            Some(_) => {}
        }
    }
}
