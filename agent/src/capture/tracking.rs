//! What happens while nothing can be recorded: which blocks change is noted, until it can be gone on.
//!
//! ```text
//!             full, lost                      taken as a whole
//!   Running ─────────────▶ Tracking ────────────────────────────▶ Running
//!      │  ▲  full, to block    ▲     resume: what is read as of now, or later, and what is recorded from now on
//!      ▼  │ room               │     are all there is to know
//!   Blocked ───── end_waiting ─┘
//! ```

use std::sync::atomic::Ordering;

use journal::codec::{Body, Gap, GapReason};
use journal::failpoint::{self, Step};
use journal::limits::NOTE_BYTES;
use journal::types::{Extent, Micros, Seq, VolumeNo};

use super::{Capture, CaptureState, Cover, DirtyMap, Inner, WhenFull};

/// What changed while nothing was recorded.
#[derive(Debug)]
pub struct Lost {
    /// The blocks.
    pub dirty: std::collections::BTreeMap<VolumeNo, DirtyMap>,
    /// The last place given out before it was gone on. Everything up to there, and nothing of what is dirty, is recorded.
    pub at: Option<Seq>,
}

impl Capture {
    /// From now on changes are only tracked, and a gap is open. The first reason counts.
    pub fn track(&self, reason: GapReason, why: &str) {
        self.track_locked(&mut self.lock(), reason, why);
    }

    /// What changed in `extent` cannot be known: it is tracked, as all is from now on.
    pub fn lose(&self, volume: VolumeNo, extent: Extent, reason: GapReason, why: &str) {
        let mut inner = self.lock();
        self.track_locked(&mut inner, reason, why);
        inner.lose(volume, extent);
    }

    /// The spool is full: changes wait or are tracked, as was agreed.
    pub(crate) fn spool_is_full(&self, why: &str) {
        let mut inner = self.lock();
        match inner.when_full {
            WhenFull::Track => self.track_locked(&mut inner, GapReason::SpoolFull, why),
            WhenFull::BlockWrites if inner.state == CaptureState::Running => {
                tracing::warn!(why, "writes wait for room in the spool");
                inner.state = CaptureState::Blocked { why: why.to_owned() };
                self.pressed.store(true, Ordering::Release);
            }
            WhenFull::BlockWrites => {}
        }
    }

    /// The spool has room: who waits need not any more.
    pub(crate) fn spool_has_room(&self) {
        if !self.pressed.load(Ordering::Acquire) {
            return;
        }
        let mut inner = self.lock();
        if matches!(inner.state, CaptureState::Blocked { .. }) {
            tracing::info!("the spool has room: writes go on");
            inner.state = CaptureState::Running;
            self.pressed.store(false, Ordering::Release);
            self.taken.notify_all();
        }
    }

    /// Nobody may wait any more, for room or for a receiver: whoever does, or would, is tracked or told so.
    pub fn end_waiting(&self) {
        let mut inner = self.lock();
        inner.when_full = WhenFull::Track;
        if let CaptureState::Blocked { why } = &inner.state {
            let why = why.clone();
            self.track_locked(&mut inner, GapReason::SpoolFull, &why);
        }
        drop(inner);
        self.acks.end();
    }

    /// Records again. What was dirty up to now is the caller's to read; `None` if nothing was tracked.
    pub fn resume(&self) -> Option<Lost> {
        let mut inner = self.lock();
        if inner.closed || !matches!(inner.state, CaptureState::Tracking { .. }) {
            return None;
        }
        inner.state = CaptureState::Running;
        self.pressed.store(false, Ordering::Release);
        Some(Lost { dirty: std::mem::take(&mut inner.dirty), at: inner.order.last() })
    }

    /// As [`resume`](Self::resume), but another capture goes on in its place. Nothing may change meanwhile.
    pub fn hand_over(&self) -> Lost {
        let mut inner = self.lock();
        Lost { dirty: std::mem::take(&mut inner.dirty), at: inner.order.last() }
    }

    /// Whether changes are only tracked.
    pub fn is_tracking(&self) -> bool {
        self.pressed.load(Ordering::Acquire) && matches!(self.lock().state, CaptureState::Tracking { .. })
    }

    /// Bytes that are dirty.
    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.lock().dirty.values().map(DirtyMap::bytes).sum()
    }

    /// For how long there have been no points.
    pub(crate) fn gap_age(&self) -> Option<Micros> {
        let inner = self.lock();
        let since = inner.gap_since.into_iter().chain(inner.rolling_since).min();
        drop(inner);
        since.map(|since| self.clock.boottime().since(since))
    }

    /// A receiver has all up to `seq` durably.
    pub(crate) fn acked(&self, seq: Seq) {
        self.acks.advance(seq);
        if self.pressed.load(Ordering::Acquire) {
            let mut inner = self.lock();
            inner.nudged = true;
            self.notify(&inner);
        }
    }

    /// Waits until a receiver has `seq` durably, if that was agreed, and no longer than was. `None`: it was not recorded.
    pub fn confirm(&self, seq: Option<Seq>) {
        if self.acks.are_wanted() {
            self.acks.wait(seq, || self.last_seq());
        }
    }

    /// Why flushes do not wait for a receiver although they should.
    pub(crate) fn unconfirmed(&self) -> Option<String> {
        let lacking = || {
            let cover = self.lock().cover;
            let lacks = self.acks.are_wanted() && !self.acks.suffice(cover);
            lacks.then(|| "not all that was written before is there yet: the sources are being read".to_owned())
        };
        self.acks.fallen().or_else(lacking)
    }

    /// What is on the sources is not in the order until a base of them is sealed.
    pub(crate) fn lacks_base(&self) {
        self.lock().cover = Cover::Lacking;
    }

    pub(super) fn track_locked(&self, inner: &mut Inner, reason: GapReason, why: &str) {
        let Some(time) = inner.time(&*self.clock) else { return };
        tracing::warn!(why, "changes are tracked only, and a gap opens");
        // Within a gap another one says nothing.
        if inner.gap_since.is_none() {
            let text = why[..why.floor_char_boundary(NOTE_BYTES / 2)].to_owned();
            inner.push(&*self.clock, time, Body::Gap(Gap { reason, text }));
            failpoint::passed(Step::GapRecorded);
            self.wake(inner);
        }
        inner.state = CaptureState::Tracking { reason, why: why.to_owned() };
        failpoint::passed(Step::Tracking);
        self.pressed.store(true, Ordering::Release);
        // Who waits for room need not any more.
        self.taken.notify_all();
    }
}

impl Inner {
    /// What changed here is not recorded. After a clean stop nobody changes anything.
    pub(super) fn lose(&mut self, volume: VolumeNo, extent: Extent) {
        if matches!(self.state, CaptureState::Tracking { .. }) {
            self.dirty.entry(volume).or_default().mark(extent);
            failpoint::passed(Step::ChangeTracked);
        }
    }

    /// What this record would have changed.
    pub(super) fn lose_all(&mut self, body: &Body) {
        if let Body::Write { volume, extent, .. }
        | Body::Pattern { volume, extent, .. }
        | Body::Discard { volume, extent } = body
        {
            self.lose(*volume, *extent);
        }
    }
}
