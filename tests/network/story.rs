//! A cluster with the proxy in its middle, a load on its tap, and the judge.

use std::time::{Duration, Instant};

use oracle::{Hot, Micros, Rng, SizeShare, Stats, Volume, Workload, fill_initial};
use serde_json::Value;

use crate::common::cluster::Cluster;
use crate::common::judged::{Load, assert_latest, judge_window};
use crate::common::proxy::{Proxy, Weather};
use crate::common::watch::Watch;
use crate::common::{PATIENCE, wait_for};

/// What it begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) volume_bytes: u64,
    /// Operations a second, of 5 KiB on average.
    pub(crate) rate: u32,
    /// From the agent's first word on.
    pub(crate) weather: Weather,
}

pub(crate) struct Story {
    pub(crate) cluster: Cluster,
    pub(crate) proxy: Proxy,
    pub(crate) load: Load,
    pub(crate) rng: Rng,
    watch: Watch,
    seed: u64,
    started: Instant,
    judged: u32,
}

/// The longest that a write may take: what waits for the network takes as long as the network is gone, and every story has it
/// gone or slow for longer than this. A busy machine alone does not reach it.
const WRITE_MAX: Duration = Duration::from_secs(10);

impl Default for Plan {
    fn default() -> Self {
        Self { seed: crate::seed(), volume_bytes: 16 << 20, rate: 200, weather: Weather::default() }
    }
}

impl Story {
    /// Everything runs; the first copy has hardly begun.
    pub(crate) fn begin(plan: Plan) -> Self {
        let Plan { seed, volume_bytes, rate, weather } = plan;
        println!("seed {seed}");
        let mut cluster = Cluster::new();
        let volume = Volume::new(seed, volume_bytes);
        fill_initial(&cluster.source, &volume).unwrap();
        let proxy = between(&mut cluster, seed);
        proxy.set_both(weather);
        let watch = Watch::start(cluster.store.join("control.sock"));
        cluster.join();
        cluster.start_agent();
        let load = load(&cluster, volume, rate);
        Self { cluster, proxy, load, rng: Rng::new(seed), watch, seed, started: Instant::now(), judged: 0 }
    }

    /// Once it is live: the newest point, and instants of the whole history.
    #[track_caller]
    pub(crate) fn judge(&mut self) {
        self.cluster.settle();
        self.judged += judge_window(&self.cluster, &self.watch, &mut self.rng, 3, || self.load.history());
    }

    /// As a crash of the agent's process: whatever it had is compared when it is back.
    pub(crate) fn crash_agent(&mut self) {
        self.cluster.kill_agent();
        self.cluster.start_agent();
    }

    pub(crate) fn pause(&mut self, max_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.rng.below(max_ms + 1)));
    }

    /// Until the receiver no more believes that it has a session.
    #[track_caller]
    pub(crate) fn wait_stopped(&self) -> Value {
        self.cluster.wait_state("stopped")
    }

    /// When all is quiet, the newest point is the source.
    #[track_caller]
    pub(crate) fn end(self) {
        let Self { mut cluster, proxy, load, watch, started, judged, seed, .. } = self;
        let said = quiet(&mut cluster, load, &watch);
        let seconds = started.elapsed().as_secs_f64();
        println!("{said}, {judged} instants judged, {seconds:.1} s; {proxy}; story {seed}");
    }
}

/// Writes of several sizes, at so many a second, some more often to the same places.
pub(crate) fn load(cluster: &Cluster, volume: Volume, rate: u32) -> Load {
    let workload = Workload {
        connections: 2,
        sizes: [(512, 1), (4096, 12), (16_384, 2)].map(|(bytes, weight)| SizeShare { bytes, weight }).to_vec(),
        hot: Some(Hot { bytes: volume.size_bytes / 16, percent: 50 }),
        seed: volume.seed,
        rate: Some(rate),
        flush_every: Some(64),
        fua_percent: 2,
        zero_percent: 3,
        trim_percent: 3,
        reconnect: Some(PATIENCE),
        ..Workload::new(&cluster.tap(), "")
    };
    Load::start(volume, workload)
}

/// Ends the load, and all of it; says what there was.
#[track_caller]
pub(crate) fn quiet(cluster: &mut Cluster, load: Load, watch: &Watch) -> String {
    cluster.assert_runs();
    let (history, stats) = load.stop();
    cluster.settle();
    let quiet = || cluster.look().filter(|status| status["rpo_seconds"].as_f64() == Some(0.0));
    wait_for("all durable", quiet, || cluster.words());
    cluster.assert_same();
    assert_latest(cluster, history.ops().iter().filter_map(|op| op.acked).max().unwrap().0, || history);
    let verified = cluster.ask(&["verify", "db"]).document();
    assert_eq!(verified["ok"], true, "{verified}");
    watch.check();
    let gaps = cluster.gaps().len();
    cluster.stop_agent();
    cluster.stop_receiver();
    assert_host_first(&stats);
    format!("{} writes, the slowest {} ms; {gaps} gaps", stats.ops, stats.latency_us.max() / 1000)
}

/// Starts the receiver with a proxy in front of it, where agents will find it.
pub(crate) fn between(cluster: &mut Cluster, seed: u64) -> Proxy {
    cluster.start_receiver();
    let proxy = Proxy::start(seed, cluster.listens().parse().unwrap());
    cluster.address = Some(proxy.address().to_string());
    proxy
}

/// No write failed, and none waited for the network.
#[track_caller]
fn assert_host_first(stats: &Stats) {
    let slowest = Duration::from_micros(stats.latency_us.max());
    assert_eq!(stats.refused, 0, "{}", stats.to_json());
    assert!(slowest < WRITE_MAX, "a write waited: {}", stats.to_json());
}

/// Now, as the points have it.
pub(crate) fn now() -> u64 {
    Micros::now().0
}
