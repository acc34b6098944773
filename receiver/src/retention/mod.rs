//! Keeps what the policy asks for and no more: one thread for all groups, that goes last.
//!
//! ```text
//!   clock ─▶ believed? ─▶ each group: list of points (thinning) ─▶ survey ─▶ compacted segments, one by one (cleaning)
//! ```
//!
//! Nothing of it has to survive a restart: what there is to do is found by looking. `journal::retention` is the rule.

mod clock;
mod pass;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use journal::types::{GroupId, WallTime};
use rustix::time::{ClockId, clock_gettime};
use tracing::{error, info, warn};

pub(crate) use clock::{Judged, Reading};
pub use policy::Wanted;
pub(crate) use policy::{NAMES, Origin, Resolved};

use crate::error::{Code, Result};
use crate::group::{Group, Groups};
use clock::Trusted;
use pass::Memory;

/// How often it is looked, at least and at most; in between a tenth of `every_write`.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// What is trusted is noted on the disk when it is that old.
const NOTE_EVERY: u64 = 60 * 1_000_000;

/// Said while what was trusted last cannot be read.
const LOST: &str = "what this receiver knew of the time cannot be read (clock.json), so that no history expires: if its clock is right, \
                    backspool retention GROUP --trust-clock";

/// What thinning and cleaning of a group came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cleaned {
    /// Bytes of all segments where history was thinned.
    pub(crate) thinned_bytes: u64,
    /// How many of them nobody can see, about.
    pub(crate) dead_bytes: u64,
    /// Bytes written to free others, since the start.
    pub(crate) rewritten_bytes: u64,
    /// Bytes freed since the start.
    pub(crate) freed_bytes: u64,
    /// Why nothing is done.
    pub(crate) why: Option<String>,
}

/// Where the time comes from.
type Clocks = Box<dyn Fn() -> Result<Reading> + Send + Sync>;

/// Retention of all groups of a receiver.
pub(crate) struct Retention {
    groups: Arc<Groups>,
    config: Wanted,
    clocks: Clocks,
    clock: Mutex<Clock>,
    memories: Mutex<HashMap<GroupId, Memory>>,
    stopping: AtomicBool,
    /// Who is woken when there is news.
    thread: OnceLock<Thread>,
}

#[derive(Debug, Default)]
struct Clock {
    trusted: Option<Trusted>,
    /// As it is on the disk.
    noted: Option<(Trusted, WallTime)>,
    /// What was trusted last cannot be read: nothing is, until a person says so.
    is_lost: bool,
    /// Why it is not believed.
    why: Option<String>,
}

impl std::fmt::Debug for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retention").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Retention {
    /// For these groups; `config` is what counts where a group says nothing.
    pub(crate) fn new(groups: Arc<Groups>, config: Wanted, clocks: Clocks) -> Result<Self> {
        if let Some(resolved) = Resolved::of(&Wanted::default(), &config) {
            resolved.check().map_err(|error| error.context("retention in the config file"))?;
        }
        let (trusted, is_lost) = match Trusted::load(groups.catalog().dir().disk()) {
            // It says nothing of any history: the receiver goes on without.
            Err(error) if error.code() == Code::DAMAGED => {
                error!(%error, "what was known of the time cannot be read");
                (None, true)
            }
            loaded => (loaded?, false),
        };
        let clock = Mutex::new(Clock { trusted, is_lost, ..Clock::default() });
        Ok(Self {
            groups,
            config,
            clocks,
            clock,
            memories: Mutex::default(),
            stopping: AtomicBool::new(false),
            thread: OnceLock::new(),
        })
    }

    /// Starts the thread.
    pub(crate) fn start(self: &Arc<Self>) -> Result<JoinHandle<()>> {
        let retention = Arc::clone(self);
        let run = move || {
            // What comes in, and whoever reads, goes first. Where it may not give way it is as fast as the others.
            let _ = rustix::process::nice(10);
            while !retention.is_stopping() {
                std::thread::park_timeout(retention.step());
            }
        };
        let handle = std::thread::Builder::new().name("retention".to_owned()).spawn(run)?;
        self.thread.get_or_init(|| handle.thread().clone());
        Ok(handle)
    }

    /// Ends the thread soon, also in the middle of something.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.wake();
    }

    /// There is something new to do.
    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// What counts for a group; `None`: everything is kept.
    pub(crate) fn resolved(&self, group: &Group) -> Option<Resolved> {
        Resolved::of(&self.groups.catalog().retention(group.id()), &self.config)
    }

    /// The same if the group said this.
    pub(crate) fn resolved_with(&self, group: &Group, wanted: &Wanted) -> Option<Resolved> {
        Resolved::of(&wanted.over(&self.groups.catalog().retention(group.id())), &self.config)
    }

    /// How late it is, if that can be believed; else why not.
    pub(crate) fn now(&self) -> Result<std::result::Result<WallTime, String>> {
        let reading = (self.clocks)()?;
        let mut clock = self.clock();
        let said = match clock.is_lost {
            true => Err(LOST.to_owned()),
            false => self.judge(&mut clock, &reading)?,
        };
        let why = said.as_ref().err().cloned();
        if clock.why.is_some() != why.is_some() {
            match &why {
                Some(why) => error!(why, "no history expires"),
                None => info!("the clock is believed again"),
            }
            clock.why = why;
        }
        Ok(said)
    }

    fn judge(&self, clock: &mut Clock, reading: &Reading) -> Result<std::result::Result<WallTime, String>> {
        let trusted = clock.trusted.clone().unwrap_or_else(|| Trusted::at(reading));
        let (judged, next) = trusted.judge(reading);
        let is_due = clock.noted.as_ref().is_none_or(|(_, at)| reading.wall.0.abs_diff(at.0) >= NOTE_EVERY);
        if is_due {
            next.save(self.groups.catalog().dir().disk())?;
            clock.noted = Some((next.clone(), reading.wall));
        }
        clock.trusted = Some(next);
        Ok(match judged {
            Judged::Now(now) => Ok(now),
            Judged::Ahead(by) => Err(distrusted(by.seconds(), "ahead of")),
            Judged::Behind(by) => Err(distrusted(by.seconds(), "behind")),
        })
    }

    /// A person says that the wall clock is right.
    pub(crate) fn trust_clock(&self) -> Result<WallTime> {
        let reading = (self.clocks)()?;
        let trusted = Trusted::at(&reading);
        trusted.save(self.groups.catalog().dir().disk())?;
        let mut clock = self.clock();
        clock.is_lost = false;
        (clock.noted, clock.trusted) = (Some((trusted.clone(), reading.wall)), Some(trusted));
        warn!("somebody said that the clock is right");
        Ok(reading.wall)
    }

    /// Looks at all groups once, and does what is to be done; how long to rest after it.
    pub(crate) fn step(&self) -> Duration {
        let mut rest = LOOK_EVERY.1;
        let groups: Vec<_> =
            self.groups.all().into_iter().filter_map(|group| Some((self.resolved(&group)?, group))).collect();
        if groups.is_empty() {
            // Time goes on all the same: the day something is to expire it has to be known.
            self.note_failure(None, self.now().map(drop));
            return rest;
        }
        let now = match self.now() {
            Ok(Ok(now)) => now,
            Ok(Err(why)) => {
                groups.iter().for_each(|(_, group)| group.note_cleaned(|cleaned| cleaned.why = Some(why.clone())));
                return LOOK_EVERY.1.min(Duration::from_secs(10));
            }
            Err(error) => {
                self.note_failure(None, Err(error));
                return rest;
            }
        };
        for (resolved, group) in groups {
            let policy = resolved.policy();
            let tenth = Duration::from_micros(policy.every_write.0 / 10);
            rest = rest.min(tenth.clamp(LOOK_EVERY.0, LOOK_EVERY.1));
            let mut memory = self.memories().remove(&group.id()).unwrap_or_default();
            let reserve = self.groups.catalog().dir().reserve();
            if memory.is_waiting(reserve) {
                self.memories().insert(group.id(), memory);
                continue;
            }
            let done = memory.pass(&self.groups, &group, &policy, now, &|| self.is_stopping());
            memory.note_room(reserve, &done);
            self.memories().insert(group.id(), memory);
            self.note_failure(Some(&group), done);
            if self.is_stopping() {
                break;
            }
        }
        rest
    }

    fn note_failure(&self, group: Option<&Group>, done: Result<()>) {
        let Err(error) = done else {
            if let Some(group) = group {
                group.note_cleaned(|cleaned| cleaned.why = None);
            }
            return;
        };
        if self.is_stopping() {
            return;
        }
        warn!(group = group.map(|group| group.name().as_str()), ?error, "retention could not do what it should");
        if let Some(group) = group {
            group.note_cleaned(|cleaned| cleaned.why = Some(error.to_string()));
        }
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memories(&self) -> MutexGuard<'_, HashMap<GroupId, Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn distrusted(seconds: f64, how: &str) -> String {
    let hours = seconds / 3600.0;
    format!(
        "the clock is {hours:.1} h {how} what this receiver knows to have passed, so that no history expires: set it right, or, if it is (the \
         machine was switched off), backspool retention GROUP --trust-clock"
    )
}

/// What the clocks of this machine say.
pub(crate) fn read_clocks() -> Result<Reading> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let since = clock_gettime(ClockId::Boottime);
    let micros =
        u64::try_from(since.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(since.tv_nsec).unwrap_or(0) / 1000;
    Ok(Reading { wall: crate::time::now(), boottime: micros, boot: boot.trim().to_owned() })
}
