//! What a run begins with: where its order goes on, what is said of its volumes, what of them has to be read. Decisions only.

use std::path::PathBuf;

use journal::codec::{Body, Gap, VolumeAdd};
use journal::types::{Head, Sectors, VolumeNo, VolumeUuid};

use crate::base::{BaseVolume, Known};
use crate::capture::Capture;
use crate::hot::Left;
use crate::state::{Action, GroupState};

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
            Action::Compare => {
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
            _ if it.action != Action::Compare || parent.is_none() => Known::Nothing,
            Left::Only(ranges) => Known::AllBut(ranges.as_slice().into()),
            Left::All { .. } => Known::Compare,
        },
        part: None,
    });
    wanted.collect()
}
