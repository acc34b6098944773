//! Carries out what `rungs` decides: a group that only tracks what changes records again.

use std::path::PathBuf;

use journal::codec::{Gap, GapReason};
use journal::disk::RESERVE_BYTES;
use journal::failpoint::{self, Step};
use journal::types::{Head, Sectors, VolumeNo};
use rustix::fs::statvfs;

use super::begin::Subject;
use super::crash::Verdicts;
use super::group::{Group, Run, Stage};
use super::rungs::{Climb, Rung, Stage as Base, again, parts, rung};
use crate::Result;
use crate::base::{BaseVolume, Known};
use crate::capture::{CaptureState, Lost};
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
            let stage = match &run.stage {
                Stage::Sealed => Base::Sealed,
                Stage::Wanted(_) => Base::Wanted,
                Stage::Sending(base, _) => Base::Sending { is_there: base.whole().is_some() },
            };
            let written = run.spool.as_ref().filter(|spool| spool.broken().is_none());
            let full = written.filter(|spool| spool.has_no_room().is_some()).map(|spool| spool.status().bytes);
            if full.is_some_and(|bytes| !self.would_have_room(bytes)) {
                // Others have the disk: without what the spool has there would not be enough either.
                return Ok(());
            }
            let spool = written.filter(|_| full.is_none()).map(|spool| spool.status().bytes);
            let is_drained = durable.map(|head| head.seq) >= run.capture.last_seq();
            match rung(Climb { stage, spool_bytes: spool, limit_bytes: self.spool_limit_bytes, is_drained }) {
                Rung::Stay => return Ok(()),
                Rung::Record => return self.go_on(run),
                // What it takes may be what is missing.
                Rung::Respool => run.spool.take().map(|spool| (spool, self.state().spool_dir())),
            }
        };
        if let Some((spool, dir)) = old {
            drop(spool);
            give_up(&dir, link::random)?;
            failpoint::passed(Step::SpoolGivenUp);
        }
        self.reserve.tend()?;
        match durable {
            Some(head) if self.has_room()? => self.respool(head),
            _ => Ok(()),
        }
    }

    /// Recorded again in the same epoch.
    fn go_on(&self, run: &mut Run) -> Result<()> {
        failpoint::passed(Step::Room);
        // From here on all is recorded; what changed before is read after this.
        let Some(lost) = run.capture.resume() else { return Ok(()) };
        failpoint::passed(Step::MapTaken);
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
                failpoint::passed(Step::ResyncExtended);
            }
            stage => {
                let parts = self.parts(lost, Known::Compare);
                tracing::info!(group = self.name, "changes are recorded again; what changed meanwhile is read");
                *stage = Stage::Wanted(parts);
                failpoint::passed(Step::ResyncWanted);
                self.base_changed.notify_one();
            }
        }
        Ok(())
    }

    /// What is to be read of what was lost.
    fn parts(&self, lost: Lost, known: Known) -> Vec<BaseVolume> {
        parts(lost, &known, |number| self.place_of(number))
    }

    /// Where a volume is, and its size.
    fn place_of(&self, number: VolumeNo) -> Option<(PathBuf, Sectors)> {
        let volume = self.volumes.iter().find(|volume| volume.number == number)?;
        Some((volume.source.handle_path(), volume.source.size()))
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
        self.replace(Some(parent), subjects, gap, &Verdicts::new(), |old, new| {
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
