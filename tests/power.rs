//! Power cuts of the agent's and of the receiver's machine, or of both at once: the directory of each is on a file system of its own
//! that is shut down under load, without what it holds in memory, while its process is killed. Nothing that was called durable
//! before is missing, and every instant that is covered is right.
//!
//! The source is not cut: what it holds is what its host sees, and it must get to the receiver whatever the agent forgot.
//!
//! `BACKSPOOL_POWER_CUTS` asks for more, or fewer, than the usual 500; `BACKSPOOL_POWER_SEED` repeats the choices.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use common::cluster::Cluster;
use common::judged::{Load, assert_at_rest, judge_window};
use common::power::Disk;
use common::tools::missing;
use common::wait_for;
use common::watch::Watch;
use oracle::{Micros, Rng, SizeShare, Volume, Workload, fill_initial};

const VOLUME_BYTES: u64 = 4 << 20;
const SPOOL: &str = "4MiB";
/// What the agent's and the receiver's disks are, in clusters side by side: most of the time all of them wait.
const LANES: [(&str, &str); 8] = {
    let (plain, there, here) = (("ext4", "ext4"), ("ext4", "xfs"), ("xfs", "ext4"));
    [plain, plain, plain, plain, plain, plain, there, here]
};
/// Instants judged whenever it is live again, beside the newest point.
const INSTANTS: u32 = 2;
/// Of the receiver's power cuts: after so many the replica image is compared.
const IMAGES_PERCENT: u8 = 15;

/// Whose power was cut, on which file system, and in which state of the agent.
type Cuts = BTreeMap<(&'static str, String), u32>;

#[test]
fn a_power_cut_takes_nothing_that_was_durable() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let wanted = u32::try_from(number("BACKSPOOL_POWER_CUTS").unwrap_or(500)).unwrap();
    if missing(&["mkfs.xfs", "xfs_io"]) || wanted == 0 {
        return;
    }
    let seed = number("BACKSPOOL_POWER_SEED").unwrap_or_else(|| Micros::now().0);
    println!("seed {seed}");
    let (begun, cuts, started) = (AtomicU32::new(0), Mutex::new(Cuts::new()), Instant::now());
    std::thread::scope(|scope| {
        for (lane, disks) in (0..).zip(LANES) {
            let (begun, cuts) = (&begun, &cuts);
            scope.spawn(move || {
                let Some(mut story) = Story::begin(seed.wrapping_add(lane), disks) else { return };
                while begun.fetch_add(1, Ordering::Relaxed) < wanted {
                    story.round();
                }
                let mut all = cuts.lock().unwrap();
                story.cuts.iter().for_each(|(cut, count)| *all.entry(cut.clone()).or_default() += count);
                drop(all);
                story.end(lane);
            });
        }
    });
    let cuts = cuts.into_inner().unwrap();
    let total: u32 = cuts.values().sum();
    println!("{total} power cuts in {:.1} s:", started.elapsed().as_secs_f64());
    cuts.iter().for_each(|((whose, what), count)| println!("  {whose:<10} {what:<20} {count}"));
    assert!(total >= wanted, "some lane did not run");
}

struct Story {
    /// The agent's and the receiver's. Before what they lie in.
    disks: Option<[Disk; 2]>,
    load: Option<Load>,
    watch: Option<Watch>,
    cluster: Cluster,
    rng: Rng,
    cuts: Cuts,
    judged: u32,
    /// Times that the replica image was compared.
    images: u32,
}

/// Whose machine.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    Agent,
    Receiver,
    Both,
}

impl Story {
    /// What was joined is joined for good: both lose their power before anything is protected.
    fn begin(seed: u64, (agent, receiver): (&'static str, &'static str)) -> Option<Self> {
        let mut cluster = Cluster::new();
        let disks = [Disk::new(agent, cluster.path("a"))?, Disk::new(receiver, cluster.path("r"))?];
        (cluster.state, cluster.store) = (disks[0].dir().join("state"), disks[1].dir().join("store"));
        let volume = Volume::new(seed, VOLUME_BYTES);
        fill_initial(&cluster.source, &volume).unwrap();
        cluster.protect = ["--spool-size", SPOOL].map(Into::into).to_vec();
        let (rng, cuts) = (Rng::new(seed), Cuts::new());
        let mut story = Self { disks: Some(disks), load: None, watch: None, cluster, rng, cuts, judged: 0, images: 0 };
        story.cluster.start_receiver();
        story.cluster.join();
        story.cut(Whose::Both);
        story.boot(Whose::Both);
        let load = Workload {
            connections: 2,
            sizes: [(512, 1), (4096, 12), (16_384, 2)].map(|(bytes, weight)| SizeShare { bytes, weight }).to_vec(),
            seed,
            rate: Some(300),
            flush_every: Some(64),
            fua_percent: 2,
            zero_percent: 3,
            trim_percent: 3,
            reconnect: Some(common::PATIENCE),
            ..Workload::new(&story.cluster.tap(), "")
        };
        story.watch = Some(Watch::start(story.cluster.store.join("control.sock")));
        story.load = Some(Load::start(volume, load));
        Some(story)
    }

    fn round(&mut self) {
        // Now and then while they meet again; else when there is a session, and something to be compared, or all is live.
        if self.rng.percent(80) {
            let meets = || self.cluster.look_at_agent().filter(|it| it["state"] != "stopped").map(drop);
            wait_for("a session", meets, || self.cluster.words());
        }
        let max_ms = if self.rng.percent(50) { 30 } else { 200 };
        self.pause(max_ms);
        let whose = [Whose::Agent, Whose::Receiver, Whose::Both][usize::try_from(self.rng.below(3)).unwrap()];
        self.cut(whose);
        self.boot(whose);
        self.load.as_ref().unwrap().assert_runs();
        self.cluster.assert_runs();
        // In the others nobody waits for anything to be whole.
        if self.rng.percent(50) {
            self.cluster.settle();
            let Self { cluster, watch, load, rng, .. } = self;
            let (watch, load) = (watch.as_ref().unwrap(), load.as_ref().unwrap());
            self.judged += judge_window(cluster, watch, rng, INSTANTS, || load.history());
        }
        // Now and then nobody writes for a moment: then the replica image is what it says that it is.
        if whose != Whose::Agent && self.rng.percent(IMAGES_PERCENT) {
            self.load = self.load.take().map(|load| load.paused(|_| self.cluster.assert_image()));
            self.images += 1;
        }
    }

    /// At one moment: no file of that machine gets to its disk any more, and none of its processes runs.
    fn cut(&mut self, whose: Whose) {
        let log = self.rng.percent(30);
        let [agent, receiver] = self.disks.as_ref().unwrap();
        let state = self.cluster.look_at_agent().map_or_else(|| "down".to_owned(), |it| it["state"].to_string());
        let of = match whose {
            Whose::Agent => format!("{}, {state}", agent.fs()),
            Whose::Receiver => format!("{}, {state}", receiver.fs()),
            Whose::Both => format!("{}+{}, {state}", agent.fs(), receiver.fs()),
        };
        let name = match whose {
            Whose::Agent => "agent",
            Whose::Receiver => "receiver",
            Whose::Both => "both",
        };
        *self.cuts.entry((name, of)).or_default() += 1;
        let cluster = &mut self.cluster;
        let mut cut = || {
            if whose != Whose::Receiver {
                agent.cut(log);
            }
            if whose != Whose::Agent {
                receiver.cut(log);
            }
            // It may be that it has not been started yet.
            if whose != Whose::Receiver && cluster.agent.is_some() {
                cluster.kill_agent();
            }
            if whose != Whose::Agent {
                cluster.kill_receiver();
            }
        };
        // What is promised while the power goes nobody hears, and it is not always true: an ext4 lets an fdatasync succeed that runs into
        // its shutdown, now and then.
        match &self.watch {
            Some(watch) => watch.deaf(&mut cut),
            None => cut(),
        }
    }

    /// Switched on again.
    fn boot(&mut self, whose: Whose) {
        let [agent, receiver] = self.disks.as_mut().unwrap();
        if whose != Whose::Agent {
            receiver.boot();
            self.cluster.start_receiver();
        }
        if whose != Whose::Receiver {
            agent.boot();
            self.cluster.start_agent();
        }
    }

    /// When all is quiet, the newest point is the source.
    fn end(mut self, lane: u64) {
        let (history, stats) = self.load.take().unwrap().stop();
        let verified = assert_at_rest(&mut self.cluster, history);
        self.cluster.assert_image();
        self.watch.as_ref().unwrap().check();
        let gaps = self.cluster.gaps().len();
        self.cluster.stop_agent();
        self.cluster.stop_receiver();
        let said = |log: &str, what: &str| {
            let log = fs::read_to_string(self.cluster.path(log)).unwrap();
            log.lines().filter(|line| line.contains(what)).count()
        };
        println!(
            "lane {lane}: {} instants judged, {} replica images compared, {gaps} gaps, {} MiB verified; journals opened with something to mend: {}; spools that \
             were damaged: {}; receivers that lost what they had said: {}; load {}",
            self.judged,
            self.images + 1,
            verified["bytes_checked"].as_u64().unwrap() >> 20,
            said("receiver.log", "found while opening the journal"),
            said("agent.log", "the spool is damaged"),
            said("agent.log", "lost what it had called durable"),
            stats.to_json(),
        );
    }

    fn pause(&mut self, max_ms: u64) {
        std::thread::sleep(Duration::from_millis(self.rng.below(max_ms + 1)));
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        // Whatever has files open on the disks.
        self.watch = None;
        (self.cluster.agent, self.cluster.receiver) = (None, None);
        self.disks = None;
    }
}
