//! The way back up: when a group that only tracks what changes records again, and what is to be read then.
//!
//! | base | recorded again when |
//! |---|---|
//! | sealed | half of the spool is free, or the receiver has all of it |
//! | not sealed | the receiver has all of it, and all that was read so far |
//!
//! Half a spool: room for as much again before the next gap, so that resyncs come no more often than half spools are sent. While a base
//! is not sealed there are no points anyway: it is let come as far as it can, for with each round less is left to read again.

use std::collections::BTreeMap;
use std::sync::Arc;

use journal::codec::{Gap, GapReason};
use journal::disk::RESERVE_BYTES;
use journal::types::{Head, VolumeNo};
use rustix::fs::statvfs;

use super::begin::Subject;
use super::group::{Group, Run, Stage};
use crate::Result;
use crate::base::{BaseVolume, Known};
use crate::capture::{CaptureState, Lost};
use crate::dirty::DirtyMap;
use crate::source::Storage;
use crate::spool::give_up;
use crate::state::Action;

/// Free bytes beneath a spool that could not be written, before it is tried again.
const ROOM_BYTES: u64 = 16 << 20;

impl Group {
    /// Records again, if that is possible now.
    pub(super) fn climb(&self) -> Result<()> {
        if !self.read().capture.is_tracking() {
            return Ok(());
        }
        let durable = self.link.borrow().durable;
        let old = {
            let run = &mut *self.write();
            let last = run.capture.last_seq();
            let drained = durable.map(|head| head.seq) >= last;
            let condition = run.spool.as_ref().map(|spool| {
                let bytes = spool.status().bytes;
                (spool.broken().is_some(), spool.has_no_room().is_some(), bytes)
            });
            match condition {
                // Others have the disk: what the spool has would not be enough.
                Some((false, true, bytes)) if !drained || !self.would_have_room(bytes) => return Ok(()),
                Some((false, false, bytes)) => {
                    let room = bytes <= self.spool_limit_bytes / 2;
                    let ready = match &run.stage {
                        Stage::Sealed => room || drained,
                        Stage::Wanted(_) => false,
                        Stage::Sending(base, _) => drained && base.whole().is_some(),
                    };
                    return if ready { self.go_on(run) } else { Ok(()) };
                }
                _ if !drained => return Ok(()),
                // It can neither be written nor is anything in it wanted: what it takes may be what is missing.
                _ => run.spool.take().map(|spool| (spool, self.state().spool_dir())),
            }
        };
        if let Some((spool, dir)) = old {
            drop(spool);
            give_up(&dir, link::random)?;
        }
        self.reserve.tend()?;
        match durable {
            Some(head) if self.has_room()? => self.respool(head),
            _ => Ok(()),
        }
    }

    /// Recorded again in the same epoch.
    fn go_on(&self, run: &mut Run) -> Result<()> {
        // From here on all is recorded; what changed before is read after this.
        let Some(lost) = run.capture.resume() else { return Ok(()) };
        run.compared_with = lost.at;
        match &mut run.stage {
            Stage::Sending(base, volumes) => {
                let parts = self.parts(lost, Known::Unknown);
                tracing::info!(
                    group = self.name,
                    "changes are recorded again; the resync goes on with what changed meanwhile"
                );
                volumes.extend(parts.iter().cloned());
                base.add(parts);
            }
            stage => {
                let parts = self.parts(lost, Known::Compare);
                tracing::info!(group = self.name, "changes are recorded again; what changed meanwhile is read");
                *stage = Stage::Wanted(parts);
                self.base_changed.notify_one();
            }
        }
        Ok(())
    }

    /// What is to be read of what was lost.
    fn parts(&self, lost: Lost, known: Known) -> Vec<BaseVolume> {
        let parts = lost.dirty.into_iter().filter_map(|(number, dirty)| {
            let volume = self.volumes.iter().find(|volume| volume.number == number)?;
            let (path, size) = (volume.source.handle_path(), volume.source.size());
            Some(BaseVolume { number, path, size, known: known.clone(), part: Some(Arc::new(dirty)) })
        });
        parts.collect()
    }

    /// Whether there would be room for a spool if this one, with so many bytes, were gone.
    fn would_have_room(&self, bytes: u64) -> bool {
        let free = self.reserve.free_bytes().unwrap_or(0);
        free.saturating_add(bytes) >= ROOM_BYTES.min(self.spool_limit_bytes) + RESERVE_BYTES / 2
    }

    /// Whether it makes sense to write a spool there again.
    fn has_room(&self) -> Result<bool> {
        let dir = self.state().spool_dir();
        let found = statvfs(dir.parent().unwrap_or(&dir)).map_err(crate::Error::from)?;
        Ok(self.reserve.has_room_for(0)
            && found.f_bavail.saturating_mul(found.f_frsize) >= ROOM_BYTES.min(self.spool_limit_bytes))
    }

    /// Begins a run with an empty spool where the receiver is, for the old one cannot be written any more. What changed meanwhile is
    /// known all the same.
    fn respool(&self, parent: Head) -> Result<()> {
        let subjects: Vec<Subject<'_>> =
            self.volumes.iter().map(|volume| Subject::of(volume, Action::Continue)).collect();
        let text = "the spool could not be written";
        let gap = Gap { reason: GapReason::SpoolFull, text: text.to_owned() };
        self.replace(Some(parent), &subjects, &gap, |old, new| {
            let lost = self.parts(old.capture.hand_over(), Known::Compare);
            let before = match std::mem::replace(&mut old.stage, Stage::Sealed) {
                Stage::Sealed => Vec::new(),
                Stage::Wanted(volumes) | Stage::Sending(_, volumes) => volumes,
            };
            new.stage = Stage::Wanted(again(before.into_iter().chain(lost).collect()));
        })?;
        tracing::info!(group = self.name, "the spool can be written again; what changed meanwhile is read");
        Ok(())
    }

    /// Whether changes are recorded.
    pub(crate) fn is_recording(&self) -> bool {
        !matches!(self.read().capture.state(), CaptureState::Tracking { .. })
    }

    /// Whether flushes wait for a receiver now.
    pub(crate) fn flushes_wait(&self) -> bool {
        self.terms.flush_wait.is_some() && self.read().capture.unconfirmed().is_none()
    }

    /// Nobody waits for room or for a receiver any more.
    pub(super) fn end_waiting(&self) {
        self.read().capture.end_waiting();
    }
}

/// All of it once more: each volume once. What was read unasked, or was missed meanwhile, has to be compared.
pub(super) fn again(volumes: Vec<BaseVolume>) -> Vec<BaseVolume> {
    let mut all: BTreeMap<VolumeNo, BaseVolume> = BTreeMap::new();
    for volume in volumes {
        match all.get_mut(&volume.number) {
            None => _ = all.insert(volume.number, volume),
            Some(known) => {
                known.part = match (known.looked_at(), volume.looked_at()) {
                    (Some(one), Some(other)) => {
                        let mut both = DirtyMap::clone(&one);
                        both.merge(&other);
                        Some(Arc::new(both))
                    }
                    _ => None,
                };
                known.known = Known::Compare;
            }
        }
    }
    let compared = |mut volume: BaseVolume| {
        if volume.known == Known::Unknown {
            volume.known = Known::Compare;
        }
        volume
    };
    all.into_values().map(compared).collect()
}

#[cfg(test)]
mod tests {
    use journal::types::{Extent, Sectors};

    use super::*;

    fn volume(number: u32, known: Known, part: Option<&[u64]>) -> BaseVolume {
        let dirty = |blocks: &[u64]| {
            let mut map = DirtyMap::default();
            blocks.iter().for_each(|block| map.mark(Extent::of_bytes(block * 4096, 4096).unwrap()));
            Arc::new(map)
        };
        let (number, size) = (VolumeNo(number), Sectors::of_bytes(1 << 30).unwrap());
        BaseVolume { number, path: "/x".into(), size, known, part: part.map(dirty) }
    }

    /// Number, what is known, and how many bytes of it.
    fn shape(volumes: Vec<BaseVolume>) -> Vec<(u32, Known, u64)> {
        again(volumes).iter().map(|volume| (volume.number.0, volume.known.clone(), volume.to_read_bytes())).collect()
    }

    #[test]
    fn what_starts_over_is_read_once_and_compared_if_anything_was_missed() {
        let whole = 1 << 30;
        assert_eq!(shape(vec![volume(1, Known::Nothing, None)]), [(1, Known::Nothing, whole)]);
        let missed = vec![volume(1, Known::Nothing, None), volume(1, Known::Unknown, Some(&[1, 2]))];
        assert_eq!(shape(missed), [(1, Known::Compare, whole)]);
        let parts = vec![
            volume(1, Known::Compare, Some(&[1, 2])),
            volume(0, Known::Unknown, Some(&[7])),
            volume(1, Known::Unknown, Some(&[2, 3])),
        ];
        assert_eq!(shape(parts), [(0, Known::Compare, 4096), (1, Known::Compare, 3 * 4096)]);
    }
}
