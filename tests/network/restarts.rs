//! The receiver is stopped, or killed, in each state that a session may be in.

use std::fs;
use std::time::Duration;

use crate::common::cluster::{Cluster, assert_equal};
use crate::common::process::call;
use crate::common::wait_for;
use crate::story::{Plan, Story};

#[derive(Clone, Copy, Debug)]
enum How {
    Stopped,
    Killed,
}

const BOTH: [How; 2] = [How::Stopped, How::Killed];

fn restart(story: &mut Story, how: How) {
    match how {
        How::Stopped => story.cluster.stop_receiver(),
        How::Killed => story.cluster.kill_receiver(),
    }
    story.pause(100);
    story.cluster.start_receiver();
}

/// Slow enough for states to be met.
fn slowly(story: &Story, bytes_per_second: u64) {
    story.proxy.change(|weather| weather.bytes_per_second = Some(bytes_per_second));
}

fn quickly(story: &Story) {
    story.proxy.change(|weather| weather.bytes_per_second = None);
}

#[test]
fn a_receiver_is_restarted_in_the_first_copy_live_and_behind() {
    let weather = crate::common::proxy::Weather { bytes_per_second: Some(2 << 20), ..Default::default() };
    let mut story = Story::begin(Plan { weather, ..Plan::default() });
    for how in BOTH {
        story.cluster.wait_state("seeding");
        story.pause(500);
        restart(&mut story, how);
    }
    quickly(&story);
    story.judge();
    for how in BOTH {
        story.cluster.wait_state("live");
        restart(&mut story, how);
        story.judge();
    }
    for how in BOTH {
        slowly(&story, 200 << 10);
        let behind =
            || story.cluster.look().filter(|status| status["state"] == "behind" || status["state"] == "spooling");
        wait_for("behind", behind, || story.cluster.words());
        restart(&mut story, how);
        story.pause(300);
        quickly(&story);
        story.judge();
    }
    story.end();
}

#[test]
fn a_receiver_is_restarted_while_an_agent_compares_and_seals() {
    let mut story = Story::begin(Plan::default());
    story.judge();
    for how in BOTH {
        // Far away, so that a comparison takes a while.
        story.proxy.change(|weather| weather.delay = Duration::from_millis(20));
        story.crash_agent();
        story.cluster.wait_state("resync");
        restart(&mut story, how);
        story.proxy.change(|weather| weather.delay = Duration::ZERO);
        story.judge();
    }
    // Then at any moment until it is sealed.
    for round in 0..8 * crate::rounds() {
        story.crash_agent();
        story.pause(150);
        restart(&mut story, if round % 2 == 0 { How::Killed } else { How::Stopped });
        if round % 4 == 3 {
            story.judge();
        }
    }
    story.end();
}

#[test]
fn a_receiver_is_restarted_while_its_image_follows_and_is_rolled_back() {
    let mut story = Story::begin(Plan { volume_bytes: 48 << 20, ..Plan::default() });
    story.judge();
    story.cluster.mark("then");
    story.load.wait_for(200);
    for round in 0..6 * crate::rounds() {
        let how = if round % 2 == 0 { How::Killed } else { How::Stopped };
        // It follows.
        story.pause(300);
        restart(&mut story, how);
        // It is taken back.
        let args = rollback(&story.cluster, &["--at", "mark:then"]);
        let rolling = std::thread::spawn(move || call(&args));
        story.pause(60);
        restart(&mut story, how);
        // Whether that was in time for it or not.
        let _ = rolling.join().unwrap();
        call(&rollback(&story.cluster, &["--at", "mark:then"])).document();
        let image = image(&story.cluster);
        assert_equal(&fs::read(image).unwrap(), &story.cluster.image("mark:then"));
        restart(&mut story, how);
        call(&rollback(&story.cluster, &["--at", "latest"])).document();
        story.judge();
    }
    follows(&story.cluster);
    story.end();
}

fn rollback(cluster: &Cluster, to: &[&str]) -> Vec<std::ffi::OsString> {
    let mut args = cluster.args(&crate::common::process::words(["rollback", "db", "--yes", "--socket"]));
    args.push(cluster.store.join("control.sock").into());
    args.extend(to.iter().map(std::ffi::OsString::from));
    args
}

fn image(cluster: &Cluster) -> String {
    cluster.status()["volumes"][0]["image"].as_str().unwrap().to_owned()
}

/// Until it is where the journal is.
fn follows(cluster: &Cluster) {
    let before = cluster.status()["receivers"][0]["durable"].as_u64();
    let applied = || cluster.look().filter(|status| status["receivers"][0]["applied"].as_u64() >= before);
    wait_for("applied", applied, || cluster.words());
}
