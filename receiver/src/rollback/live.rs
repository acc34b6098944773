//! Taking the sources themselves to another point: where to, and whether that can be. Decisions only: no I/O, no clock.
//!
//! | asked | one is not over | then |
//! |---|---|---|
//! | to a point | – | begins, with a mark of the state before |
//! | to a point | yes | goes on there |
//! | undo | – | begins: to the state before the last one |
//! | undo | yes | goes on: to the state before it |
//! | – | yes | goes on |

use std::sync::Arc;

use journal::store::{BEFORE_ROLLBACK, PointInfo, Rollback, Timeline, Version, VolumeInfo, When};
use journal::types::{Micros, Seq, WallTime};
use journal::wire::NoRollback;

use crate::error::{Code, Error, Result};

/// How long the state before is kept, whatever retention says: 30 days.
const LOCKED_FOR: Micros = Micros(30 * 24 * 60 * 60 * 1_000_000);

/// Where the sources are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LiveGoal {
    /// To this point.
    To(PointInfo),
    /// To where they were before the last rollback.
    Undo,
    /// On with what is not over.
    GoOn,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// The point to go to.
    pub point: PointInfo,
    /// One has begun and is not over.
    pub goes_on: bool,
}

/// The table above.
pub fn decide(version: &Arc<Version>, goal: LiveGoal) -> Result<Course> {
    let timeline = version.timeline();
    let goes_on = timeline.unfinished().is_some();
    let point = match goal {
        LiveGoal::To(point) => point,
        LiveGoal::Undo => find(version, before_the_last(timeline)?)?,
        LiveGoal::GoOn => {
            let nothing = || Error::new(Code::FAILED, "no rollback of the sources has begun that is not over");
            find(version, timeline.unfinished().ok_or_else(nothing)?.target)?
        }
    };
    Ok(Course { point, goes_on })
}

/// The state before the last one; nothing if they are there.
fn before_the_last(timeline: &Timeline) -> Result<Seq> {
    let nothing = || Error::new(Code::NOTHING_TO_UNDO, "there is no rollback of the sources to take back");
    let Rollback { target, before, sealed, .. } = timeline.rollbacks().last().copied().ok_or_else(nothing)?;
    before.filter(|before| sealed.is_none() || target != *before).ok_or_else(nothing)
}

fn find(version: &Arc<Version>, seq: Seq) -> Result<PointInfo> {
    version.find(&When::Seq(seq))?.map_err(|_| {
        Error::new(Code::NOT_COVERED, format!("no recovery point is kept at seq:{seq}, where the sources are to go"))
            .hint("go to another one: backspool rollback GROUP --at WHEN --live")
    })
}

/// Whether the volumes of now can become those of then. One that has grown while a rollback was not over keeps what is behind.
pub fn check_volumes(now: &[VolumeInfo], then: &[VolumeInfo], goes_on: bool) -> Result<()> {
    let differ = |what: String| {
        Err(Error::new(Code::VOLUMES_DIFFER, what).hint(
            "restore it to a file; or give the volume that size (truncate -s), start the agent again, and call again",
        ))
    };
    for new in now {
        let Some(old) = then.iter().find(|old| old.uuid == new.uuid) else {
            return differ(format!("{} was not protected yet at that point", new.name));
        };
        let (size, was) = (new.size.bytes(), old.size.bytes());
        if old.number != new.number || size < was || (size > was && !goes_on) {
            return differ(format!(
                "{} has {size} bytes now and had {was} at that point: a source is not made smaller or larger",
                new.name
            ));
        }
    }
    match then.iter().find(|old| now.iter().all(|new| new.uuid != old.uuid)) {
        Some(gone) => differ(format!("{} was protected at that point and is not now", gone.name)),
        None => Ok(()),
    }
}

/// What the state before is called, and until when it is kept. Two within one second have two names.
pub fn mark(now: WallTime) -> (String, WallTime) {
    let time = crate::time::rfc3339(now).to_ascii_lowercase();
    let name: String = time.chars().filter(|letter| !matches!(letter, '-' | ':')).collect();
    (format!("{BEFORE_ROLLBACK}{name}"), WallTime(now.0.saturating_add(LOCKED_FOR.0)))
}

/// What an agent's no means for whoever asked.
pub fn denied(group: &str, reason: NoRollback, why: &str) -> Error {
    let again = format!("call again once backspool status {group} says live");
    match reason {
        NoRollback::NotAllowed => Error::new(Code::NOT_ALLOWED, format!("{group}: {why}"))
            .hint(format!("backspool allow {group} --for 10m, on the source's machine; then call again")),
        NoRollback::Attached => Error::new(Code::ATTACHED, format!("{group}: {why}")).hint(
            "unmount what is mounted and detach them; or --force-attached: then they get nothing but errors, and what they have mounted or \
             cached must not be used again",
        ),
        NoRollback::NotLive => Error::new(Code::NOT_LIVE, format!("{group} cannot go back now: {why}")).hint(again),
        NoRollback::Busy => Error::new(Code::BUSY, format!("{group}: {why}")).hint(again),
        NoRollback::NothingBegun | NoRollback::Senseless => Error::new(Code::FAILED, format!("{group}: {why}")),
        NoRollback::Failed => Error::new(Code::FAILED, format!("{group}: {why}"))
            .hint(format!("what was begun is gone on with by itself: backspool status {group}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::types::{Sectors, VolumeNo, VolumeUuid};

    fn volume(number: u32, sectors: u64) -> VolumeInfo {
        let uuid = VolumeUuid([u8::try_from(number + 1).unwrap(); 16]);
        let size = Sectors::new(sectors).unwrap();
        VolumeInfo { number: VolumeNo(number), uuid, name: format!("v{number}"), size }
    }

    #[test]
    fn volumes_have_to_be_those_of_then() {
        let check = |now: &[(u32, u64)], then: &[(u32, u64)], goes_on: bool, says: Option<&str>| {
            let of = |all: &[(u32, u64)]| all.iter().map(|&(number, size)| volume(number, size)).collect::<Vec<_>>();
            let found = check_volumes(&of(now), &of(then), goes_on).map_err(|error| error.to_string());
            match says {
                None => assert_eq!(found, Ok(())),
                Some(says) => assert!(found.as_ref().is_err_and(|error| error.contains(says)), "{found:?}"),
            }
        };
        check(&[(0, 8), (1, 8)], &[(0, 8), (1, 8)], false, None);
        check(&[(0, 16)], &[(0, 8)], false, Some("has 8192 bytes now and had 4096"));
        check(&[(0, 16)], &[(0, 8)], true, None);
        check(&[(0, 8)], &[(0, 16)], false, Some("not made smaller or larger"));
        check(&[(0, 8)], &[(0, 16)], true, Some("not made smaller or larger"));
        check(&[(0, 8), (1, 8)], &[(0, 8)], false, Some("v1 was not protected yet"));
        check(&[(0, 8)], &[(0, 8), (1, 8)], true, Some("v1 was protected at that point"));
    }

    #[test]
    fn the_state_before_has_a_name_that_says_when() {
        let (name, locked) = mark(WallTime(1_763_630_000_250_000));
        assert_eq!(name, "before-rollback-20251120t091320.250000z");
        assert_eq!(locked.0 - 1_763_630_000_250_000, 30 * 86_400_000_000);
        assert!(journal::wire::is_name(&name));
    }
}
