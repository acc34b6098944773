//! What happened, in order: the tap, marks and the agent itself record here, the spooler takes it away.
//!
//! ```text
//!   record ──► current frame ──full──► queue (≤ 40 frames) ──take──► spooler
//!   Seq, time        └─────────── as soon as it is free ─────────────┘
//!      └ while nothing can be recorded ──► dirty map ──taken as a whole──► base
//! ```
//!
//! **Invariant:** records enter the frames in the order of their `Seq`, because both happen under one lock.
//! **Invariant:** under that lock it is also decided whether a change is recorded or marked dirty: none is in neither.
//! **Invariant:** nothing is recorded while dirty blocks are tracked, and a gap is open then.

mod acks;
mod clock;
mod order;
mod ranges;
#[cfg(test)]
mod tests;
mod tracking;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use journal::codec::{Body, GapReason, Mark};
use journal::frame::FrameBuilder;
use journal::limits::{NAME_BYTES, WRITE_SECTORS};
use journal::types::{Extent, Seq, VolumeNo, WallTime};

use acks::{Acks, Cover};
pub use clock::{Clock, SystemClock, boot_id};
use order::Order;
pub use ranges::{Held, Ranges};
pub use tracking::Lost;

use crate::dirty::DirtyMap;
use crate::{Error, Result};

/// Full frames that may wait for the spooler: with their buffers, about 64 MiB.
const QUEUE_FRAMES: usize = 40;
/// Frames the spooler takes at a time: enough for large appends, few enough to free memory steadily.
const TAKE_FRAMES: usize = 8;
/// How long a write may wait for the spooler to free memory. It is as fast as its processor and its disk's cache, so that
/// this long means that it hangs.
const STALL_MAX: Duration = Duration::from_secs(5);
/// How long a flush by itself waits for what comes next, where flushes wait for a receiver.
const LINGERS: Duration = Duration::from_millis(2);

/// Whether what happens is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaptureState {
    /// It is.
    Running,
    /// It is, as soon as the spool has room: whoever changes something waits for that.
    Blocked {
        /// Why, for people.
        why: String,
    },
    /// Only which blocks change is noted, and a gap is open; the volume works on.
    Tracking {
        /// Why, for programs.
        reason: GapReason,
        /// Why, for people.
        why: String,
    },
}

/// What becomes of changes while the spool is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// They are tracked, and a gap opens.
    #[default]
    Track,
    /// They wait.
    BlockWrites,
}

/// What capture may ask of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// When the spool is full.
    pub when_full: WhenFull,
    /// How long a flush waits until a receiver holds all before it durably; `None`: not at all.
    pub flush_wait: Option<Duration>,
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
    /// Nothing more is recorded until there is room: whoever makes some says so to the spooler.
    pressed: AtomicBool,
    acks: Acks,
}

#[derive(Debug)]
struct Inner {
    order: Order,
    state: CaptureState,
    when_full: WhenFull,
    /// The agent stops.
    closed: bool,
    /// Since when there are no points, by the clock that nobody sets.
    gap_since: Option<WallTime>,
    /// Since when the sources are being taken back to another point.
    rolling_since: Option<WallTime>,
    /// What a flush may wait for.
    cover: Cover,
    /// What changed while nothing was recorded.
    dirty: BTreeMap<VolumeNo, DirtyMap>,
    current: FrameBuilder,
    full: VecDeque<FrameBuilder>,
    /// Empty ones that came back.
    spare: Vec<FrameBuilder>,
    spooler_waits: bool,
    /// The spooler is to look for room.
    nudged: bool,
    /// There is but a flush, which may wait for what comes next.
    lingers: bool,
}

/// What the spooler gets.
#[derive(Debug)]
pub enum Taken {
    /// Frames to close, in order.
    Frames(Vec<FrameBuilder>),
    /// Nothing happened for the time it waited.
    Idle,
    /// Nothing is there, but there may be room now.
    Nudged,
    /// Nothing is left, and nothing will come.
    Closed,
}

impl Capture {
    /// An empty one.
    pub fn new(start: Start, clock: Arc<dyn Clock>, terms: Terms) -> Self {
        let inner = Inner {
            order: Order::after(start.last, start.time),
            state: CaptureState::Running,
            when_full: terms.when_full,
            closed: false,
            gap_since: None,
            rolling_since: None,
            cover: Cover::Whole,
            dirty: BTreeMap::new(),
            current: FrameBuilder::new(),
            full: VecDeque::new(),
            spare: Vec::new(),
            spooler_waits: false,
            nudged: false,
            lingers: false,
        };
        Self {
            clock,
            inner: Mutex::new(inner),
            filled: Condvar::new(),
            taken: Condvar::new(),
            pressed: AtomicBool::new(false),
            acks: Acks::new(start.last, terms.flush_wait),
        }
    }

    /// Records what was written and is now on the source: of one time, as several records if it is long. Returns the last
    /// one's place, or `None` if it was only marked dirty, or all is over.
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
        let Some(time) = inner.time(&*self.clock) else {
            writes.into_iter().for_each(|(extent, _)| inner.lose(volume, extent));
            return None;
        };
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
        self.wake(&mut inner);
        inner.order.last()
    }

    /// Records that the source was flushed, and waits for a receiver, if that was agreed: for what was recorded up to `before`, which
    /// is all that was answered before the flush came. The record itself need not be there: nothing was written by it. While something
    /// that was answered is not in the order, no record's being there would say that all is: it waits for none.
    pub fn flushed(&self, before: Option<Seq>) {
        if !self.acks.are_wanted() {
            self.record(Body::Flush);
            return;
        }
        let mut inner = self.room();
        let is_alone = inner.is_empty();
        let recorded = inner.time(&*self.clock).map(|time| inner.push(&*self.clock, time, Body::Flush));
        if recorded.is_some() && is_alone {
            // By itself it would cost the receiver an fdatasync, for which the next write would wait.
            inner.lingers = true;
            self.notify(&inner);
        }
        let cover = inner.cover;
        drop(inner);
        if self.acks.suffice(cover) {
            self.confirm(recorded.and(before));
        }
    }

    /// Records anything but a write. Returns its place, or `None` if it was only marked dirty, or all is over.
    pub fn record(&self, body: Body) -> Option<Seq> {
        self.push(self.room(), body)
    }

    /// As [`record`](Self::record), for the agent itself: the spooler must not wait for itself, nor may whoever holds what
    /// makes room.
    pub fn record_at_once(&self, body: Body) -> Option<Seq> {
        self.push(self.lock(), body)
    }

    /// Names this instant: all that was answered before is before it. `Ok(None)`: a gap is open, or the sources are being taken back, so
    /// that no instant is a point now.
    pub fn mark(&self, name: &str, locked_until: Option<WallTime>) -> Result<Option<Seq>> {
        if name.is_empty() || name.len() > NAME_BYTES || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!("a mark needs a printable name of 1 to {NAME_BYTES} bytes")));
        }
        let mark = Body::Mark(Mark { locked_until, name: name.to_owned() });
        let inner = self.lock();
        if inner.gap_since.or(inner.rolling_since).is_some() {
            return Ok(None);
        }
        self.push(inner, mark).map(Some).ok_or_else(|| Error::unavailable("the agent is stopping"))
    }

    /// As [`record_at_once`](Self::record_at_once), unless a gap is open.
    pub fn record_if_whole(&self, body: Body) -> Option<Seq> {
        let inner = self.lock();
        if inner.gap_since.is_some() { None } else { self.push(inner, body) }
    }

    /// Whether a gap is open.
    pub fn has_gap(&self) -> bool {
        self.lock().gap_since.is_some()
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
        let waited =
            self.filled.wait_timeout_while(inner, patience, |inner| inner.is_empty() && !inner.closed && !inner.nudged);
        inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        let waited =
            self.filled.wait_timeout_while(inner, LINGERS, |inner| inner.lingers && !inner.closed && !inner.nudged);
        inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        inner.spooler_waits = false;
        self.take_locked(&mut inner).unwrap_or(Taken::Idle)
    }

    /// What there is to spool now: full frames, else what there is; `None`: nothing.
    pub(crate) fn take_now(&self) -> Option<Taken> {
        self.take_locked(&mut self.lock())
    }

    fn take_locked(&self, inner: &mut Inner) -> Option<Taken> {
        let nudged = std::mem::take(&mut inner.nudged);
        inner.lingers = false;
        if inner.is_empty() {
            return match (inner.closed, nudged) {
                (true, _) => Some(Taken::Closed),
                (false, true) => Some(Taken::Nudged),
                (false, false) => None,
            };
        }
        let count = inner.full.len().min(TAKE_FRAMES);
        let mut frames: Vec<_> = inner.full.drain(..count).collect();
        if frames.is_empty() {
            frames.push(inner.swap());
        }
        self.taken.notify_all();
        Some(Taken::Frames(frames))
    }

    /// Gives an emptied frame back for use.
    pub(crate) fn give_back(&self, frame: FrameBuilder) {
        let mut inner = self.lock();
        if inner.spare.len() < TAKE_FRAMES {
            inner.spare.push(frame);
        }
    }

    /// The lock, once there is room for a request, which may be 32 MiB long; or nothing is recorded.
    fn room(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.lock();
        while inner.must_wait() {
            let waited = self.taken.wait_timeout_while(inner, STALL_MAX, |inner| inner.must_wait());
            let (mut woken, wait) = waited.unwrap_or_else(PoisonError::into_inner);
            if wait.timed_out() && woken.when_full == WhenFull::Track {
                let why = format!("the spool took nothing for {} s", STALL_MAX.as_secs());
                self.track_locked(&mut woken, GapReason::SpoolFull, &why);
            }
            inner = woken;
        }
        inner
    }

    fn push(&self, mut inner: MutexGuard<'_, Inner>, body: Body) -> Option<Seq> {
        let Some(time) = inner.time(&*self.clock) else {
            inner.lose_all(&body);
            return None;
        };
        let seq = inner.push(&*self.clock, time, body);
        self.wake(&mut inner);
        Some(seq)
    }

    /// There is something to spool at once.
    fn wake(&self, inner: &mut Inner) {
        inner.lingers = false;
        self.notify(inner);
    }

    /// A notification is a system call: only for a spooler that sleeps.
    fn notify(&self, inner: &Inner) {
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
        !self.closed && !matches!(self.state, CaptureState::Tracking { .. })
    }

    fn must_wait(&self) -> bool {
        let is_blocked = matches!(self.state, CaptureState::Blocked { .. });
        (is_blocked || self.full.len() >= QUEUE_FRAMES) && self.is_recording()
    }

    fn push(&mut self, clock: &dyn Clock, time: WallTime, body: Body) -> Seq {
        match &body {
            Body::Gap(_) => {
                self.gap_since.get_or_insert_with(|| clock.boottime());
                self.cover = Cover::Lacking;
            }
            Body::Sealed(_) => {
                self.gap_since = None;
                self.cover = Cover::WholeFrom(Seq::following(self.order.last()));
            }
            Body::RollbackBegin { .. } => _ = self.rolling_since.get_or_insert_with(|| clock.boottime()),
            Body::RollbackSealed { .. } => self.rolling_since = None,
            _ => {}
        }
        self.frame().push(time, body);
        self.order.next()
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
