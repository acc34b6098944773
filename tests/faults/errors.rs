//! Disks that return errors, as the real processes meet them: what failed is over and says so, the rest goes on, nothing that was
//! durable is missing, and all of it works again by itself when the disk does.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use oracle::{Rng, Volume, Workload, fill_initial};

use crate::common::PATIENCE;
use crate::common::cluster::{Cluster, random};
use crate::common::judged::{Load, judge_window};
use crate::common::wait_for;
use crate::common::watch::Watch;
use crate::failing::{Failing, files_of};

const VOLUME_BYTES: u64 = 4 << 20;
const OTHER_BYTES: usize = 1 << 20;
/// Instants that are judged each time.
const INSTANTS: u32 = 6;

/// The group `db` under load, which the oracle records, and a group `other` beside it.
struct Busy {
    cluster: Cluster,
    load: Load,
    watch: Watch,
    rng: Rng,
    /// How often something was written to the other group.
    others: u64,
}

impl Busy {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::new();
        let volume = Volume::new(seed, VOLUME_BYTES);
        fill_initial(&cluster.source, &volume).unwrap();
        fs::write(cluster.path("other.img"), random(seed, OTHER_BYTES)).unwrap();
        let mut other = OsString::from("other=");
        other.push(cluster.path("other.img"));
        cluster.protect = vec![other];
        cluster.begin();
        cluster.settle();
        let watch = Watch::start(cluster.store.join("control.sock"));
        let workload = Workload {
            connections: 2,
            seed,
            rate: Some(400),
            flush_every: Some(32),
            reconnect: Some(PATIENCE),
            ..Workload::new(&cluster.tap(), "db")
        };
        let load = Load::start(volume, workload);
        load.wait_for(50);
        Self { cluster, load, watch, rng: Rng::new(seed), others: 0 }
    }

    /// The store's files of `db`.
    fn store(&self) -> Vec<PathBuf> {
        files_of(&self.cluster, &self.cluster.store, "")
    }

    /// The other group takes writes and makes them durable: a mark says so.
    #[track_caller]
    fn assert_other_goes_on(&mut self) {
        self.others += 1;
        self.cluster.write_to("other", 8192, &random(self.others, 4096));
        let name = format!("other-{}", self.others);
        self.cluster.ask(&["mark", "other", &name]).document();
        assert_eq!(self.cluster.state_of("other").as_deref(), Some("live"));
    }

    /// Once it is live again, nothing that was durable is missing, and every instant is right.
    #[track_caller]
    fn assert_well(&mut self) {
        self.cluster.settle();
        self.load.wait_for(50);
        self.cluster.wait_durable();
        judge_window(&self.cluster, &self.watch, &mut self.rng, INSTANTS, || self.load.history());
    }

    #[track_caller]
    fn end(mut self) {
        self.assert_well();
        self.assert_other_goes_on();
        let Self { mut cluster, load, watch, .. } = self;
        load.stop();
        cluster.settle();
        cluster.assert_same();
        for group in ["db", "other"] {
            assert_eq!(cluster.ask(&["verify", group]).document()["ok"], true);
        }
        watch.check();
        drop(watch);
        cluster.stop_agent();
        cluster.stop_receiver();
    }
}

#[test]
fn a_receiver_that_cannot_sync_one_group_says_so_and_serves_the_others() {
    let mut busy = Busy::new(1);
    let gaps = busy.cluster.gaps();
    let receiver = busy.cluster.receiver.as_ref().unwrap();
    let Some(failing) = Failing::start(receiver, ("fdatasync", "EIO", "1+"), &busy.store()) else { return };
    failing.wait(&busy.cluster);
    let status = busy.cluster.wait_state("damaged");
    assert!(status["why"].as_str().unwrap().contains("sync"), "{status}");
    let durable = status["receivers"][0]["durable"].as_u64();
    busy.assert_other_goes_on();
    // The host does not notice, and what was durable is served.
    busy.load.wait_for(200);
    let (from, to) = busy.cluster.window();
    for instant in [from, to] {
        crate::common::judged::assert_legal(&busy.cluster, instant, || busy.load.history());
    }
    assert_eq!(busy.cluster.status()["receivers"][0]["durable"].as_u64(), durable, "nothing more is promised");
    busy.cluster.assert_runs();
    drop(failing);
    busy.assert_well();
    assert_eq!(busy.cluster.gaps(), gaps, "the agent kept what was not promised");
    // Nor is it only in memory.
    busy.cluster.kill_receiver();
    busy.cluster.start_receiver();
    assert_eq!(busy.cluster.gaps(), gaps);
    busy.end();
}

#[test]
fn a_call_of_the_receiver_that_fails_once_costs_nothing() {
    let mut busy = Busy::new(2);
    let gaps = busy.cluster.gaps();
    let calls =
        [("fdatasync", "EIO", "1"), ("pwritev", "EIO", "1"), ("pwritev", "ENOSPC", "1"), ("pwritev", "EIO", "3")];
    for call in calls {
        let receiver = busy.cluster.receiver.as_ref().unwrap();
        let Some(failing) = Failing::start(receiver, call, &busy.store()) else { return };
        failing.wait(&busy.cluster);
        drop(failing);
        busy.assert_well();
        busy.assert_other_goes_on();
    }
    assert_eq!(busy.cluster.gaps(), gaps);
    busy.end();
}

#[test]
fn a_spool_that_cannot_be_written_opens_a_gap_and_is_begun_anew() {
    let mut busy = Busy::new(3);
    for (round, error) in (1..).zip(["EIO", "ENOSPC"]) {
        let spool = files_of(&busy.cluster, &busy.cluster.state, "spool");
        let agent = busy.cluster.agent.as_ref().unwrap();
        let Some(failing) = Failing::start(agent, ("pwritev", error, "1+"), &spool) else { return };
        failing.wait(&busy.cluster);
        wait_for("a gap", || busy.cluster.gaps().get(round).copied(), || busy.cluster.words());
        busy.load.wait_for(100);
        busy.assert_other_goes_on();
        drop(failing);
        // The same agent: what was tracked is read again, nothing else.
        busy.assert_well();
        assert_eq!(busy.cluster.gaps().len(), round + 1);
        assert!(busy.cluster.agent.as_ref().unwrap().last_words().contains("the spool cannot be written"));
    }
    busy.end();
}

#[test]
fn a_state_that_cannot_be_written_does_not_end_capture_and_proves_nothing() {
    let mut busy = Busy::new(4);
    let mut state = files_of(&busy.cluster, &busy.cluster.state, "");
    state.push(state[0].with_file_name("state.json.tmp"));
    let agent = busy.cluster.agent.as_ref().unwrap();
    let Some(failing) = Failing::start(agent, ("fdatasync", "EIO", "1+"), &state) else { return };
    failing.wait(&busy.cluster);
    busy.assert_well();
    assert_eq!(busy.cluster.gaps().len(), 1);
    // A clean stop that cannot be remembered is none.
    assert_eq!(busy.cluster.agent.take().unwrap().terminate(), 1);
    drop(failing);
    busy.cluster.start_agent();
    busy.assert_well();
    assert_eq!(busy.cluster.gaps().len(), 2);
    busy.end();
}
