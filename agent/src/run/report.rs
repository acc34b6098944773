//! What a group says of itself: its rung of the ladder, why, and how long until the next one at this rate.

use std::fmt::Write;
use std::sync::PoisonError;
use std::time::Duration;

use journal::types::{Micros, WallTime};
use journal::wire::{AgentState, Progress, Report, TrackerKind, VolumeReport};

use super::alarm::Level;
use super::group::{Group, Stage, no_spool};
use super::rates::not_before;
use super::rollback::Rolling;
use crate::base::{BaseVolume, Known};
use crate::capture::{CaptureState, Clock, SystemClock};
use crate::spool::Spool;

/// Changes that wait for longer than this to be durable make a group that lags one that spools, in microseconds.
const SPOOLING: u64 = 5_000_000;

/// What a group does, and why.
#[derive(Clone, Debug)]
pub(crate) struct Condition {
    pub(crate) state: AgentState,
    /// For people; empty: all is well.
    pub(crate) why: String,
    /// The rung that comes next, and in how many seconds, at this rate.
    pub(crate) next: Option<(&'static str, f64)>,
}

impl Group {
    /// Looks at what changes, so that rates are known.
    pub(super) fn observe(&self) {
        let now = SystemClock.boottime();
        let (spool, base) = (self.spool_status().map_or(0, |spool| spool.bytes), self.progress().done_bytes);
        let mut rates = self.rates();
        rates.spool.observe(now, spool);
        rates.base.observe(now, base);
        drop(rates);
        self.alarm(now);
    }

    /// Says when more is exposed than was agreed, and when that is over.
    fn alarm(&self, now: WallTime) {
        let exposed = Duration::from_micros(self.exposed().map_or(0, |age| age.0));
        let mut alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(level) = alarm.observe(self.rpo, exposed, Duration::from_micros(now.0)) else { return };
        drop(alarm);
        let why = self.condition().why;
        let threshold = self.rpo.threshold(level).map_or(0.0, |threshold| threshold.as_secs_f64());
        let age = lasting(exposed.as_secs_f64());
        let group = self.name();
        match level {
            Level::Error => tracing::error!(
                group,
                age,
                why,
                "the oldest change that is not durable is older than rpo.error, {threshold} s"
            ),
            Level::Warn => tracing::warn!(
                group,
                age,
                why,
                "the oldest change that is not durable is older than rpo.warn, {threshold} s"
            ),
            Level::Fine => {
                tracing::warn!(group, age, "no change that is not durable is older than rpo allows any more");
            }
        }
    }

    /// Age of the oldest change that is not known to be within a durable point.
    fn exposed(&self) -> Option<Micros> {
        let spool = self.spool_status();
        let gap = self.read().capture.gap_age();
        // What the spooler has not got yet has no age there, but it is not nothing.
        let unspooled = spool.as_ref().is_some_and(|spool| spool.captured.0 > spool.spooled).then_some(Micros(1));
        let unsent = spool.and_then(|spool| spool.oldest).or(unspooled);
        gap.into_iter().chain(unsent).max()
    }

    /// What it does, and why.
    pub(crate) fn condition(&self) -> Condition {
        let Condition { state, why, next } = self.condition_of_run();
        let Some(Rolling { target, done_bytes, total_bytes, .. }) = self.rolling() else {
            return Condition { state, why, next };
        };
        let mut rolling = format!("the sources are being taken back to seq {target}, and clients wait outside");
        if total_bytes > 0 {
            _ = write!(rolling, ": {} of {} are written", shown(done_bytes.min(total_bytes)), shown(total_bytes));
        }
        let why = if why.is_empty() { rolling } else { format!("{rolling}; {why}") };
        Condition { state, why, next }
    }

    /// The same, but for a rollback of the sources.
    pub(super) fn condition_of_run(&self) -> Condition {
        let rates = *self.rates();
        let run = self.read();
        let capture = run.capture.state();
        let base = progress(&run.stage, 0);
        // With a limit it is known how long what is there takes at least; without a receiver nobody knows.
        let limit = self.limit.bytes_per_second().filter(|_| self.link.borrow().connected);
        let spooled = run.spool.as_ref().map_or(0, |spool| spool.status().bytes);
        let left = || {
            let read = match &run.stage {
                Stage::Sending(base, _) => base.unsent_bytes(),
                Stage::Sealed | Stage::Wanted(_) => 0,
            };
            // Before anything is read, that takes longer.
            let seen = rates.base.reaches(base.total_bytes)?;
            not_before(Some(seen), spooled + read, limit)
        };
        if let CaptureState::Tracking { why, .. } = capture {
            let half = self.spool_limit_bytes / 2;
            let next = not_before(rates.spool.reaches(half), spooled.saturating_sub(half), limit);
            let next = next.map(|seconds| ("resync", seconds));
            let mut why = format!("{why}; {} changed since and will be read again", shown(run.capture.dirty_bytes()));
            if base.total_bytes > base.done_bytes {
                _ = write!(why, ", beside {} of an earlier resync", shown(base.total_bytes - base.done_bytes));
            }
            return Condition { state: AgentState::Tracking, why: and_when(why, next), next };
        }
        let Some(spool) = run.spool.as_ref().map(Spool::status) else {
            return Condition { state: AgentState::Halted, why: no_spool().to_string(), next: None };
        };
        let full = rates.spool.reaches(self.spool_limit_bytes);
        if let CaptureState::Blocked { why } = capture {
            let why = format!("{why}: writes wait for room, as when_full = \"block-writes\" says");
            return Condition { state: AgentState::Spooling, why, next: None };
        }
        if let Stage::Wanted(volumes) | Stage::Sending(_, volumes) = &run.stage {
            let is_first = |volume: &BaseVolume| volume.known == Known::Nothing;
            let state = if volumes.iter().any(is_first) { AgentState::Seeding } else { AgentState::Resync };
            let next = left().map(|seconds| ("live", seconds));
            let read = || match base.total_bytes {
                0 => "reading is about to begin".to_owned(),
                total => format!("{} of {} are read", shown(base.done_bytes), shown(total)),
            };
            let why = run.unread.clone().unwrap_or_else(read);
            return Condition { state, why: and_when(why, next), next };
        }
        if spool.oldest.is_some_and(|age| age.0 > SPOOLING) {
            let next = full.map(|seconds| ("tracking", seconds));
            let why = format!("{} wait in the spool", shown(spool.bytes));
            return Condition { state: AgentState::Spooling, why: and_when(why, next), next };
        }
        let full = self.reserve.is_in_use().then(|| {
            format!(
                "the disk with {} is full: what has to be written is written into its reserve",
                self.reserve.path().display()
            )
        });
        let unconfirmed = run.capture.unconfirmed().map(|why| format!("flushes do not wait for the receiver: {why}"));
        let why = self.concern().or(full).or(unconfirmed).unwrap_or_default();
        Condition { state: AgentState::Running, why, next: None }
    }

    /// How it is, for the receiver.
    pub(crate) fn report(&self) -> Report {
        let Condition { state, why, .. } = self.condition();
        let spool = self.spool_status();
        let tracker = TrackerKind::Tap;
        let oldest = self.exposed();
        let threshold = |at: Option<Duration>| at.map(|at| Micros(u64::try_from(at.as_micros()).unwrap_or(u64::MAX)));
        Report {
            time: SystemClock.wall(),
            state,
            captured: spool.as_ref().and_then(|spool| spool.captured.0),
            sent: self.sent_to(),
            lag: spool.as_ref().map(|spool| spool.lag).unwrap_or_default(),
            oldest,
            spool_bytes: spool.as_ref().map_or(0, |spool| spool.bytes),
            spool_limit_bytes: self.spool_limit_bytes,
            progress: self.progress(),
            limit_bytes_per_second: self.limit.bytes_per_second(),
            rpo_warn: threshold(self.rpo.warn),
            rpo_error: threshold(self.rpo.error),
            why,
            volumes: self.volumes.iter().map(|volume| VolumeReport { volume: volume.number, tracker }).collect(),
        }
    }

    /// How far a base is, with what is dirty and was not given to it yet.
    pub(crate) fn progress(&self) -> Progress {
        let run = self.read();
        progress(&run.stage, run.capture.dirty_bytes())
    }
}

fn progress(stage: &Stage, dirty: u64) -> Progress {
    let (done_bytes, total_bytes) = match stage {
        Stage::Sealed => (0, 0),
        Stage::Wanted(volumes) => (0, volumes.iter().map(BaseVolume::to_read_bytes).sum()),
        Stage::Sending(base, _) => (base.progress().done_bytes, base.progress().total_bytes),
    };
    let total_bytes = total_bytes + dirty;
    // Dirty blocks may end behind the volume.
    Progress { done_bytes: done_bytes.min(total_bytes), total_bytes }
}

fn and_when(mut why: String, next: Option<(&str, f64)>) -> String {
    if let Some((rung, seconds)) = next {
        _ = write!(why, "; {rung} in {} at this rate", lasting(seconds));
    }
    why
}

/// Bytes for people.
fn shown(bytes: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, unit)| bytes >= *unit) {
        Some((name, unit)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

/// A time for people, who do not ask for its seconds when there are hours.
fn lasting(seconds: f64) -> String {
    match seconds {
        _ if seconds < 100.0 => format!("{seconds:.0} s"),
        _ if seconds < 6000.0 => format!("{:.0} min", seconds / 60.0),
        _ if seconds < 360_000.0 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} days", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_can_be_read() {
        assert_eq!([shown(0), shown(1536), shown(8 << 30)], ["0 B", "1.5 KiB", "8.0 GiB"]);
        assert_eq!([lasting(3.2), lasting(240.0), lasting(9000.0), lasting(1e7)], ["3 s", "4 min", "2 h", "116 days"]);
        assert_eq!(
            and_when("1.0 MiB wait".to_owned(), Some(("tracking", 240.0))),
            "1.0 MiB wait; tracking in 4 min at this rate"
        );
    }
}
