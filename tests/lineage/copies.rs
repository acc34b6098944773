//! An agent's state directory in two places, or from long ago.

use std::fs;

use super::story::{Story, copy, restore};
use crate::common::cluster::{assert_equal, random};
use crate::common::wait_for;

const TAKE_OVER: &str = "--take-over";

#[test]
fn a_copy_that_is_started_beside_its_running_original_is_refused() {
    let mut story = Story::live(1);
    let cluster = &story.cluster;
    let (state, source, tap) = (cluster.path("copy"), cluster.path("copy.img"), cluster.path("copy.sock"));
    // As a backup of the running machine, or a clone of it.
    copy(&cluster.state, &state);
    copy(&cluster.source, &source);
    story.load.wait_for(100);
    for _ in 0..2 {
        let call = story.cluster.beside(&state, &source, &tap);
        call.refused(11, "is a copy");
        call.refused(11, TAKE_OVER);
    }
    // The right one was hardly disturbed: there is no gap, and it goes on.
    story.judge();
    assert_eq!(story.cluster.gaps().len(), 1);
    // Nor is a copy believed that comes first, with nobody else there.
    story.cluster.stop_agent();
    story.cluster.beside(&state, &source, &tap).refused(11, "is a copy");
    story.cluster.start_agent();
    story.judge();
    assert_eq!(story.cluster.gaps().len(), 1);
    story.end();
}

#[test]
fn of_two_that_both_want_the_group_one_has_it_and_the_other_is_told() {
    let mut story = Story::live(2);
    let (state, source, tap) =
        (story.cluster.path("copy"), story.cluster.path("copy.img"), story.cluster.path("copy.sock"));
    copy(&story.cluster.state, &state);
    fs::write(&source, random(2, 8 << 20)).unwrap();
    // A person decides for the copy while the original runs.
    story.cluster.protect = vec![TAKE_OVER.into()];
    let mut second = story.cluster.start_beside(&state, &source, &tap);
    story.cluster.protect.clear();
    let fenced = || {
        let status = story.cluster.agent_status();
        (status["state"] == "stopped" && status["why"].as_str()?.contains(TAKE_OVER)).then_some(status)
    };
    wait_for("fenced", fenced, || story.cluster.words());
    let live = || (story.cluster.status_of(&state)["state"] == "live").then_some(());
    wait_for("live", live, || story.cluster.words());
    // The host of the fenced one does not notice.
    story.load.wait_for(200);
    story.cluster.assert_runs();
    second.assert_runs();
    // The past is of the one, what follows the gap of the other.
    let gaps = story.cluster.gaps();
    assert_eq!(gaps.len(), 2);
    story.judge_until(Some(gaps[1].from));
    assert_equal(&story.cluster.image("latest"), &fs::read(&source).unwrap());
    // Who is fenced does not disturb the other by trying.
    for _ in 0..20 {
        assert_eq!(story.cluster.status()["state"], "live", "{}", story.cluster.words());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    // It is not let in when it starts again either; until a person decides for it.
    story.cluster.stop_agent();
    story.cluster.agent_fails().refused(11, TAKE_OVER);
    assert_equal(&story.cluster.image("latest"), &fs::read(&source).unwrap());
    story.cluster.protect = vec![TAKE_OVER.into()];
    story.cluster.start_agent();
    story.cluster.protect.clear();
    let fenced = || (story.cluster.status_of(&state)["state"] == "stopped").then_some(());
    wait_for("fenced", fenced, || story.cluster.words());
    story.load.wait_for(50);
    story.cluster.settle();
    second.stop();
    story.cluster.beside(&state, &source, &tap).refused(11, TAKE_OVER);
    // From then on it needs no word of anybody.
    story.cluster.stop_agent();
    story.cluster.start_agent();
    story.cluster.settle();
    let (history, _) = story.load.stop();
    super::story::quiet(&story.cluster);
    story.cluster.assert_same();
    assert_eq!(story.cluster.gaps().len(), 3);
    assert!(history.ops().len() > 400);
    let verified = story.cluster.ask(&["verify", "db"]).document();
    assert_eq!(verified["ok"], true, "{verified}");
}

#[test]
fn a_state_from_a_backup_goes_on_once_a_person_says_so() {
    let mut story = Story::live(3);
    let (backup, state) = (story.cluster.path("backup"), story.cluster.state.clone());
    copy(&state, &backup);
    // Runs that the backup does not know.
    for _ in 0..2 {
        story.load.wait_for(50);
        story.cluster.kill_agent();
        story.cluster.start_agent();
        story.cluster.settle();
    }
    story.judge();
    let gaps = story.cluster.gaps().len();
    story.cluster.kill_agent();
    restore(&backup, &state);
    story.cluster.agent_fails().refused(11, "is a copy");
    // The same, put back file by file where it was: it stands where it stood.
    let before = story.cluster.path("before");
    story.cluster.protect = vec![TAKE_OVER.into()];
    story.cluster.start_agent();
    story.cluster.protect.clear();
    story.judge();
    assert_eq!(story.cluster.gaps().len(), gaps + 1);
    story.cluster.stop_agent();
    copy(&state, &before);
    story.cluster.start_agent();
    // The receiver has to hear of this run: otherwise there is nothing that the copy does not know.
    story.cluster.settle();
    story.load.wait_for(50);
    story.cluster.kill_agent();
    let status = std::process::Command::new("cp")
        .args(["-a", "--remove-destination"])
        .arg(before.join("groups"))
        .arg(&state)
        .status();
    assert!(status.unwrap().success());
    story.cluster.agent_fails().refused(11, "restored from an old copy");
    story.cluster.protect = vec![TAKE_OVER.into()];
    story.cluster.start_agent();
    story.cluster.protect.clear();
    story.judge();
    // It is the group's agent again, and starts by itself.
    story.cluster.kill_agent();
    story.cluster.start_agent();
    story.end();
}

#[test]
fn a_moved_state_directory_is_no_copy() {
    let mut story = Story::live(4);
    story.cluster.stop_agent();
    let moved = story.cluster.path("moved");
    fs::rename(&story.cluster.state, &moved).unwrap();
    story.cluster.state = moved;
    story.cluster.start_agent();
    story.judge();
    assert_eq!(story.cluster.gaps().len(), 1);
    story.end();
}
