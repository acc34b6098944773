//! What a run begins with: where its order goes on, what is said of its volumes, what of them has to be read. Decisions only.

use std::path::PathBuf;

use journal::codec::{Body, Gap, VolumeAdd};
use journal::types::{Head, Sectors, VolumeNo, VolumeUuid};

use crate::Result;
use crate::base::{BaseVolume, Known};
use crate::capture::Capture;
use crate::hot::{Claim, Hot, Left, Testimony};
use crate::state::{Action, GroupState};

/// What the last run left of a volume.
#[derive(Clone, Debug)]
pub struct Doubt {
    /// What of it may differ from what the order has.
    pub left: Left,
    /// What of it may differ from what the receiver is remembered to have: what its log begins with.
    pub hot: Left,
    /// What the last run claims of it.
    pub claim: Option<Claim>,
}

/// What the state of a group says of its last run. `parent`: where the order goes on. `is_copied`: another goes on as well.
#[derive(Clone, Copy, Debug)]
pub struct LastRun<'a> {
    /// The state.
    pub state: &'a GroupState,
    /// As in [`parent`].
    pub parent: Option<Head>,
    /// Its directory may be a copy.
    pub is_copied: bool,
}

impl LastRun<'_> {
    /// What it left of a volume of which `action` has to be done; `testimony` is that of the volume's log.
    ///
    /// # Errors
    /// Those of the testimony.
    pub fn doubt(
        &self,
        (number, size): (VolumeNo, Sectors),
        action: Action,
        testimony: impl FnOnce() -> Result<Testimony>,
    ) -> Result<Doubt> {
        let Self { state, parent, is_copied } = *self;
        // What the spool has and no receiver is not safe from a power cut, though it is proven to be there now.
        let is_durable =
            |stopped: &crate::state::Stopped| state.durable.is_some_and(|durable| durable.seq >= stopped.head.seq);
        let is_durable = state.stopped.as_ref().is_some_and(is_durable);
        let is_ours = state.stopped.is_none() && parent.is_some() && !is_copied;
        let all = || Left::All { why: String::new() };
        Ok(match action {
            Action::Continue if is_durable => {
                Doubt { left: Left::Only(Vec::new()), hot: Left::Only(Vec::new()), claim: None }
            }
            Action::Compare if is_ours => {
                let testimony = testimony()?;
                let claim = Claim::of(number, size, &testimony);
                Doubt { left: testimony.left.clone(), hot: testimony.left, claim }
            }
            Action::Resume if !is_copied => {
                // What waits in the spool is not safe from a power cut; the log still lists that.
                let unread = state.unread(number).to_vec();
                let testimony = testimony()?;
                let claim = Claim::of(number, size, &testimony);
                Doubt { left: Left::Only(unread.clone()), hot: testimony.left.with(&unread, size), claim }
            }
            Action::Continue | Action::Compare | Action::Resume | Action::FirstCopy => {
                Doubt { left: all(), hot: all(), claim: None }
            }
        })
    }
}

/// What may differ of a volume from what the receiver has, while nobody writes to it: if the receiver agrees with the log that
/// this run of it began with, what that listed and what was changed since. `source`: its size, and whether a flush of it failed.
pub fn left(verdict: Option<&Verdict>, hot: Option<&Hot>, source: (Sectors, bool)) -> Left {
    let all = |why: &str| Left::All { why: why.to_owned() };
    match (verdict, hot) {
        (Some(Err(why)), _) => all(why),
        (None, _) | (_, None) => all(""),
        (Some(Ok(())), Some(hot)) if source == (hot.size(), false) => hot.left(),
        (Some(Ok(())), Some(_)) => all("its size changed since, or its source failed"),
    }
}

/// Whether the receiver agrees with a volume's log, and why not.
pub type Verdict = std::result::Result<(), String>;

/// A volume, and what has to be said and read of it.
#[derive(Clone, Debug)]
pub struct Told<'a> {
    /// Its number in the group.
    pub number: VolumeNo,
    /// Its identity.
    pub uuid: VolumeUuid,
    /// What it is called.
    pub name: &'a str,
    /// As in [`BaseVolume`].
    pub path: PathBuf,
    /// Its size.
    pub size: Sectors,
    /// What has to be read.
    pub action: Action,
    /// What of it may differ from what the order has.
    pub left: &'a Left,
}

/// The end of the order as far as this agent knows. After a power cut the spool may have less than was acknowledged.
pub fn parent(state: &GroupState, spooled: Option<Head>) -> Option<Head> {
    let stopped = state.stopped.as_ref().map(|stopped| stopped.head);
    [spooled, state.durable, stopped].into_iter().flatten().max_by_key(|head| head.seq)
}

/// The gap first: nothing in between is a point. A volume that is compared is said anew, for the run that said it may have been
/// lost with the machine's power.
pub fn declare(capture: &Capture, volumes: &[Told<'_>], removed: &[VolumeNo], gap: Option<&Gap>) {
    let records = gap.cloned().map(Body::Gap).into_iter();
    let gone = removed.iter().map(|&volume| Body::VolumeRemove { volume });
    let said = volumes.iter().flat_map(|it| {
        let volume = it.number;
        let add = VolumeAdd { uuid: it.uuid, name: it.name.to_owned() };
        let add = Body::VolumeAdd { volume, size: it.size, add };
        match it.action {
            Action::Continue => vec![],
            Action::FirstCopy => vec![add],
            // Its size once more: what an earlier one had beyond it does not come back when it grows again.
            Action::Compare | Action::Resume => {
                vec![Body::VolumeRemove { volume }, add, Body::Resize { volume, size: it.size }]
            }
        }
    });
    records.chain(gone).chain(said).for_each(|body| {
        capture.record(body);
    });
}

/// What has to be read of them.
pub fn wanted(volumes: &[Told<'_>], parent: Option<Head>) -> Vec<BaseVolume> {
    let read = volumes.iter().filter(|it| it.action != Action::Continue);
    let wanted = read.map(|it| BaseVolume {
        number: it.number,
        path: it.path.clone(),
        size: it.size,
        known: match it.left {
            // Without an order before this epoch there is nothing to compare with.
            _ if !it.action.compares() || parent.is_none() => Known::Nothing,
            Left::Only(ranges) => Known::AllBut(ranges.as_slice().into()),
            Left::All { .. } => Known::Compare,
        },
        part: None,
    });
    wanted.collect()
}
