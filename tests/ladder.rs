//! The ladder: memory, spool, tracking, resync, live. A small spool, a receiver that stands still or is gone while stamped writes
//! go on, and back up without a restart of the agent; every instant before and after is judged by the oracle, every one in the gap
//! is refused. `kill.rs` has SIGKILL of either side on each rung.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::fs;

use common::cluster::{Cluster, random};
use common::judged::{Load, assert_at_rest, assert_gap, assert_latest, assert_legal, is_in_gap, mixed};
use common::wait_for;
use oracle::{Client, Rng, SizeShare, Volume, Workload, fill_initial};
use rustix::process::Signal;

const VOLUME_BYTES: u64 = 64 << 20;
const SPOOL: &str = "8MiB";
/// More than memory and a small spool hold, in requests of a mebibyte.
const MIBS: u64 = 128;

/// A group with a small spool and a load on it.
struct Story {
    cluster: Cluster,
    load: Load,
    rng: Rng,
    judged: u32,
}

impl Story {
    fn begin(seed: u64, rate: u32) -> Self {
        let mut cluster = Cluster::new();
        let volume = Volume::new(seed, VOLUME_BYTES);
        fill_initial(&cluster.source, &volume).unwrap();
        cluster.protect = ["--spool-size", SPOOL].map(Into::into).to_vec();
        cluster.begin();
        cluster.settle();
        let load = Workload {
            sizes: [(512, 1), (4096, 12), (16_384, 2), (65_536, 1)]
                .map(|(bytes, weight)| SizeShare { bytes, weight })
                .to_vec(),
            rate: Some(rate),
            ..mixed(&cluster, seed, VOLUME_BYTES / 16)
        };
        let load = Load::start(volume, load);
        Self { cluster, load, rng: Rng::new(seed), judged: 0 }
    }

    /// Until the agent only tracks what changes, and some has changed since.
    fn fill(&self) {
        self.wait_agent("tracking");
        self.load.wait_for(300);
        let status = self.cluster.agent_status();
        assert!(status["why"].as_str().unwrap().contains("changed since"), "{status}");
    }

    fn wait_agent(&self, state: &str) {
        let reached = || (self.cluster.agent_status()["state"] == state).then_some(());
        wait_for(state, reached, || format!("{}\n{}", self.cluster.agent_status(), self.cluster.words()));
    }

    /// Once points go on: the newest one, instants of the whole window, and of every gap.
    fn judge(&mut self) {
        self.cluster.settle();
        let (from, floor) = self.cluster.window();
        assert_latest(&self.cluster, floor, || self.load.history());
        let gaps = self.cluster.gaps();
        for gap in gaps.iter().filter(|gap| gap.from >= from) {
            let to = gap.to.expect("it is live");
            assert_gap(&self.cluster, gap.from + 1 + self.rng.below(to - gap.from - 1));
            for instant in [gap.from, to] {
                assert_legal(&self.cluster, instant, || self.load.history());
                self.judged += 1;
            }
        }
        for _ in 0..4 {
            let instant = from + self.rng.below(floor - from + 1);
            if is_in_gap(instant, &gaps) {
                assert_gap(&self.cluster, instant);
            } else {
                assert_legal(&self.cluster, instant, || self.load.history());
                self.judged += 1;
            }
        }
    }

    /// When all is quiet, the newest point is the source.
    fn end(self, what: &str) {
        let Self { mut cluster, load, judged, .. } = self;
        let (history, stats) = load.stop();
        assert_at_rest(&mut cluster, history);
        let gaps = cluster.gaps().len();
        println!("{what}: {judged} instants judged, {gaps} gaps, load {}", stats.to_json());
        cluster.stop_agent();
        cluster.stop_receiver();
    }
}

/// The story: the receiver stands still until the spool is full, twice, and comes back. The agent is never restarted.
#[test]
fn a_full_spool_opens_a_gap_that_a_resync_closes() {
    let mut story = Story::begin(11, 2000);
    let epochs = story.cluster.agent_status()["captured"].as_u64();
    for round in 1..=2 {
        story.load.wait_for(500);
        story.cluster.receiver.as_ref().unwrap().signal(Signal::STOP);
        story.fill();
        story.cluster.receiver.as_ref().unwrap().signal(Signal::CONT);
        story.judge();
        assert_eq!(story.cluster.gaps().len(), 1 + round, "{:?}", story.cluster.gaps());
    }
    let points = story.cluster.ask(&["points", "db"]).document();
    assert_eq!(points["gaps"].as_array().unwrap().last().unwrap()["reason"], "spool full", "{points}");
    assert!(story.cluster.agent_status()["captured"].as_u64() > epochs);
    story.cluster.assert_runs();
    story.end("stood still");
}

/// What was agreed to wait for room waits: no gap opens, and the client goes on when there is room.
#[test]
fn writes_that_wait_for_room_leave_no_gap() {
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(1, 16 << 20)).unwrap();
    cluster.protect = ["--spool-size", "4MiB", "--when-full", "block-writes"].map(Into::into).to_vec();
    cluster.begin();
    cluster.settle();
    let gaps = cluster.gaps();
    cluster.receiver.as_ref().unwrap().signal(Signal::STOP);
    let tap = cluster.tap();
    let writer = std::thread::spawn(move || {
        let mut client = Client::connect(&tap, "db").unwrap();
        for round in 0..MIBS {
            client.write((round % 16) << 20, &random(round, 1 << 20), false).unwrap();
        }
        client.flush().unwrap();
    });
    let waits = || {
        let status = cluster.agent_status();
        status["why"].as_str().is_some_and(|why| why.contains("writes wait for room")).then_some(())
    };
    wait_for("writes wait", waits, || cluster.words());
    assert!(!writer.is_finished());
    cluster.receiver.as_ref().unwrap().signal(Signal::CONT);
    writer.join().unwrap();
    cluster.settle();
    assert_eq!(cluster.gaps(), gaps);
    cluster.assert_same();
    // A stop does not wait for a receiver that stands still, and what waited is compared at the next start.
    cluster.receiver.as_ref().unwrap().signal(Signal::STOP);
    let tap = cluster.tap();
    let writer = std::thread::spawn(move || {
        let mut client = Client::connect(&tap, "db").unwrap();
        (0..MIBS).try_for_each(|round| client.write((round % 16) << 20, &random(100 + round, 1 << 20), false)).is_ok()
    });
    wait_for("writes wait", waits_in(&cluster), || cluster.words());
    cluster.stop_agent();
    assert!(!writer.join().unwrap(), "the client loses its volume with the agent");
    cluster.receiver.as_ref().unwrap().signal(Signal::CONT);
    cluster.start_agent();
    cluster.settle();
    assert_eq!(cluster.gaps().len(), gaps.len() + 1);
    cluster.assert_same();
    cluster.stop_agent();
    cluster.stop_receiver();
}

fn waits_in(cluster: &Cluster) -> impl FnMut() -> Option<()> {
    || {
        let status = cluster.agent_status();
        status["why"].as_str().is_some_and(|why| why.contains("writes wait for room")).then_some(())
    }
}

/// A flush is answered once the receiver has it, durably: then killing both loses nothing. If the receiver stands still, it is
/// answered after a while, and that is said; when it is back, flushes wait again.
#[test]
fn a_durable_flush_is_at_the_receiver() {
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(1, 4 << 20)).unwrap();
    cluster.protect = ["--flush", "durable", "--flush-wait", "500ms"].map(Into::into).to_vec();
    cluster.begin();
    cluster.settle();
    let (tap, mut held) = (cluster.tap(), 0);
    for round in 0..20 {
        let mut client = Client::connect(&tap, "db").unwrap();
        let data = random(100 + round, 4096);
        let fua = round % 2 == 0;
        client.write(round << 12, &data, fua).unwrap();
        if !fua {
            client.flush().unwrap();
        }
        // Not a moment later: what the receiver has is what it shows.
        assert_eq!(cluster.read("latest", round << 12, 4096).unwrap().unwrap(), data);
        held += 1;
    }
    cluster.receiver.as_ref().unwrap().signal(Signal::STOP);
    let mut client = Client::connect(&tap, "db").unwrap();
    client.write(0, &random(7, 4096), false).unwrap();
    client.flush().unwrap();
    let fallen = || cluster.agent_status()["flush"].as_str().is_some_and(|flush| flush == "local").then_some(());
    wait_for("local flushes", fallen, || cluster.words());
    assert!(cluster.agent.as_ref().unwrap().last_words().contains("flushes do not wait for the receiver any more"));
    cluster.receiver.as_ref().unwrap().signal(Signal::CONT);
    let back = || cluster.agent_status()["flush"].as_str().is_some_and(|flush| flush == "durable").then_some(());
    wait_for("durable flushes", back, || cluster.words());
    cluster.wait_durable();
    client.write(4096, &random(8, 4096), true).unwrap();
    assert_eq!(cluster.read("latest", 4096, 4096).unwrap().unwrap(), random(8, 4096));
    println!("{held} flushes and FUA writes were at the receiver when they were answered");
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// The story: an agent is stopped while changes are only tracked, started and stopped again before it could read any of them, and goes on
/// with these alone.
#[test]
fn what_is_left_to_be_read_at_a_stop_is_all_that_the_next_start_reads() {
    const BLOCK: u64 = 64 << 10;
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(1, usize::try_from(VOLUME_BYTES).unwrap())).unwrap();
    cluster.protect = ["--spool-size", SPOOL].map(Into::into).to_vec();
    cluster.begin();
    cluster.settle();
    cluster.mark("before");
    let before = fs::read(&cluster.source).unwrap();
    cluster.kill_receiver();
    let mut client = Client::connect(&cluster.tap(), "db").unwrap();
    let is_tracking = || cluster.agent_status()["state"] == "tracking";
    let mut written = 0;
    while !is_tracking() {
        (0..4).for_each(|part| client.write(part << 20, &random(100 + written + part, 1 << 20), false).unwrap());
        written += 4;
        assert!(written < MIBS, "the spool never was full");
    }
    for (round, at) in [20, 33, 50].into_iter().enumerate() {
        client.write((at << 20) + 4096, &random(7 + at, 512), round == 1).unwrap();
    }
    drop(client);
    // What a start says that is to be read: some MiB in which tracking began, and three blocks.
    let left = |cluster: &mut Cluster, most: u64| {
        cluster.stop_agent();
        cluster.start_agent();
        let total = cluster.agent_status()["progress"]["total_bytes"].as_u64().unwrap();
        assert!((3 * BLOCK..=(4 << 20) + most).contains(&total), "{total}: {}", cluster.words());
        total
    };
    let first = left(&mut cluster, 3 * BLOCK);
    cluster.write((60 << 20) + 4096, &random(9, 4096));
    let again = left(&mut cluster, 4 * BLOCK);
    assert!(again >= first);
    cluster.start_receiver();
    cluster.settle();
    cluster.assert_same();
    assert_eq!(cluster.gaps().len(), 2);
    assert!(cluster.image("mark:before") == before);
    // Once it is whole, a stop is one as ever.
    cluster.stop_agent();
    cluster.start_agent();
    cluster.settle();
    assert_eq!(cluster.gaps().len(), 2);
    // What somebody else wrote meanwhile is found all the same.
    cluster.kill_receiver();
    cluster.start_receiver();
    cluster.stop_agent();
    cluster.write_behind(40 << 20, &[7; 512]);
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
    println!("{first} and then {again} bytes of {VOLUME_BYTES} were left to be read");
    cluster.stop_agent();
    cluster.stop_receiver();
}
