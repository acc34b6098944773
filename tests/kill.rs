//! SIGKILL for agent and receiver at any moment, under load, as one long history: whatever was durable once stays so, and
//! every instant that is covered is right, also those of before.
//!
//! `BACKSPOOL_KILL_ROUNDS` makes it longer, `BACKSPOOL_KILL_SEED` repeats its choices.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::time::{Duration, Instant};

use common::cluster::Cluster;
use common::judged::{Load, assert_at_rest, judge_window};
use common::watch::Watch;
use oracle::{Hot, Micros, Rng, SizeShare, Volume, Workload, fill_initial};

const VOLUME_BYTES: u64 = 64 << 20;
/// Rounds between two judgements: in the others nobody waits for anything to be whole.
const JUDGED_EVERY: u32 = 4;
/// Instants in each of them, beside the newest point.
const INSTANTS: u32 = 3;
const MEMORY_MAX_KIB: u64 = 256 << 10;

#[test]
fn killed_at_any_moment_nothing_durable_is_lost() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = u32::try_from(number("BACKSPOOL_KILL_ROUNDS").unwrap_or(50)).unwrap();
    let seed = number("BACKSPOOL_KILL_SEED").unwrap_or_else(|| Micros::now().0);
    println!("seed {seed}");
    let mut story = Story::begin(seed);
    for round in 1..=rounds {
        story.round();
        if round % JUDGED_EVERY == 0 || round == rounds {
            story.judge();
        }
    }
    story.end();
}

struct Story {
    cluster: Cluster,
    load: Load,
    watch: Watch,
    rng: Rng,
    started: Instant,
    kills: [u32; 2],
    judged: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Receiver,
    Agent,
}

impl Story {
    /// Everything runs; the first copy has hardly begun.
    fn begin(seed: u64) -> Self {
        let mut cluster = Cluster::new();
        let volume = Volume::new(seed, VOLUME_BYTES);
        fill_initial(&cluster.source, &volume).unwrap();
        cluster.begin();
        let load = Workload {
            connections: 4,
            sizes: [(512, 1), (4096, 12), (16_384, 2), (65_536, 1)]
                .map(|(bytes, weight)| SizeShare { bytes, weight })
                .to_vec(),
            hot: Some(Hot { bytes: VOLUME_BYTES / 16, percent: 50 }),
            seed,
            rate: Some(1000),
            flush_every: Some(64),
            fua_percent: 2,
            zero_percent: 3,
            trim_percent: 3,
            reconnect: Some(common::PATIENCE),
            ..Workload::new(&cluster.tap(), "")
        };
        let watch = Watch::start(cluster.store.join("control.sock"));
        let load = Load::start(volume, load);
        let rng = Rng::new(seed);
        Self { cluster, load, watch, rng, started: Instant::now(), kills: [0; 2], judged: 0 }
    }

    /// One or both are killed, now and then once more while they start.
    fn round(&mut self) {
        self.pause(300);
        let sides: &[Side] = match self.rng.below(4) {
            0 => &[Side::Receiver],
            1 => &[Side::Agent],
            2 => &[Side::Receiver, Side::Agent],
            _ => &[Side::Agent, Side::Receiver],
        };
        sides.iter().for_each(|side| self.kill(*side));
        if self.rng.percent(30) {
            self.pause(200);
        }
        for side in sides {
            if self.rng.percent(30) {
                self.spawn(*side);
                self.pause(60);
                self.kill(*side);
            }
            self.start(*side);
        }
        self.load.assert_runs();
        self.cluster.assert_runs();
    }

    /// Once it is live again: the newest point, and instants of the whole history.
    fn judge(&mut self) {
        self.cluster.settle();
        self.judged += judge_window(&self.cluster, &self.watch, &mut self.rng, INSTANTS, || self.load.history());
    }

    /// When all is quiet, the newest point is the source.
    fn end(self) {
        let Self { mut cluster, load, watch, started, kills, judged, .. } = self;
        let (history, stats) = load.stop();
        let verified = assert_at_rest(&mut cluster, history);
        watch.check();
        cluster.note_memory();
        let (gaps, (receiver_kib, agent_kib)) = (cluster.gaps().len(), cluster.memory_max_kib);
        cluster.stop_agent();
        cluster.stop_receiver();
        println!(
            "{} kills of the receiver, {} of the agent in {:.1} s; {judged} instants judged, {gaps} gaps, {} MiB verified; \
             at most {} MiB of memory for the receiver, {} MiB for the agent; load {}",
            kills[0],
            kills[1],
            started.elapsed().as_secs_f64(),
            verified["bytes_checked"].as_u64().unwrap() >> 20,
            receiver_kib >> 10,
            agent_kib >> 10,
            stats.to_json(),
        );
        assert!(receiver_kib <= MEMORY_MAX_KIB && agent_kib <= MEMORY_MAX_KIB, "too much memory");
    }

    fn kill(&mut self, side: Side) {
        match side {
            Side::Receiver => self.cluster.kill_receiver(),
            Side::Agent => self.cluster.kill_agent(),
        }
        self.kills[usize::from(side == Side::Agent)] += 1;
    }

    fn spawn(&mut self, side: Side) {
        match side {
            Side::Receiver => self.cluster.spawn_receiver(),
            Side::Agent => self.cluster.spawn_agent(),
        }
    }

    fn start(&mut self, side: Side) {
        match side {
            Side::Receiver => self.cluster.start_receiver(),
            Side::Agent => self.cluster.start_agent(),
        }
    }

    fn pause(&mut self, max_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.rng.below(max_ms + 1)));
    }
}
