//! Turns records into frames: closes them, chains them, appends them to the spool, and lets the sender know; and decides whether there is
//! room for more. Without a thread, a sleep or a clock of its own: who steps it has those.

use std::fmt;
use std::sync::Arc;

use journal::codec::{Body, ClockKind, FrameKind, GapReason};
use journal::failpoint::{self, Step};
use journal::frame::{Frame, FrameBuilder, FrameSeal};
use journal::log::Head;
use journal::types::{BootId, ChainHead, EpochId, FrameNo, GroupId, Seq, SessionId};

use super::adaptive::Adaptive;
use super::{Shared, say_passed};
use crate::Result;
use crate::capture::{Capture, Taken};

/// The wall clock was set if it moved so many microseconds against the boot clock from one frame to the next: slewing does not.
const STEP: u64 = 500_000;

/// The owner of a spool's log, as long as its run goes on.
pub struct Spooler {
    pub(super) capture: Arc<Capture>,
    pub(super) shared: Arc<Shared>,
    pub(super) chain: Chain,
    pub(super) adaptive: Adaptive,
    pub(super) limit_bytes: u64,
    /// It may: no flush waits for what it does.
    pub(super) rests: bool,
    /// Called after frames became available.
    pub(super) on_new: Box<dyn Fn() + Send>,
}

/// Where the group's chain of frames stands, and what each frame says of its origin.
#[derive(Debug)]
pub(super) struct Chain {
    group: GroupId,
    epoch: EpochId,
    boot: BootId,
    /// Number and chain head of the last frame, and its last record.
    frame: Option<FrameNo>,
    prev: ChainHead,
    last: Option<Seq>,
    /// Wall time ahead of boot time, at the last frame.
    ahead: Option<i128>,
}

/// How it goes on after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// With what comes next.
    Take,
    /// After a moment. A single write leaves at once; of thousands in a second, some leave together: closing a frame for each
    /// would take the processor from whoever writes.
    Rest,
    /// Not at all: capture is closed, and all of it is spooled.
    End,
}

impl Spooler {
    /// What there is to deal with now; `None`: nothing. A step with [`Taken::Idle`] is for who has waited for a while.
    pub fn take_now(&self) -> Option<Taken> {
        self.capture.take_now()
    }

    /// Deals with what was taken.
    pub fn step(&mut self, taken: Taken) -> Then {
        match taken {
            Taken::Frames(builders) => {
                let was_full = builders.iter().all(FrameBuilder::is_full);
                self.spool(builders);
                return if self.rests && !was_full { Then::Rest } else { Then::Take };
            }
            Taken::Idle => {
                self.capture.record_at_once(Body::Clock(ClockKind::Report));
                self.look_for_room();
            }
            Taken::Nudged => self.look_for_room(),
            Taken::Closed => return Then::End,
        }
        Then::Take
    }

    fn spool(&mut self, builders: Vec<FrameBuilder>) {
        let frames: Vec<Frame> = builders
            .into_iter()
            .map(|mut builder| {
                let frame = self.close(&mut builder);
                self.capture.give_back(builder);
                frame
            })
            .collect();
        if let Err(error) = self.append(&frames) {
            tracing::error!(?error, "the spool cannot be written");
            self.capture.track(GapReason::SpoolFull, &format!("the spool cannot be written: {error}"));
        }
        self.shared.publish(frames);
        (self.on_new)();
        self.look_for_room();
    }

    /// Drops what a receiver has; what may still be captured follows from what is left.
    fn look_for_room(&self) {
        self.shared.drop_durable();
        let (bytes, closed) = {
            let log = self.shared.log();
            (log.bytes(), log.closed().map(str::to_owned))
        };
        if let Some(why) = closed {
            // Also when it was a drop that failed: what the log lacks stays in memory, and so nothing more may be recorded.
            if !self.capture.is_tracking() {
                tracing::error!(why, "the spool cannot be written");
                self.capture.track(GapReason::SpoolFull, &format!("the spool cannot be written: {why}"));
            }
        } else if let Some(why) = self.shared.has_no_room() {
            self.capture.spool_is_full(&why);
        } else if bytes > self.limit_bytes {
            let why = format!(
                "the spool is full: {} MiB wait for a receiver, {} MiB are allowed",
                bytes >> 20,
                self.limit_bytes >> 20
            );
            failpoint::passed(Step::SpoolFull);
            self.capture.spool_is_full(&why);
        } else {
            self.capture.spool_has_room();
        }
    }

    /// A spool that failed once is not written to any more: what it lacks stays in memory, and that is bounded, as nothing more is
    /// recorded.
    fn append(&mut self, frames: &[Frame]) -> Result<()> {
        let mut log = self.shared.log();
        if log.closed().is_some() {
            return Ok(());
        }
        log.reached(Step::SpoolAppend)?;
        log.append(frames, SessionId(0), self.capture.clock().wall())?;
        frames.iter().for_each(|frame| say_passed(frame, Step::GapSpooled, Step::SealedSpooled));
        Ok(())
    }

    fn close(&mut self, builder: &mut FrameBuilder) -> Frame {
        let clock = self.capture.clock();
        let (wall, boottime) = (clock.wall(), clock.boottime());
        if self.chain.stepped(i128::from(wall.0) - i128::from(boottime.0)) {
            self.capture.record_at_once(Body::Clock(ClockKind::Step));
        }
        let before = builder.payload_bytes();
        let compress = before > 0 && self.adaptive.compress(self.shared.link_is_fast());
        let frame = builder.finish(&FrameSeal {
            kind: FrameKind::Live { first: Seq::following(self.chain.last) },
            group: self.chain.group,
            epoch: self.chain.epoch,
            number: FrameNo::following(self.chain.frame),
            prev: self.chain.prev,
            durable: self.shared.durable(),
            wall,
            boottime,
            boot: self.chain.boot,
            compress,
        });
        if compress {
            self.adaptive.learn(before, frame.payload().len());
        }
        self.chain.frame = Some(frame.header().number);
        self.chain.prev = frame.head();
        self.chain.last = frame.last_seq();
        frame
    }
}

impl fmt::Debug for Spooler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spooler").field("chain", &self.chain).finish_non_exhaustive()
    }
}

impl Chain {
    pub(super) fn new(group: GroupId, epoch: EpochId, boot: BootId, parent: Option<Head>) -> Self {
        Self {
            group,
            epoch,
            boot,
            frame: parent.map(|head| head.frame),
            prev: parent.map_or(ChainHead::START, |head| head.chain),
            last: parent.map(|head| head.seq),
            ahead: None,
        }
    }

    /// Whether the wall clock, now so far `ahead` of the boot clock, was set since the last frame.
    fn stepped(&mut self, ahead: i128) -> bool {
        let before = self.ahead.replace(ahead).unwrap_or(ahead);
        before.abs_diff(ahead) > u128::from(STEP)
    }
}
