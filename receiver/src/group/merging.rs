//! Merges the indexes of a group's journal in the background, so that views stay cheap however long the history.
//!
//! A thread that does a little and then looks whether somebody else has more to do: frames that wait go first, and of all groups one merges
//! at a time, so that what merging takes of memory and disk does not grow with them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use journal::disk::{Disk, RESERVE_BYTES, Reserve};
use journal::log::Entropy;
use journal::store::{Merger, Merging};
use tracing::{debug, warn};

use super::Group;
use crate::error::Result;

/// How often it looks whether something was sealed: that takes a second at least.
const PAUSE: Duration = Duration::from_secs(1);
/// After a failure, and while there is no room.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(30);
/// Longest wait for the ingest in a step, which writes a megabyte: it yields, it does not starve.
const YIELD_MAX: Duration = Duration::from_millis(50);
const YIELD_STEP: Duration = Duration::from_millis(2);
/// How much nicer it is than those that somebody waits for.
const NICER: i32 = 10;

/// Whose turn it is among the groups.
pub(super) type Turn = Arc<Mutex<()>>;

/// The thread of a group.
#[derive(Debug)]
pub(super) struct Background {
    thread: JoinHandle<()>,
    stopping: Arc<AtomicBool>,
}

/// What it works with.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) group: Group,
    /// Not one with a reserve: that is for what cannot be made again.
    pub(super) disk: Arc<dyn Disk>,
    pub(super) reserve: Arc<Reserve>,
    pub(super) entropy: Entropy,
    pub(super) turn: Turn,
}

impl Background {
    pub(super) fn start(bench: Bench) -> Result<Self> {
        let stopping = Arc::new(AtomicBool::new(false));
        let name = format!("merge-{:.8}", bench.group.id().to_string());
        let stop = Arc::clone(&stopping);
        let thread = std::thread::Builder::new().name(name).spawn(move || bench.run(&stop))?;
        Ok(Self { thread, stopping })
    }

    /// Ends it soon, also in the middle of a merge: that is begun anew the next time.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.thread.thread().unpark();
    }

    pub(super) fn into_thread(self) -> JoinHandle<()> {
        self.thread
    }
}

impl Bench {
    fn run(self, stopping: &AtomicBool) {
        // Where that is not allowed it still yields.
        _ = rustix::process::nice(NICER);
        let mut merger = Merger::new(Arc::clone(&self.disk), self.group.id(), self.entropy);
        while !stopping.load(Ordering::Acquire) {
            let pause = match self.turn() {
                Some(turn) => self.work(&mut merger, stopping, &turn),
                None => YIELD_MAX,
            };
            std::thread::park_timeout(pause);
        }
    }

    /// Merges until there is nothing more to merge; how long to wait then.
    fn work(&self, merger: &mut Merger, stopping: &AtomicBool, _turn: &MutexGuard<'_, ()>) -> Duration {
        while !stopping.load(Ordering::Acquire) {
            // A journal that cannot be opened is not merged either.
            let Ok(library) = self.group.library() else { return PAUSE };
            let mut is_full = false;
            let has_room = |bytes: u64| {
                is_full = !self.reserve.has_room_for(bytes.saturating_add(RESERVE_BYTES));
                !is_full
            };
            match merger.step(&library.now(), has_room) {
                Ok(Merging::Idle) if is_full => return PAUSE_AFTER_ERROR,
                Ok(Merging::Idle) => return PAUSE,
                Ok(Merging::Goes) => self.yield_to_ingest(stopping),
                Ok(Merging::Renew(made)) => {
                    match &made {
                        Some(run) => {
                            debug!(group = %self.group.name(), run = %run.number(), entries = run.entries(), "merged");
                        }
                        None => warn!(group = %self.group.name(), "a merged index cannot be read, and is made again"),
                    }
                    if self.group.renew_runs(made).is_none() {
                        return PAUSE;
                    }
                }
                Err(error) => {
                    warn!(group = %self.group.name(), %error, "indexes are not merged for now; nothing depends on it but speed");
                    return PAUSE_AFTER_ERROR;
                }
            }
        }
        PAUSE
    }

    /// Nobody else's turn, if it can be had at once.
    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(PoisonError::into_inner(turn)),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn yield_to_ingest(&self, stopping: &AtomicBool) {
        let started = Instant::now();
        while self.group.is_ingesting() && started.elapsed() < YIELD_MAX && !stopping.load(Ordering::Acquire) {
            std::thread::sleep(YIELD_STEP);
        }
    }
}
