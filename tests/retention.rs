//! Retention with real processes: history that is not kept goes, the space comes back, and what is kept, pinned or locked is as it was, also when the
//! receiver is killed, or its disk fails, at each step of it.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::collections::BTreeMap;
use std::fs;

use common::cluster::{Cluster, assert_equal, random};
use common::wait_for;
use journal::failpoint::Step;
use serde_json::Value;

/// Of the volume; a round writes all of it.
const SIZE: usize = 8 << 20;
const BLOCK: usize = 1 << 20;
const STEPS: [Step; 6] = [
    Step::PointsWritten,
    Step::HistoryThinned,
    Step::CompactedWritten,
    Step::CompactedDurable,
    Step::SegmentReplaced,
    Step::ReplacedRemoved,
];

/// A cluster with a history, and what the volume held at some of its points.
struct Story {
    cluster: Cluster,
    seed: u64,
    known: BTreeMap<String, Vec<u8>>,
}

impl Story {
    fn begin() -> Self {
        let cluster = Cluster::live(&random(1, SIZE));
        Self { cluster, seed: 2, known: BTreeMap::new() }
    }

    /// Overwrites the whole volume, several times; no block twice with the same.
    fn write(&mut self, rounds: usize) {
        self.overwrite(rounds);
        self.cluster.wait_durable();
    }

    /// The same, with a receiver that may end meanwhile.
    fn overwrite(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for offset in (0..SIZE).step_by(BLOCK) {
                self.cluster.write(u64::try_from(offset).unwrap(), &random(self.seed, BLOCK));
                self.seed += 1;
            }
        }
    }

    fn mark(&mut self, name: &str, more: &[&str]) {
        let socket = self.cluster.state.join("agent.sock");
        let args = [&["mark", "db", name, "--socket", socket.to_str().unwrap()], more].concat();
        common::process::call(&self.cluster.args(&common::process::words(&args))).document();
        self.known.insert(format!("mark:{name}"), fs::read(&self.cluster.source).unwrap());
    }

    /// The newest point, by its place.
    fn place(&mut self) -> String {
        self.cluster.wait_durable();
        let seq = self.cluster.status()["receivers"][0]["durable"].as_u64().unwrap();
        format!("seq:{seq}")
    }

    fn retention(&self, args: &[&str]) -> Value {
        self.cluster.ask(&[&["retention", "db"], args].concat()).document()
    }

    /// What is known is as it was; from the journal, and as a restored file.
    #[track_caller]
    fn check(&self) {
        for (at, content) in &self.known {
            assert_equal(&self.cluster.image(at), content);
        }
        let (at, content) = self.known.first_key_value().unwrap();
        let to = self.cluster.path("restored.img");
        self.cluster.restore(at, &to, &["--force"]).document();
        assert_equal(&fs::read(to).unwrap(), content);
        self.cluster.assert_same();
    }

    /// Until cleaning has nothing left to do; what `retention` says then.
    #[track_caller]
    fn wait_cleaned(&self, bytes: u64) -> Value {
        let small = || self.cluster.look().filter(|status| status["store_bytes"].as_u64().unwrap() < bytes);
        wait_for("cleaned", small, || format!("{}{}", self.retention(&["--explain"]), self.cluster.words()));
        self.retention(&["--explain"])
    }
}

const SHORT: [&str; 9] = ["--every-write", "1s", "--every-minute", "0", "--hourly", "0", "--marks", "1y", "--yes"];

#[test]
fn what_is_not_kept_goes_and_what_is_stays_through_a_kill_at_each_step() {
    let mut story = Story::begin();
    story.write(4);
    story.mark("early", &[]);
    story.write(4);
    let held = story.place();
    story.known.insert(held.clone(), fs::read(&story.cluster.source).unwrap());
    story.cluster.ask(&["rollback", "db", "--at", &held, "--yes"]).document();
    story.write(4);
    // A write within a round: nobody has a reason to keep it.
    let place: u64 = story.place().trim_start_matches("seq:").parse().unwrap();
    let between = format!("seq:{}", place - 5);
    story.write(4);
    story.mark("locked", &["--lock", "30d"]);
    story.write(16);
    let before = story.cluster.status()["store_bytes"].as_u64().unwrap();
    assert!(before > 200 << 20, "{before} bytes of history");

    let shown = story.retention(&[]);
    assert_eq!((&shown["keeps"], shown["clock"]["trusted"].as_bool()), (&Value::Null, Some(true)));
    // All but the newest grows old enough.
    let plan = || story.retention(&[&SHORT[..8], &["--dry-run"]].concat());
    let goes = || Some(plan()).filter(|planned| planned["left"]["points"].as_u64() >= Some(3));
    let planned = wait_for("old enough", goes, || plan().to_string());
    assert_eq!((planned["shortens"].as_bool(), planned["applied"].as_bool()), (Some(true), Some(false)));
    assert_eq!(story.retention(&[])["keeps"], Value::Null, "a plan changes nothing");
    story.cluster.ask(&[&["retention", "db"], &SHORT[..8]].concat()).refused(2, "Keep less of db?");

    story.cluster.stop_receiver();
    for (at, step) in STEPS.into_iter().enumerate() {
        // Each finds what the one before has left, and gets one step further.
        story.cluster.failpoints.0 = Some(step.name().to_owned());
        story.cluster.start_receiver();
        if at == 0 {
            // It may be gone before it has answered.
            let _ = story.cluster.ask(&[&["retention", "db"], &SHORT[..]].concat());
        }
        if step == Step::ReplacedRemoved {
            // What the step before has replaced is done.
            story.overwrite(32);
        }
        story.cluster.wait_receiver_killed();
    }
    story.cluster.start_receiver();
    story.cluster.settle();
    story.check();
    let told = story.wait_cleaned(before * 2 / 3);
    assert_eq!(told["keeps"]["every_write"], serde_json::json!({"seconds": 1, "from": "group"}));
    story.check();
    let refused = story.cluster.ask(&[
        "restore",
        "db",
        "--at",
        &between,
        "--to",
        story.cluster.path("none.img").to_str().unwrap(),
    ]);
    assert_eq!(refused.exit, 13, "{}", refused.stderr);
    // What the image was held at is kept for as long as it can go back there.
    story.cluster.ask(&["rollback", "db", "--undo", "--yes"]).document();
    let verified = story.cluster.ask(&["verify", "db"]).document();
    assert_eq!(verified["findings"], serde_json::json!([]));
    story.cluster.assert_runs();
}

/// A disk that fails in the middle of it: the journal is opened anew, and what was begun is done.
#[test]
fn a_failing_disk_only_puts_it_off() {
    let mut story = Story::begin();
    story.write(4);
    story.mark("early", &[]);
    story.write(24);
    let before = story.cluster.status()["store_bytes"].as_u64().unwrap();
    story.cluster.stop_receiver();
    let steps: Vec<String> = STEPS.iter().map(|step| format!("{}:eio", step.name())).collect();
    story.cluster.failpoints.0 = Some(steps.join(","));
    story.cluster.start_receiver();
    story.cluster.settle();
    story.retention(&SHORT);
    story.wait_cleaned(before * 2 / 3);
    story.write(24);
    let log = || fs::read_to_string(story.cluster.path("receiver.log")).unwrap();
    for step in STEPS {
        let failed = || log().contains(&format!("failpoint {}", step.name())).then_some(());
        wait_for(step.name(), failed, log);
    }
    story.wait_cleaned(before * 2 / 3);
    story.cluster.settle();
    story.check();
    story.cluster.assert_runs();
}
