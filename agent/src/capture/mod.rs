//! What happened, in order: the tap, marks and the agent itself record here, the spooler takes it away.
//!
//! ```text
//!   record ──► current frame ──full──► queue (≤ 40 frames) ──take──► spooler
//!   Seq, time        └─────────── as soon as it is free ─────────────┘
//! ```
//!
//! **Invariant:** records enter the frames in the order of their `Seq`, because both happen under one lock.
//! **Invariant:** once halted, nothing is recorded any more: the gap is the last record.

mod clock;
mod order;
mod ranges;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::codec::{Body, Gap, GapReason, Mark};
use journal::frame::FrameBuilder;
use journal::limits::{NAME_BYTES, NOTE_BYTES, WRITE_SECTORS};
use journal::types::{Extent, Seq, VolumeNo, WallTime};

pub use clock::{Clock, SystemClock, boot_id};
use order::Order;
pub use ranges::{Held, Ranges};

use crate::{Error, Result};

/// Full frames that may wait for the spooler: with their buffers, about 64 MiB.
const QUEUE_FRAMES: usize = 40;
/// Frames the spooler takes at a time: enough for large appends, few enough to free memory steadily.
const TAKE_FRAMES: usize = 8;
/// How long a write may wait for the spooler to free memory. It is as fast as its processor and its disk's cache, so that
/// this long means that it hangs.
const STALL_MAX: Duration = Duration::from_secs(5);

/// Whether what happens is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureState {
    /// It is.
    Running,
    /// It is not any more, and a gap says so; the volume works on without.
    Halted {
        /// Why, for programs.
        reason: GapReason,
        /// Why, for people.
        why: String,
    },
}

/// Where the order goes on.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The last `Seq` before.
    pub last: Option<Seq>,
    /// The time of that record: none will be earlier.
    pub time: WallTime,
}

/// Records in order, in bounded memory.
#[derive(Debug)]
pub struct Capture {
    clock: Arc<dyn Clock>,
    inner: Mutex<Inner>,
    /// There is something to take.
    filled: Condvar,
    /// There is room again.
    taken: Condvar,
}

#[derive(Debug)]
struct Inner {
    order: Order,
    state: CaptureState,
    /// The agent stops.
    closed: bool,
    current: FrameBuilder,
    full: VecDeque<FrameBuilder>,
    /// Empty ones that came back.
    spare: Vec<FrameBuilder>,
    spooler_waits: bool,
}

/// What the spooler gets.
#[derive(Debug)]
pub(crate) enum Taken {
    /// Frames to close, in order.
    Frames(Vec<FrameBuilder>),
    /// Nothing happened for the time it waited.
    Idle,
    /// Nothing is left, and nothing will come.
    Closed,
}

impl Capture {
    /// An empty one.
    pub fn new(start: Start, clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            order: Order::after(start.last, start.time),
            state: CaptureState::Running,
            closed: false,
            current: FrameBuilder::new(),
            full: VecDeque::new(),
            spare: Vec::new(),
            spooler_waits: false,
        };
        Self { clock, inner: Mutex::new(inner), filled: Condvar::new(), taken: Condvar::new() }
    }

    /// Records what was written and is now on the source: of one time, as several records if it is long. Returns the last
    /// one's place, or `None` if capture has ended.
    ///
    /// # Panics
    /// If `data` is not as long as `extent`.
    pub fn record_write(&self, volume: VolumeNo, extent: Extent, data: &[u8]) -> Option<Seq> {
        self.record_writes(volume, [(extent, data)])
    }

    /// As [`record_write`](Self::record_write), several that are all on the source: of one time.
    ///
    /// # Panics
    /// If a `data` is not as long as its extent.
    pub fn record_writes<'a>(
        &self,
        volume: VolumeNo,
        writes: impl IntoIterator<Item = (Extent, &'a [u8])>,
    ) -> Option<Seq> {
        let mut inner = self.room();
        let time = inner.time(&*self.clock)?;
        for (extent, data) in writes {
            assert_eq!(extent.bytes(), crate::source::bytes(data.len()), "{extent}");
            let mut rest = data;
            for part in extent.chunks(WRITE_SECTORS) {
                let (head, tail) = rest.split_at(usize::try_from(part.bytes()).unwrap_or(rest.len()));
                inner.order.next();
                inner.frame().write(time, volume, part, head);
                rest = tail;
            }
        }
        self.wake(&inner);
        inner.order.last()
    }

    /// Records anything but a write. Returns its place, or `None` if capture has ended.
    pub fn record(&self, body: Body) -> Option<Seq> {
        let mut inner = self.room();
        let time = inner.time(&*self.clock)?;
        Some(self.push(&mut inner, time, body))
    }

    /// As [`record`](Self::record), for the spooler: it must not wait for itself.
    pub(crate) fn record_at_once(&self, body: Body) {
        let mut inner = self.lock();
        if let Some(time) = inner.time(&*self.clock) {
            self.push(&mut inner, time, body);
        }
    }

    /// Names this instant: all that was answered before is before it.
    pub fn mark(&self, name: &str, locked_until: Option<WallTime>) -> Result<Seq> {
        if name.is_empty() || name.len() > NAME_BYTES || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!("a mark needs a printable name of 1 to {NAME_BYTES} bytes")));
        }
        let mark = Body::Mark(Mark { locked_until, name: name.to_owned() });
        self.record(mark).ok_or_else(|| Error::unavailable("capture has ended: there is nothing to mark"))
    }

    /// Ends capture: the gap is the last record. The first reason counts.
    pub fn halt(&self, reason: GapReason, why: &str) {
        self.halt_locked(&mut self.lock(), reason, why);
    }

    fn halt_locked(&self, inner: &mut Inner, reason: GapReason, why: &str) {
        let Some(time) = inner.time(&*self.clock) else { return };
        let text = why[..why.floor_char_boundary(NOTE_BYTES / 2)].to_owned();
        self.push(inner, time, Body::Gap(Gap { reason, text }));
        inner.state = CaptureState::Halted { reason, why: why.to_owned() };
        // Who waits for room need not any more.
        self.taken.notify_all();
    }

    /// Ends capture for a clean stop: what was recorded is spooled, nothing more comes.
    pub fn close(&self) {
        self.lock().closed = true;
        self.taken.notify_all();
        self.filled.notify_all();
    }

    /// Whether it records.
    pub fn state(&self) -> CaptureState {
        self.lock().state.clone()
    }

    /// The last place given out.
    pub fn last_seq(&self) -> Option<Seq> {
        self.lock().order.last()
    }

    /// The last place given out, and its time.
    pub fn last(&self) -> (Option<Seq>, WallTime) {
        let inner = self.lock();
        (inner.order.last(), inner.order.last_time())
    }

    /// The clock that records get their times from.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Waits for something to spool, at most for `patience`: full frames, else what there is.
    pub(crate) fn take(&self, patience: Duration) -> Taken {
        let mut inner = self.lock();
        inner.spooler_waits = true;
        let waited = self.filled.wait_timeout_while(inner, patience, |inner| inner.is_empty() && !inner.closed);
        inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        inner.spooler_waits = false;
        if inner.is_empty() {
            return if inner.closed { Taken::Closed } else { Taken::Idle };
        }
        let count = inner.full.len().min(TAKE_FRAMES);
        let mut frames: Vec<_> = inner.full.drain(..count).collect();
        if frames.is_empty() {
            frames.push(inner.swap());
        }
        self.taken.notify_all();
        Taken::Frames(frames)
    }

    /// Gives an emptied frame back for use.
    pub(crate) fn give_back(&self, frame: FrameBuilder) {
        let mut inner = self.lock();
        if inner.spare.len() < TAKE_FRAMES {
            inner.spare.push(frame);
        }
    }

    /// The lock, once there is room for a request, which may be 32 MiB long; or capture has ended.
    fn room(&self) -> MutexGuard<'_, Inner> {
        let is_crowded = |inner: &mut Inner| inner.full.len() >= QUEUE_FRAMES && inner.is_recording();
        let waited = self.taken.wait_timeout_while(self.lock(), STALL_MAX, is_crowded);
        let (mut inner, wait) = waited.unwrap_or_else(PoisonError::into_inner);
        if wait.timed_out() {
            let why = format!("the spool took nothing for {} s", STALL_MAX.as_secs());
            self.halt_locked(&mut inner, GapReason::SpoolFull, &why);
        }
        inner
    }

    fn push(&self, inner: &mut Inner, time: WallTime, body: Body) -> Seq {
        let seq = inner.order.next();
        inner.frame().push(time, body);
        self.wake(inner);
        seq
    }

    /// A notification is a system call: only for a spooler that sleeps.
    fn wake(&self, inner: &Inner) {
        if inner.spooler_waits {
            self.filled.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The time of a record made now; `None` if none may be made.
    fn time(&mut self, clock: &dyn Clock) -> Option<WallTime> {
        self.is_recording().then(|| self.order.time(clock.wall()))
    }

    fn is_recording(&self) -> bool {
        self.state == CaptureState::Running && !self.closed
    }

    /// A frame with room for a record.
    fn frame(&mut self) -> &mut FrameBuilder {
        if self.current.is_full() {
            let full = self.swap();
            self.full.push_back(full);
        }
        &mut self.current
    }

    fn swap(&mut self) -> FrameBuilder {
        let empty = self.spare.pop().unwrap_or_else(|| self.current.sibling());
        std::mem::replace(&mut self.current, empty)
    }

    fn is_empty(&self) -> bool {
        self.full.is_empty() && self.current.is_empty()
    }
}
