//! Wall clocks that are set while all of it runs, an hour and ten years to either side, the agent's and the receiver's: times of
//! records never go back, every point stays what it was, nothing expires, and the state is what it would have been.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::fs;
use std::sync::Arc;

use common::clock::WallClock;
use common::cluster::{Cluster, assert_equal, at, random};
use common::wait_for;
use journal::codec::{Body, ClockKind};
use journal::disk::FileDisk;
use journal::index::Event;
use journal::limits::SEGMENT_BYTES;
use journal::store::Store;
use journal::types::GroupId;
use serde_json::Value;

const SIZE: usize = 1 << 20;
const BLOCK: usize = 64 << 10;
const HOUR: i64 = 3600;
const TEN_YEARS: i64 = 3653 * 24 * HOUR;
const MICROS: u64 = 1_000_000;

/// What the volume held at a mark.
struct Known {
    mark: String,
    image: Vec<u8>,
}

/// A cluster whose volume is written to in steps, each of which ends with a mark.
struct Steps {
    cluster: Cluster,
    known: Vec<Known>,
    /// Stretches without points, the first copy among them.
    gaps: usize,
}

impl Steps {
    fn new() -> Self {
        let mut steps = Self { cluster: Cluster::live(&random(1, SIZE)), known: Vec::new(), gaps: 1 };
        steps.step();
        steps
    }

    /// Something is written, all of it is durable, and the group is as a healthy one is.
    #[track_caller]
    fn step(&mut self) {
        let number = self.known.len();
        let offset = (number * BLOCK) % SIZE;
        self.cluster.write(u64::try_from(offset).unwrap(), &random(100 + number as u64, BLOCK));
        let mark = format!("step-{number}");
        self.cluster.mark(&mark);
        self.known.push(Known { mark, image: fs::read(&self.cluster.source).unwrap() });
        let healthy = || {
            let status = self.cluster.look()?;
            (status["state"] == "live" && status["rpo_seconds"] == 0.0).then_some(())
        };
        wait_for("live with an RPO of zero", healthy, || self.cluster.words());
    }

    /// Every point there ever was is there and is what it was, by its name, its place and its time; times never go back.
    #[track_caller]
    fn assert_all(&self) {
        let document = self.cluster.ask(&["points", "db", "--limit", "100000"]).document();
        let points = document["points"].as_array().unwrap();
        let times: Vec<u64> = points.iter().map(micros).collect();
        assert!(times.is_sorted(), "times go back: {times:?}");
        let places: Vec<u64> = points.iter().map(|point| point["seq"].as_u64().unwrap()).collect();
        let missing = places.windows(2).filter(|two| two[0] + 1 != two[1]).count();
        assert_eq!(missing, self.gaps - 1, "points are missing: {places:?}");
        for Known { mark, image } in &self.known {
            let point = points.iter().find(|point| point["mark"] == mark.as_str()).expect("its mark");
            assert_equal(&self.cluster.image(&format!("mark:{mark}")), image);
            assert_equal(&self.cluster.image(&format!("seq:{}", point["seq"])), image);
            // Of records with one time the last one is meant.
            let last = points.iter().rfind(|other| other["time"] == point["time"]).unwrap();
            let by_time = self.cluster.image(&at(micros(point)));
            assert_equal(&by_time, &self.cluster.image(&format!("seq:{}", last["seq"])));
        }
        self.cluster.assert_same();
        assert_eq!(self.cluster.gaps().len(), self.gaps);
    }

    /// The time of a step's mark.
    fn time(&self, step: usize) -> u64 {
        let document = self.cluster.ask(&["points", "db", "--limit", "100000"]).document();
        let points = document["points"].as_array().unwrap();
        micros(points.iter().find(|point| point["mark"] == self.known[step].mark.as_str()).expect("its mark"))
    }

    /// The journal is sound and says so often that the clock was set.
    #[track_caller]
    fn assert_steps_recorded(mut self, expect: usize) {
        assert_eq!(self.cluster.ask(&["verify", "db"]).document()["ok"], true);
        self.cluster.stop_agent();
        self.cluster.stop_receiver();
        let found = clock_records(&self.cluster);
        assert_eq!(found, expect, "clock records");
    }
}

fn micros(point: &Value) -> u64 {
    let time: jiff::Timestamp = point["time"].as_str().unwrap().parse().unwrap();
    u64::try_from(time.as_microsecond()).unwrap()
}

/// How often the store says that the agent's clock was set.
fn clock_records(cluster: &Cluster) -> usize {
    let group = fs::read_dir(cluster.store.join("groups")).unwrap().next().unwrap().unwrap();
    let id = GroupId::parse(group.file_name().to_str().unwrap()).unwrap();
    let disk = Arc::new(FileDisk::open(group.path()).unwrap());
    let (store, findings) = Store::open(disk, id, SEGMENT_BYTES, link::random).unwrap();
    assert!(findings.is_empty(), "{findings:?}");
    let version = store.library().now();
    let steps = |event: &&Event| event.record.body == Body::Clock(ClockKind::Step);
    version.timeline().events().iter().filter(steps).count()
}

/// The agent's clock is set by so many seconds, and later set right again.
fn agents_clock(seconds: i64) {
    let mut steps = Steps::new();
    let Some(clock) = WallClock::of(steps.cluster.agent.as_ref().unwrap()) else { return };
    let before = steps.time(0);
    clock.set_ahead(seconds);
    steps.step();
    steps.assert_all();
    let after = steps.time(1);
    let span = seconds.unsigned_abs() * MICROS;
    if seconds > 0 {
        assert!(after - before > span - MICROS, "the new time counts");
        // What the jump passed over is as the last point before it.
        assert_equal(&steps.cluster.image(&at(before + span / 2)), &steps.known[0].image);
        assert!(steps.cluster.window().1 >= after);
    } else {
        // Time stands still until the clock has caught up; what it says now was long ago.
        assert!(after - before < span / 2, "{before} {after}");
        let long_ago = steps.cluster.restore(&at(after - span), &steps.cluster.path("out.img"), &[]);
        long_ago.refused(13, "no recovery point");
    }
    clock.set_ahead(0);
    steps.step();
    steps.assert_all();
    // A clean stop is believed as ever, a kill opens a gap as ever, and the times of the next run do not go back either.
    steps.cluster.stop_agent();
    steps.cluster.start_agent();
    steps.step();
    steps.assert_all();
    steps.cluster.kill_agent();
    steps.cluster.start_agent();
    steps.cluster.settle();
    steps.gaps += 1;
    steps.step();
    steps.assert_all();
    steps.assert_steps_recorded(2);
}

#[test]
fn the_agents_clock_is_an_hour_ahead() {
    agents_clock(HOUR);
}

#[test]
fn the_agents_clock_is_an_hour_behind() {
    agents_clock(-HOUR);
}

#[test]
fn the_agents_clock_is_ten_years_ahead() {
    agents_clock(TEN_YEARS);
}

#[test]
fn the_agents_clock_is_ten_years_behind() {
    agents_clock(-TEN_YEARS);
}

/// Its clock decides about invitations and nothing else.
#[test]
fn the_receivers_clock_jumps() {
    let mut steps = Steps::new();
    let Some(clock) = WallClock::of(steps.cluster.receiver.as_ref().unwrap()) else { return };
    let mut last = steps.time(0);
    for seconds in [HOUR, -HOUR, TEN_YEARS, -TEN_YEARS, 0] {
        clock.set_ahead(seconds);
        steps.step();
        let now = steps.time(steps.known.len() - 1);
        assert!(now - last < 60 * MICROS, "points have the agent's time");
        last = now;
    }
    steps.assert_all();
    steps.cluster.stop_receiver();
    steps.cluster.start_receiver();
    steps.step();
    steps.assert_all();
    steps.assert_steps_recorded(0);
}
