//! The source itself goes back to an earlier point and forth again, with real processes: the file is compared with copies of it that were
//! made while nobody wrote. Refused cases, crashes of either side at any moment.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::fs;
use std::time::Duration;

use common::cluster::{Cluster, assert_equal, random};
use common::judged::{Load, mixed};
use common::wait_for;
use journal::failpoint::Step;
use oracle::{Client, Rng, Volume, fill_initial};
use rustix::process::Signal;
use serde_json::Value;

const SIZE: u64 = 8 << 20;

/// A volume under stamped writes that had a mark in the middle: the cluster, what the source held at the mark, and what it holds now.
struct Story {
    cluster: Cluster,
    then: Vec<u8>,
    now: Vec<u8>,
}

const MARK: &str = "then";

impl Story {
    fn new(seed: u64) -> Self {
        let mut cluster = Cluster::new();
        let volume = Volume::new(seed, SIZE);
        fill_initial(&cluster.source, &volume).unwrap();
        cluster.begin();
        cluster.settle();
        let load = Load::start(volume, mixed(&cluster, seed, SIZE / 8));
        load.wait_for(300);
        let mut then = Vec::new();
        let load = load.paused(|_| {
            cluster.mark(MARK);
            then = cluster.content();
        });
        load.wait_for(300);
        load.stop();
        cluster.settle();
        let now = cluster.content();
        assert_ne!(then, now);
        Self { cluster, then, now }
    }

    /// Nothing was done to the source, and clients come in.
    #[track_caller]
    fn assert_untouched(&self) {
        assert_equal(&self.cluster.content(), &self.now);
        assert_eq!(self.cluster.agent_status()["rollback"], Value::Null);
        self.cluster.client().disconnect().unwrap();
        self.wait_no_clients();
    }

    fn wait_no_clients(&self) {
        let gone = || (self.cluster.agent_status()["clients"] == 0).then_some(());
        wait_for("no clients", gone, || self.cluster.words());
    }

    fn end(mut self) {
        self.cluster.assert_runs();
        self.cluster.stop_agent();
        self.cluster.stop_receiver();
    }
}

#[test]
fn the_source_goes_back_and_forth_again() {
    let story = Story::new(1);
    let Story { cluster, then, now } = &story;
    cluster.go_back(&["--at", "mark:then"]).refused(12, "was not told that its sources may be written to");
    story.assert_untouched();

    cluster.allow();
    let left = cluster.agent_status()["allowed_seconds"].as_f64().unwrap();
    assert!((500.0..=600.0).contains(&left), "{left}");
    let plan = cluster.go_back(&["--at", "mark:then", "--dry-run"]).document();
    assert_eq!((&plan["bytes_written"], &plan["point"]["mark"]), (&Value::from(0), &Value::from(MARK)));
    story.assert_untouched();

    let client = cluster.client();
    cluster.go_back(&["--at", "mark:then"]).refused(11, "1 client is attached to the tap of db");
    client.disconnect().unwrap();
    story.wait_no_clients();
    story.assert_untouched();

    let done = cluster.go_back(&["--at", "mark:then"]).document();
    let differ = then.chunks(4096).zip(now.chunks(4096)).filter(|(one, other)| one != other).count();
    assert_eq!(done["blocks_written"], Value::from(differ), "only what differs is written");
    assert_eq!(done["bytes_written"], Value::from(differ * 4096));
    cluster.assert_is_back(then, MARK);
    let before = done["before"].as_str().unwrap().to_owned();
    assert_equal(&cluster.image(&format!("mark:{before}")), now);
    assert_no_point_within(cluster, 1);

    // It is a volume like any other, and its history goes on.
    cluster.write(4096, &[0xab; 8192]);
    cluster.mark("after");
    let after = cluster.content();
    cluster.go_back(&["--undo"]).document();
    cluster.assert_is_back(now, &before);
    cluster.go_back(&["--undo"]).document();
    cluster.assert_is_back(&after, "after");
    assert_equal(&cluster.image("mark:then"), then);
    assert_no_point_within(cluster, 3);
    let again = cluster.go_back(&["--at", "mark:after"]).document();
    assert_eq!(again["blocks_written"], 0, "it was there");
    story.end();
}

/// Of so many rollbacks there were, the timeline shows each as a stretch without points, and none of the points lies in one.
#[track_caller]
fn assert_no_point_within(cluster: &Cluster, count: usize) {
    let points = cluster.ask(&["points", "db", "--limit", "100000"]).document();
    let all = points["gaps"].as_array().unwrap();
    let rollbacks: Vec<_> = all.iter().filter(|gap| gap["reason"] == "rollback").collect();
    assert_eq!(rollbacks.len(), count, "{all:?}");
    for gap in rollbacks {
        let (from, to) = (gap["from_seq"].as_u64().unwrap(), gap["to_seq"].as_u64().unwrap());
        assert!(from <= to);
        let seqs = points["points"].as_array().unwrap().iter().map(|point| point["seq"].as_u64().unwrap());
        assert_eq!(seqs.filter(|seq| (from..=to).contains(seq)).count(), 0, "{gap}");
        let call = cluster.ask(&["points", "db", "--limit", "1", "--until", &format!("seq:{to}")]);
        let last = call.document()["points"][0]["seq"].as_u64().unwrap();
        assert!(last < from, "{last} is offered within {gap}");
        let path = cluster.path("within.img");
        cluster.restore(&format!("seq:{to}"), &path, &[]).refused(13, "no recovery point");
    }
}

#[test]
fn what_is_not_allowed_or_cannot_be_is_refused_and_nothing_is_touched() {
    let mut story = Story::new(2);
    let cluster = &story.cluster;
    let allow = |time: &str| cluster.ask_agent(&["allow", "db", "--for", time]);
    let refused = |more: &[&str], exit: i32, says: &str| cluster.go_back(more).refused(exit, says);
    allow("25h").refused(2, "at most 86400 s");
    allow("soon").refused(2, "not a length of time");
    cluster.ask_agent(&["allow", "nothing", "--for", "1m"]).refused(10, "no group");
    allow("1s").document();
    std::thread::sleep(Duration::from_millis(1100));
    refused(&["--at", "mark:then"], 12, "was not told");
    cluster.allow();
    allow("0s").document();
    assert_eq!(cluster.agent_status()["allowed_seconds"], Value::Null);
    refused(&["--at", "mark:then", "--dry-run"], 12, "was not told");

    cluster.allow();
    refused(&["--at", "mark:never"], 13, "no recovery point");
    refused(&["--at", "2020-01-01T00:00:00Z"], 13, "no recovery point");
    refused(&["--undo"], 11, "no rollback of the sources to take back");
    let image = ["rollback", "db", "--yes", "--at", "mark:then", "--force-attached"];
    assert_eq!(cluster.ask(&image).exit, 2, "it is for --live");
    // Without --yes nobody can be asked here.
    cluster.ask(&["rollback", "db", "--live", "--at", "mark:then"]).refused(2, "Overwrite the source of db?");
    story.assert_untouched();

    // What it had then it has not now: it has grown.
    fs::File::options().write(true).open(&cluster.source).unwrap().set_len(SIZE + 4096).unwrap();
    let size = || (cluster.status()["volumes"][0]["size_bytes"] == SIZE + 4096).then_some(());
    wait_for("larger", size, || cluster.words());
    refused(&["--at", "mark:then"], 1, "has 8392704 bytes now and had 8388608 at that point");
    story.now.extend([0; 4096]);
    story.assert_untouched();

    // The permission ends with the process; and without one nothing can be asked.
    let Story { cluster, .. } = &mut story;
    cluster.mark("larger");
    cluster.stop_agent();
    cluster.go_back(&["--at", "mark:larger"]).refused(16, "the agent of db is not connected");
    cluster.start_agent();
    cluster.settle();
    cluster.go_back(&["--at", "mark:larger"]).refused(12, "was not told");
    story.assert_untouched();
    story.end();
}

#[test]
fn clients_that_are_put_out_write_nothing_any_more() {
    let story = Story::new(3);
    let Story { cluster, then, now } = &story;
    cluster.allow();
    let mut attached = cluster.client();
    attached.write(0, &now[..4096], true).unwrap();
    let plan = cluster.go_back(&["--at", "mark:then", "--force-attached", "--dry-run"]);
    assert!(plan.stderr.contains("put out"), "{plan:?}");
    assert_eq!(plan.document()["clients"], 1);
    attached.write(0, &now[..4096], true).unwrap();
    let done = cluster.go_back(&["--at", "mark:then", "--force-attached"]).document();
    assert_eq!(done["clients"], 1);
    // What it has cached does not come through, not even now that the tap is open again.
    assert!(attached.write(0, &now[..4096], true).is_err());
    assert!(attached.read(0, &mut [0; 4096]).is_err() && attached.flush().is_err());
    cluster.assert_is_back(then, MARK);
    let mut late = cluster.client();
    let mut found = vec![0; 4096];
    late.read(0, &mut found).unwrap();
    assert_equal(&found, &then[..4096]);
    assert_eq!(cluster.agent_status()["clients"], 1);
    story.end();
}

/// The agent stands still in the middle, until somebody else asks.
#[test]
fn there_is_one_at_a_time() {
    let mut story = Story::new(4);
    story.cluster.stop_agent();
    story.cluster.failpoints.1 = Some(format!("{}:stop", Step::RollbackShut.name()));
    story.cluster.start_agent();
    story.cluster.settle();
    story.cluster.allow();
    let cluster = &story.cluster;
    let first = cluster.going_back(&["--at", "mark:then"]);
    let stands = || cluster.agent.as_ref().unwrap().is_stopped().then_some(());
    wait_for("standing still", stands, || cluster.words());
    cluster.go_back(&["--at", "mark:then"]).refused(11, "a live rollback of db is running");
    cluster.ask(&["rollback", "db", "--at", "mark:then", "--yes"]).refused(11, "a live rollback of db is running");
    cluster.agent.as_ref().unwrap().signal(Signal::CONT);
    // On a machine that is loaded the session may have ended meanwhile: then nothing was begun.
    let first = first.join().unwrap();
    assert!(matches!(first.exit, 0 | 16), "{first:?}");
    let open = || Client::connect(&cluster.tap(), "").is_ok().then_some(());
    wait_for("open", open, || cluster.words());
    story.wait_no_clients();
    story.cluster.settle();
    story.cluster.go_back(&["--at", "mark:then"]).document();
    story.cluster.assert_is_back(&story.then, MARK);
    story.end();
}

/// The receiver ends in the middle: nobody comes in until it is back and has gone on by itself; meanwhile the agent is started again, too.
#[test]
fn while_it_is_not_over_nobody_comes_in() {
    let mut story = Story::new(5);
    story.cluster.stop_receiver();
    story.cluster.failpoints.0 = Some(format!("{}:3", Step::RollbackBlocksSent.name()));
    story.cluster.start_receiver();
    story.cluster.settle();
    story.cluster.allow();
    let call = story.cluster.go_back(&["--at", "mark:then"]);
    assert_eq!(call.exit, 16, "{call:?}");
    story.cluster.wait_receiver_killed();
    let Story { cluster, then, now } = &mut story;
    let closed = |cluster: &Cluster| {
        assert!(Client::connect(&cluster.tap(), "").is_err(), "let in");
        let status = cluster.agent_status();
        assert!(status["rollback"]["target_seq"].is_u64(), "{status}");
        assert!(status["why"].as_str().unwrap().contains("taken back"), "{status}");
    };
    closed(cluster);
    // A permission that was taken back does not stop what has begun.
    cluster.ask_agent(&["allow", "db", "--for", "0s"]).document();
    cluster.stop_agent();
    cluster.start_agent();
    closed(cluster);
    cluster.kill_agent();
    cluster.start_agent();
    closed(cluster);
    cluster.start_receiver();
    cluster.wait_over();
    cluster.assert_is_back(then, MARK);
    cluster.allow();
    cluster.go_back(&["--undo"]).document();
    assert_equal(&cluster.content(), now);
    assert_equal(&cluster.image("latest"), now);
    story.end();
}

/// The receiver ends in the middle, and nobody waits for it: the tap is open, what the source holds then is a point when it was compared,
/// and the source can be taken back again.
#[test]
fn what_cannot_be_finished_is_given_up() {
    let mut story = Story::new(9);
    let give_up = |cluster: &Cluster| cluster.ask_agent(&["allow", "db", "--give-up", "--yes"]);
    give_up(&story.cluster).refused(10, "there is nothing to give up");
    story.cluster.ask_agent(&["allow", "db", "--give-up"]).refused(2, "nobody here can answer");
    story.cluster.stop_receiver();
    story.cluster.failpoints.0 = Some(format!("{}:3", Step::RollbackBlocksSent.name()));
    story.cluster.start_receiver();
    story.cluster.settle();
    story.cluster.allow();
    let call = story.cluster.go_back(&["--at", "mark:then"]);
    assert_eq!(call.exit, 16, "{call:?}");
    story.cluster.wait_receiver_killed();
    let Story { cluster, then, now } = &mut story;
    assert!(Client::connect(&cluster.tap(), "").is_err(), "let in");
    let given_up = || match give_up(cluster) {
        call if call.exit == 11 => None,
        call => Some(call.document()),
    };
    let document = wait_for("given up", given_up, || cluster.words());
    assert!(document["given_up_seq"].is_u64(), "{document}");
    assert!(cluster.agent_status()["rollback"].is_null());
    give_up(cluster).refused(10, "there is nothing to give up");
    cluster.write(4096, &[0xab; 8192]);
    let mixed = cluster.content();
    assert!(mixed != *then && mixed != *now);
    // Nor does another run of the agent, or the receiver, go on with it.
    cluster.stop_agent();
    cluster.start_agent();
    Client::connect(&cluster.tap(), "db").unwrap().disconnect().unwrap();
    cluster.start_receiver();
    cluster.settle();
    assert_equal(&cluster.content(), &mixed);
    assert_equal(&cluster.image("latest"), &mixed);
    cluster.allow();
    cluster.go_back(&["--at", "mark:then"]).document();
    cluster.assert_is_back(then, MARK);
    story.end();
}

/// The agent's disk fails when it is to note that it begins, and when it is to take that back: nothing was begun, and as soon as that can be
/// written clients come in, and it can be asked again.
#[test]
fn what_could_not_be_begun_is_forgotten() {
    let mut story = Story::new(8);
    story.cluster.stop_agent();
    let fails = |step: Step| format!("{}:eio", step.name());
    story.cluster.failpoints.1 = Some([Step::RollbackNoting, Step::RollbackForgetting].map(fails).join(","));
    story.cluster.start_agent();
    story.cluster.settle();
    story.cluster.allow();
    let cluster = &story.cluster;
    let call = cluster.go_back(&["--at", "mark:then"]);
    assert_ne!(call.exit, 0, "{call:?}");
    let forgotten = || cluster.agent_status()["rollback"].is_null().then_some(());
    wait_for("forgotten", forgotten, || cluster.words());
    let open = || Client::connect(&cluster.tap(), "").is_ok().then_some(());
    wait_for("open", open, || cluster.words());
    assert!(cluster.agent.as_ref().unwrap().last_words().contains("what was not begun is noted still"));
    story.wait_no_clients();
    story.assert_untouched();
    story.cluster.settle();
    story.cluster.go_back(&["--at", "mark:then"]).document();
    story.cluster.assert_is_back(&story.then, MARK);
    story.end();
}

/// Undone before it was over, on the way of somebody who changed his mind.
#[test]
fn what_is_not_over_can_be_undone() {
    let mut story = Story::new(6);
    story.cluster.stop_agent();
    story.cluster.failpoints.1 = Some(format!("{}:3:stop", Step::RollbackWritten.name()));
    story.cluster.start_agent();
    story.cluster.settle();
    story.cluster.allow();
    let Story { cluster, now, then } = &mut story;
    let going = cluster.going_back(&["--at", "mark:then"]);
    let stands = || cluster.agent.as_ref().unwrap().is_stopped().then_some(());
    wait_for("standing still", stands, || cluster.words());
    // Its session ends, and the call with it.
    let ended = going.join().unwrap();
    assert_eq!(ended.exit, 16, "{ended:?}");
    cluster.agent.as_ref().unwrap().signal(Signal::CONT);
    // What goes on by itself may be over before.
    let undone = || match cluster.go_back(&["--undo"]) {
        call if call.exit == 0 => Some(()),
        call => {
            assert!(matches!(call.exit, 11 | 16), "{call:?}");
            None
        }
    };
    wait_for("undone", undone, || cluster.words());
    cluster.wait_over();
    assert_equal(&cluster.content(), now);
    assert_equal(&cluster.image("latest"), now);
    assert_equal(&cluster.image("mark:then"), then);
    story.end();
}

/// Either side is killed at any moment; `BACKSPOOL_KILLS` says how often.
#[test]
fn killed_at_any_moment_it_is_there_or_was_never_begun() {
    let kills: u64 = std::env::var("BACKSPOOL_KILLS").map_or(6, |kills| kills.parse().unwrap());
    let mut story = Story::new(7);
    let mut rng = Rng::new(7);
    let (mut begun, mut untouched) = (0, 0);
    for round in 0..kills {
        story.cluster.allow();
        let Story { cluster, then, now } = &mut story;
        let delay = Duration::from_millis(rng.below(120));
        let going = cluster.going_back(&["--at", "mark:then"]);
        std::thread::sleep(delay);
        if round % 2 == 0 {
            cluster.kill_agent();
        } else {
            cluster.kill_receiver();
        }
        let exit = going.join().unwrap().exit;
        if cluster.agent.is_none() {
            cluster.start_agent();
        } else {
            cluster.start_receiver();
        }
        cluster.wait_over();
        let found = cluster.content();
        match found == *then {
            true => begun += 1,
            false => {
                assert_equal(&found, now);
                assert_ne!(exit, 0, "it was said to be there");
                untouched += 1;
            }
        }
        assert_equal(&cluster.image("latest"), &found);
        assert_equal(&cluster.image("mark:then"), then);
        if found != *now {
            cluster.allow();
            cluster.go_back(&["--undo"]).document();
        }
        assert_equal(&cluster.content(), now);
        assert_equal(&cluster.image("latest"), now);
    }
    println!("{kills} kills: {begun} times it was carried out, {untouched} times not begun");
    story.end();
}

/// Two volumes in one group go together, or neither does.
#[test]
fn a_group_goes_as_one() {
    let mut cluster = Cluster::new();
    let contents = [random(1, 1 << 20), random(2, 2 << 20)];
    let other = cluster.path("other.img");
    fs::write(&cluster.source, &contents[0]).unwrap();
    fs::write(&other, &contents[1]).unwrap();
    cluster.protect = ["--group".into(), "db".into(), format!("two={}", other.display()).into()].to_vec();
    cluster.begin();
    cluster.settle();
    cluster.mark(MARK);
    cluster.write_to("db", 0, &random(3, 65536));
    cluster.write_to("two", 1 << 20, &[0; 1 << 20]);
    cluster.settle();
    let now = [cluster.content(), fs::read(&other).unwrap()];
    cluster.allow();
    let attached = Client::connect(&cluster.tap(), "two").unwrap();
    cluster.go_back(&["--at", "mark:then"]).refused(11, "attached to the tap of two");
    assert_equal(&cluster.content(), &now[0]);
    Client::connect(&cluster.tap(), "db").unwrap().disconnect().unwrap();
    attached.disconnect().unwrap();
    let back = || (cluster.go_back(&["--at", "mark:then"]).exit == 0).then_some(());
    wait_for("back", back, || cluster.words());
    assert_equal(&cluster.content(), &contents[0]);
    assert_equal(&fs::read(&other).unwrap(), &contents[1]);
    cluster.go_back(&["--undo"]).document();
    assert_equal(&cluster.content(), &now[0]);
    assert_equal(&fs::read(&other).unwrap(), &now[1]);
    cluster.stop_agent();
    cluster.stop_receiver();
}
