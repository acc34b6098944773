//! SIGKILL for agent and receiver, and cuts of the link between them, at any moment and on every rung of the ladder, under load, as
//! long histories side by side: whatever was durable once stays so, and every instant that is covered is right, also those of before.
//!
//! `BACKSPOOL_KILL_ROUNDS` makes it longer, `BACKSPOOL_KILL_SEED` repeats its choices.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::cluster::Cluster;
use common::judged::{Load, assert_at_rest, judge_window, mixed};
use common::proxy::Proxy;
use common::wait_for;
use common::watch::Watch;
use oracle::{Micros, Rng, Volume, fill_initial};
use rustix::process::Signal;

const VOLUME_BYTES: u64 = 8 << 20;
const SPOOL: &str = "4MiB";
/// Clusters side by side: most of the time all of them wait.
const LANES: u64 = 6;
/// Rounds between two judgements: in the others nobody waits for anything to be whole.
const JUDGED_EVERY: u32 = 4;
/// Instants in each of them, beside the newest point.
const INSTANTS: u32 = 3;
const MEMORY_MAX_KIB: u64 = 256 << 10;

/// What was hit, and in which state of the agent.
type Hits = BTreeMap<(&'static str, String), u32>;

#[test]
fn hit_at_any_moment_nothing_durable_is_lost() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let rounds = u32::try_from(number("BACKSPOOL_KILL_ROUNDS").unwrap_or(200)).unwrap();
    let seed = number("BACKSPOOL_KILL_SEED").unwrap_or_else(|| Micros::now().0);
    println!("seed {seed}");
    let (begun, hits, started) = (AtomicU32::new(0), Mutex::new(Hits::new()), Instant::now());
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (begun, hits) = (&begun, &hits);
            scope.spawn(move || {
                let mut story = Story::begin(seed.wrapping_add(lane));
                let mut mine = 0;
                while begun.fetch_add(1, Ordering::Relaxed) < rounds {
                    story.round();
                    mine += 1;
                    if mine % JUDGED_EVERY == 0 {
                        story.judge();
                    }
                }
                let mut all = hits.lock().unwrap();
                story.hits.iter().for_each(|(hit, count)| *all.entry(hit.clone()).or_default() += count);
                drop(all);
                story.end(lane);
            });
        }
    });
    println!("{rounds} rounds in {:.1} s:", started.elapsed().as_secs_f64());
    for ((what, state), count) in hits.into_inner().unwrap() {
        println!("  {what:<16} {state:<12} {count}");
    }
}

struct Story {
    cluster: Cluster,
    proxy: Proxy,
    load: Load,
    watch: Watch,
    rng: Rng,
    hits: Hits,
    judged: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Receiver,
    Agent,
}

/// Where the agent is when it is hit, or about to be.
#[derive(Clone, Copy, PartialEq)]
enum Rung {
    Any,
    Spooling,
    Tracking,
    Resync,
}

impl Story {
    /// Everything runs; the first copy has hardly begun.
    fn begin(seed: u64) -> Self {
        let mut cluster = Cluster::new();
        let volume = Volume::new(seed, VOLUME_BYTES);
        fill_initial(&cluster.source, &volume).unwrap();
        cluster.protect = ["--spool-size", SPOOL].map(Into::into).to_vec();
        cluster.start_receiver();
        let proxy = Proxy::start(seed, cluster.listens().parse().unwrap());
        cluster.address = Some(proxy.address().to_string());
        cluster.join();
        cluster.start_agent();
        let load = mixed(&cluster, seed, VOLUME_BYTES / 16);
        let watch = Watch::start(cluster.store.join("control.sock"));
        let load = Load::start(volume, load);
        Self { cluster, proxy, load, watch, rng: Rng::new(seed), hits: Hits::new(), judged: 0 }
    }

    /// The agent comes to some rung, and then one or both are killed, or the link is cut.
    fn round(&mut self) {
        let rung = [Rung::Any, Rung::Spooling, Rung::Tracking, Rung::Resync][self.below(4)];
        // Held by the receiver, which stands still, or by the link.
        let by_link = self.rng.percent(30);
        if rung == Rung::Spooling {
            // With a spool that is not full yet.
            self.wait_agent("live");
        }
        if rung != Rung::Any {
            self.hold(by_link);
            match rung {
                Rung::Spooling => self.load.wait_for(10),
                _ => self.wait_agent("tracking"),
            }
        }
        if rung == Rung::Resync {
            self.release();
            // With the link back it takes a moment until there is a session.
            let begins = || {
                let state = self.cluster.agent_status()["state"].clone();
                (state != "tracking").then_some(())
            };
            wait_for("resync", begins, || self.cluster.words());
        }
        self.pause(if rung == Rung::Resync { 30 } else { 150 });
        let spools = rung == Rung::Spooling;
        match self.below(4) {
            0 => self.hit(("receiver killed", spools), &[Side::Receiver]),
            1 => self.hit(("agent killed", spools), &[Side::Agent]),
            2 if self.rng.percent(50) => self.hit(("both killed", spools), &[Side::Receiver, Side::Agent]),
            2 => self.hit(("both killed", spools), &[Side::Agent, Side::Receiver]),
            _ => self.cut(spools),
        }
        self.release();
        self.load.assert_runs();
        self.cluster.assert_runs();
    }

    /// Killed, now and then once more while they start.
    fn hit(&mut self, what: (&'static str, bool), sides: &[Side]) {
        self.note(what);
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
    }

    fn cut(&mut self, spools: bool) {
        self.note(("link cut", spools));
        self.proxy.cut();
        self.pause(300);
    }

    fn hold(&mut self, by_link: bool) {
        match by_link {
            true => self.proxy.cut(),
            false => self.cluster.receiver.as_ref().unwrap().signal(Signal::STOP),
        }
    }

    fn release(&mut self) {
        self.proxy.heal();
        self.cluster.receiver.as_ref().unwrap().signal(Signal::CONT);
    }

    fn wait_agent(&self, state: &str) {
        let reached = || (self.cluster.agent_status()["state"] == state).then_some(());
        wait_for(state, reached, || self.cluster.agent_status().to_string());
    }

    /// Status calls it spooling only once it has lasted for seconds.
    fn note(&mut self, (what, spools): (&'static str, bool)) {
        let status = self.cluster.agent_status();
        let state = match status["state"].as_str().unwrap() {
            "live" | "behind" | "stopped" if spools => "spooling",
            state => state,
        };
        *self.hits.entry((what, state.to_owned())).or_default() += 1;
    }

    /// Once it is live again: the newest point, and instants of the whole history.
    fn judge(&mut self) {
        self.cluster.settle();
        self.judged += judge_window(&self.cluster, &self.watch, &mut self.rng, INSTANTS, || self.load.history());
    }

    /// When all is quiet, the newest point is the source.
    fn end(self, lane: u64) {
        let Self { mut cluster, load, watch, judged, .. } = self;
        let (history, stats) = load.stop();
        let verified = assert_at_rest(&mut cluster, history);
        watch.check();
        cluster.note_memory();
        let (gaps, (receiver_kib, agent_kib)) = (cluster.gaps().len(), cluster.memory_max_kib);
        cluster.stop_agent();
        cluster.stop_receiver();
        println!(
            "lane {lane}: {judged} instants judged, {gaps} gaps, {} MiB verified; at most {} MiB of memory for the receiver, {} MiB \
             for the agent; load {}",
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

    fn below(&mut self, end: u64) -> usize {
        usize::try_from(self.rng.below(end)).unwrap()
    }

    fn pause(&mut self, max_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.rng.below(max_ms + 1)));
    }
}
