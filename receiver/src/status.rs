//! What `status` tells of a group. Pure: everything it needs, the time too, is handed in.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use journal::store::Version;
use journal::types::{Micros, Seq, WallTime};
use journal::wire::{AgentState, Report};
use serde_json::{Value, json};

use crate::error::Result;
use crate::group::{Fault, Group, Snapshot, Told};
use crate::image::{Image, Shown};
use crate::time::rfc3339;

/// A report that is older says nothing of now: four of them are due in that time.
const FRESH: Duration = Duration::from_secs(1);

/// What is known when the state is named.
#[derive(Clone, Debug)]
struct Facts<'a> {
    fault: Option<&'a Fault>,
    /// The agent's last words, and how old they are.
    told: Option<(&'a Report, Duration)>,
    /// End of what is durable.
    durable: Option<Seq>,
    /// Whether the newest record is a point.
    covered: bool,
    /// The sources are being taken back.
    rolling: bool,
    /// Time of the newest point, if there is one, and of the group's first record.
    last_point: Option<WallTime>,
    first: Option<WallTime>,
}

impl Facts<'_> {
    /// Age of the oldest change that is not within a durable point, in seconds; 0 is exact. `None` without a session.
    fn rpo(&self) -> Option<f64> {
        let (report, age) = self.told?;
        let age = age.as_secs_f64();
        let stale = if age > FRESH.as_secs_f64() { age } else { 0.0 };
        let oldest = report.oldest.map_or(age, |oldest| oldest.seconds() + age);
        if !self.covered {
            // By the agent's wall clock, both ends: it may not have been there when the points ended. It may also have been set since.
            let since = self.last_point.or(self.first).map_or(0.0, |then| report.time.since(then).seconds() + age);
            return Some(oldest.max(since));
        }
        Some(match report.captured.cmp(&self.durable) {
            // All that the agent had seen when it last spoke, and nothing has come since.
            Ordering::Equal => stale,
            Ordering::Greater => oldest,
            // More came since, so there may be still more: whatever it is, it is younger than the report, and than the last that is
            // durable, if the wall clock was not set between the two.
            Ordering::Less => {
                let last = self.last_point.map(|last| Micros(last.0).seconds());
                let since = last.map(|last| Micros(report.time.0).seconds() + age - last);
                since.filter(|since| *since >= 0.0).map_or(age, |since| since.min(age)).max(stale)
            }
        })
    }

    /// The one word of `CLI.md`.
    fn state(&self) -> &'static str {
        match self.fault {
            Some(Fault::Damaged(_) | Fault::Disk(_)) => return "damaged",
            Some(Fault::Full(_)) => return "stopped",
            None => {}
        }
        let Some((report, age)) = self.told else { return "stopped" };
        match report.state {
            AgentState::Halted => "halted",
            AgentState::Tracking => "tracking",
            AgentState::Seeding => "seeding",
            AgentState::Resync => "resync",
            AgentState::Running if !self.covered && self.rolling => "behind",
            _ if !self.covered && self.last_point.is_none() => "seeding",
            _ if !self.covered => "resync",
            AgentState::Spooling => "spooling",
            AgentState::Running if age <= FRESH && self.rpo().is_some_and(|rpo| rpo <= 1.0) => "live",
            AgentState::Running => "behind",
        }
    }
}

/// The document of one group. Reads the journal: not for a thread that must not wait.
pub fn document(group: &Group, image: Option<&Image>, receiver: &str, now: Instant) -> Result<Value> {
    let snapshot = group.snapshot();
    let version = snapshot.library.as_ref().map(|library| library.now());
    let window = version.as_ref().map(|version| version.covered()).transpose()?.flatten();
    let shown = image.map(Image::shown).unwrap_or_default();
    let facts = facts(&snapshot, version.as_deref(), window, now);
    let seq = |seq: Option<Seq>| seq.map(Seq::number);
    let report = snapshot.told.as_ref().map(|told| &told.report);
    let lag = report.map(|report| report.lag).unwrap_or_default();
    let durable = seq(facts.durable);
    // More may have come since the agent spoke.
    let sent = seq(report.and_then(|report| report.sent.max(facts.durable)));
    let age = |age: Option<Micros>| age.map(Micros::seconds);
    Ok(json!({
        "name": group.name().as_str(),
        "state": facts.state(),
        "rpo_seconds": facts.rpo(),
        "lag": {"p50_seconds": lag.p50.seconds(), "p99_seconds": lag.p99.seconds(), "max_seconds": lag.max.seconds()},
        "captured": seq(report.and_then(|report| report.captured)),
        "receivers": [{"id": receiver, "sent": sent, "received": durable, "durable": durable, "applied": seq(shown.applied)}],
        "why": why(&snapshot, version.as_deref(), &shown),
        "rollback": version.as_ref().and_then(|version| version.timeline().unfinished().map(|it| json!({
            "target_seq": it.target.number(),
        }))),
        "window": {"from": window.map(|(from, _)| rfc3339(from)), "to": window.map(|(_, to)| rfc3339(to))},
        "spool": {
            "bytes": report.map_or(0, |report| report.spool_bytes),
            "limit_bytes": report.map_or(0, |report| report.spool_limit_bytes),
        },
        "progress": {
            "done_bytes": report.map_or(0, |report| report.progress.done_bytes),
            "total_bytes": report.map_or(0, |report| report.progress.total_bytes),
        },
        "limit_bytes_per_second": report.and_then(|report| report.limit_bytes_per_second),
        "rpo": {
            "warn_seconds": age(report.and_then(|report| report.rpo_warn)),
            "error_seconds": age(report.and_then(|report| report.rpo_error)),
        },
        "store_bytes": version.as_ref().map_or(0, |version| version.bytes()),
        "volumes": volumes(version.as_deref(), report, image),
        "gaps_total": version.as_ref().map_or(0, |version| version.timeline().gaps().count()),
        "last_verified": snapshot.last_verified.map(rfc3339),
        "retention": {
            "thinned_bytes": snapshot.cleaned.thinned_bytes, "dead_bytes": snapshot.cleaned.dead_bytes, "why": snapshot.cleaned.why,
        },
    }))
}

fn facts<'a>(
    snapshot: &'a Snapshot,
    version: Option<&Version>,
    window: Option<(WallTime, WallTime)>,
    now: Instant,
) -> Facts<'a> {
    let timeline = version.map(Version::timeline);
    let told = snapshot.told.as_ref();
    Facts {
        fault: snapshot.progress.fault.as_ref(),
        told: told.map(|Told { report, at, .. }| (report, now.saturating_duration_since(*at))),
        durable: version.and_then(Version::head).map(|head| head.seq),
        covered: timeline.is_some_and(|timeline| timeline.covered().is_some()),
        rolling: timeline.is_some_and(|timeline| timeline.unfinished().is_some()),
        last_point: window.map(|(_, to)| to),
        first: timeline.and_then(|timeline| timeline.events().first()).map(|event| event.record.time),
    }
}

/// The most important reason that there is.
fn why(snapshot: &Snapshot, version: Option<&Version>, image: &Shown) -> Option<String> {
    let fault = snapshot.progress.fault.as_ref().map(|fault| fault.why().to_owned());
    let report = snapshot.told.as_ref().map(|told| told.report.why.clone()).filter(|why| !why.is_empty());
    let image = image.error.as_ref().map(|error| format!("the replica image: {error}"));
    let unfinished = version.and_then(|version| version.timeline().unfinished());
    let rolling = unfinished.map(|it| {
        format!(
            "the sources are being taken back to seq {}, which is not over: it goes on when the agent is there",
            it.target
        )
    });
    let retention = snapshot.cleaned.why.clone();
    fault.or(report).or(rolling).or(image).or(retention)
}

fn volumes(version: Option<&Version>, report: Option<&Report>, image: Option<&Image>) -> Vec<Value> {
    let Some((version, head)) = version.and_then(|version| version.head().map(|head| (version, head))) else {
        return Vec::new();
    };
    let volumes = version.timeline().volumes(head.seq).into_iter().map(|volume| {
        let tracker = report.and_then(|report| report.volumes.iter().find(|known| known.volume == volume.number));
        json!({
            "name": volume.name,
            "size_bytes": volume.size.bytes(),
            "tracker": tracker.map(|known| format!("{:?}", known.tracker).to_lowercase()),
            "image": image.map(|image| image.path(volume.uuid).display().to_string()),
            "image_held": image.is_some_and(|image| image.shown().held),
        })
    });
    volumes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(100_000_000);

    fn report(state: AgentState, captured: u64, oldest: Option<u64>) -> Report {
        crate::testing::report(NOW, state, captured, oldest.map(Micros))
    }

    #[track_caller]
    fn check(report: &Report, age: u64, change: impl Fn(&mut Facts<'_>), state: &str, rpo: f64) {
        let mut facts = Facts {
            fault: None,
            told: Some((report, Duration::from_millis(age))),
            durable: Seq::new(50),
            covered: true,
            rolling: false,
            last_point: Some(WallTime(90_000_000)),
            first: Some(WallTime(40_000_000)),
        };
        change(&mut facts);
        assert_eq!((facts.state(), facts.rpo()), (state, Some(rpo)), "{facts:?}");
    }

    #[test]
    fn the_state_and_the_rpo_follow_from_what_is_known() {
        let none = |_: &mut Facts<'_>| {};
        let running = |captured, oldest| report(AgentState::Running, captured, oldest);
        //    report                          age    but      state     rpo
        check(&running(50, None), 200, none, "live", 0.0);
        // More came since, the last of it 0.125 s after the agent spoke.
        let busy = |facts: &mut Facts<'_>| facts.last_point = Some(WallTime(NOW.0 + 125_000));
        check(&running(49, Some(1_000_000)), 250, busy, "live", 0.125);
        // The agent's clock was set back: times of records stay where they were. Or it was set forth.
        let behind = |facts: &mut Facts<'_>| facts.last_point = Some(WallTime(NOW.0 + 60_000_000));
        check(&running(49, Some(1_000_000)), 250, behind, "live", 0.25);
        check(&running(51, Some(3_000_000)), 250, behind, "behind", 3.25);
        check(&running(49, Some(1_000_000)), 250, none, "live", 0.25);
        check(&running(51, Some(500_000)), 250, none, "live", 0.75);
        check(&running(51, Some(2_000_000)), 0, none, "behind", 2.0);
        check(&running(50, None), 1500, none, "behind", 1.5); // the agent has fallen silent
        check(&report(AgentState::Spooling, 60, Some(10_000_000)), 0, none, "spooling", 10.0);
        check(&report(AgentState::Halted, 50, None), 0, none, "halted", 0.0);
        let gap = |facts: &mut Facts<'_>| facts.covered = false;
        check(&running(50, None), 0, gap, "resync", 10.0); // durable, but no point
        check(&report(AgentState::Resync, 50, None), 0, gap, "resync", 10.0);
        let rolling = |facts: &mut Facts<'_>| (facts.covered, facts.rolling) = (false, true);
        check(&running(50, None), 0, rolling, "behind", 10.0);
        check(&report(AgentState::Resync, 50, None), 0, rolling, "resync", 10.0);
        let set_back =
            |facts: &mut Facts<'_>| (facts.covered, facts.last_point) = (false, Some(WallTime(NOW.0 + 60_000_000)));
        check(&report(AgentState::Resync, 50, Some(7_000_000)), 250, set_back, "resync", 7.25);
        let first_copy = |facts: &mut Facts<'_>| (facts.covered, facts.last_point) = (false, None);
        check(&running(50, None), 0, first_copy, "seeding", 60.0);
    }

    #[test]
    fn a_group_without_a_session_has_no_rpo() {
        let facts = Facts {
            fault: None,
            told: None,
            durable: None,
            covered: false,
            rolling: false,
            last_point: None,
            first: None,
        };
        assert_eq!((facts.state(), facts.rpo()), ("stopped", None));
        let damaged = Fault::Damaged("x".into());
        assert_eq!(Facts { fault: Some(&damaged), ..facts }.state(), "damaged");
    }
}
