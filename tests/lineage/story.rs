//! A protected volume under a stamped load, and the oracle that judges what the receiver says of it.

use std::path::Path;
use std::process::Command;

use oracle::{Rng, SizeShare, Volume, Workload, fill_initial};

use crate::common::PATIENCE;
use crate::common::cluster::Cluster;
use crate::common::judged::{Load, assert_gap, assert_latest, assert_legal, is_in_gap};
use crate::common::wait_for;

pub(crate) const VOLUME_BYTES: u64 = 8 << 20;

/// A cluster and its load.
pub(crate) struct Story {
    pub(crate) cluster: Cluster,
    pub(crate) load: Load,
    rng: Rng,
}

impl Story {
    /// Everything runs, is whole and is written to.
    pub(crate) fn live(seed: u64) -> Self {
        Self::begin(seed, |_| {}, 400)
    }

    /// As [`live`](Self::live), with another cluster, and so many writes in a second.
    pub(crate) fn begin(seed: u64, change: impl FnOnce(&mut Cluster), rate: u32) -> Self {
        let mut cluster = Cluster::new();
        change(&mut cluster);
        let volume = Volume::new(seed, VOLUME_BYTES);
        fill_initial(&cluster.source, &volume).unwrap();
        cluster.begin();
        let load = Workload {
            connections: 2,
            sizes: [(4096, 8), (65_536, 2)].map(|(bytes, weight)| SizeShare { bytes, weight }).to_vec(),
            seed,
            rate: Some(rate),
            flush_every: Some(64),
            trim_percent: 2,
            zero_percent: 2,
            reconnect: Some(PATIENCE),
            ..Workload::new(&cluster.tap(), "")
        };
        let load = Load::start(volume, load);
        let mut story = Self { cluster, load, rng: Rng::new(seed) };
        story.load.wait_for(200);
        story.cluster.settle();
        story
    }

    /// The newest point and some of all instants that are covered, up to `until`.
    #[track_caller]
    pub(crate) fn judge_until(&mut self, until: Option<u64>) {
        let (from, to) = self.cluster.window();
        let to = until.unwrap_or(to).min(to);
        let gaps = self.cluster.gaps();
        let mut instants: Vec<u64> = (0..6).map(|_| from + self.rng.below(to - from + 1)).collect();
        instants.extend(
            gaps.iter().flat_map(|gap| [Some(gap.from), gap.to]).flatten().filter(|at| (from..=to).contains(at)),
        );
        for instant in instants {
            match is_in_gap(instant, &gaps) {
                true => assert_gap(&self.cluster, instant),
                false => assert_legal(&self.cluster, instant, || self.load.history()),
            }
        }
    }

    /// It is live again: everything that is offered is right.
    #[track_caller]
    pub(crate) fn judge(&mut self) {
        self.load.wait_for(50);
        self.cluster.settle();
        self.cluster.assert_runs();
        let (_, floor) = self.cluster.window();
        assert_latest(&self.cluster, floor, || self.load.history());
        self.judge_until(None);
    }

    /// The load ends, and the newest point is the source.
    #[track_caller]
    pub(crate) fn end(mut self) {
        self.judge();
        let (_, _) = self.load.stop();
        self.cluster.settle();
        quiet(&self.cluster);
        self.cluster.assert_same();
        let verified = self.cluster.ask(&["verify", "db"]).document();
        assert_eq!(verified["ok"], true, "{verified}");
        // One that opens within another is not counted.
        assert_eq!(self.cluster.status()["gaps_total"], self.cluster.gaps().len());
        self.cluster.stop_agent();
        self.cluster.stop_receiver();
    }
}

/// Until all is durable.
#[track_caller]
pub(crate) fn quiet(cluster: &Cluster) {
    let done = || cluster.look().filter(|status| status["rpo_seconds"].as_f64() == Some(0.0));
    wait_for("all durable", done, || cluster.words());
}

/// As a backup program would, or a cloned machine.
pub(crate) fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

/// As from a backup: what is there goes first.
pub(crate) fn restore(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).unwrap();
    copy(from, to);
}
