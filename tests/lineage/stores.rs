//! A receiver that is set back, or begins with nothing.

use std::fs;
use std::path::Path;

use super::story::{Story, copy, restore};
use crate::common::cluster::{Cluster, at};
use crate::common::wait_for;

/// The directory of the only group.
fn groups(store: &Path) -> std::path::PathBuf {
    store.join("groups")
}

#[test]
fn a_store_from_a_backup_gets_again_what_the_agent_still_has() {
    let mut story = Story::live(10);
    let (backup, store) = (story.cluster.path("backup"), story.cluster.store.clone());
    story.cluster.stop_receiver();
    copy(&store, &backup);
    story.cluster.start_receiver();
    story.load.wait_for(300);
    story.cluster.settle();
    let told = story.cluster.window();
    story.cluster.kill_receiver();
    restore(&backup, &store);
    story.load.wait_for(50);
    story.cluster.start_receiver();
    story.judge();
    // All that was called durable is there again, without a gap.
    assert_eq!(story.cluster.gaps().len(), 1);
    assert!(story.cluster.window().1 >= told.1);
    story.judge_until(Some(told.1));
    // Also by an agent that was started anew meanwhile.
    story.cluster.kill_receiver();
    restore(&backup, &store);
    story.cluster.stop_agent();
    story.cluster.start_agent();
    story.load.wait_for(50);
    story.cluster.start_receiver();
    story.judge();
    assert_eq!(story.cluster.gaps().len(), 1);
    story.judge_until(Some(told.1));
    story.end();
}

#[test]
fn a_store_from_a_backup_has_a_gap_where_the_agent_has_nothing_any_more() {
    // A segment of the spool is a megabyte: what a receiver has is soon dropped.
    let small = |cluster: &mut Cluster| {
        cluster.protect = ["--spool-size", "8MiB"].map(Into::into).to_vec();
    };
    let mut story = Story::begin(11, small, 400);
    let (backup, store) = (story.cluster.path("backup"), story.cluster.store.clone());
    story.cluster.stop_receiver();
    copy(&store, &backup);
    story.cluster.start_receiver();
    story.cluster.settle();
    let then = story.cluster.window().1;
    story.load.wait_for(1500);
    story.cluster.settle();
    story.cluster.kill_receiver();
    restore(&backup, &store);
    story.cluster.start_receiver();
    story.judge();
    let gaps = story.cluster.gaps();
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    // What the backup had is there, and nothing is made up about what it had not.
    assert!(gaps[1].from <= then + 2_000_000 && gaps[1].to.is_some());
    // The agent's next start is a clean one: nothing of before comes back.
    story.cluster.stop_agent();
    story.cluster.start_agent();
    story.judge();
    assert_eq!(story.cluster.gaps().len(), 2);
    story.end();
}

#[test]
fn an_empty_store_with_the_same_key_is_filled_again() {
    let mut story = Story::live(12);
    story.cluster.kill_receiver();
    for entry in fs::read_dir(groups(&story.cluster.store)).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    story.cluster.start_receiver();
    story.judge();
    // And when the agent no longer has the beginning: a first copy.
    story.cluster.kill_agent();
    story.cluster.kill_receiver();
    for entry in fs::read_dir(groups(&story.cluster.store)).unwrap() {
        fs::remove_dir_all(entry.unwrap().path()).unwrap();
    }
    let group = fs::read_dir(story.cluster.state.join("groups")).unwrap().next().unwrap().unwrap().path();
    fs::remove_dir_all(group.join("spool")).unwrap();
    story.cluster.start_receiver();
    story.cluster.start_agent();
    story.judge();
    let (from, _) = story.cluster.window();
    let error = story.cluster.read(&at(from - 1_000_000), 0, 512).unwrap().unwrap_err();
    assert_eq!(error["exit"], 13, "{error}");
    story.end();
}

#[test]
fn a_store_that_never_heard_of_the_agent_says_so_until_it_is_let_in() {
    let mut story = Story::live(13);
    story.cluster.kill_receiver();
    for entry in fs::read_dir(&story.cluster.store).unwrap() {
        let path = entry.unwrap().path();
        let is_kept = ["identity", "backspool.store"].contains(&path.file_name().unwrap().to_str().unwrap());
        match path.is_dir() {
            _ if is_kept => {}
            true => fs::remove_dir_all(&path).unwrap(),
            false => fs::remove_file(&path).unwrap(),
        }
    }
    story.cluster.start_receiver();
    let told = || {
        let status = story.cluster.agent_status();
        (status["state"] == "stopped" && status["why"].as_str()?.contains("not enrolled")).then_some(())
    };
    wait_for("told", told, || story.cluster.words());
    // The host does not notice.
    story.load.wait_for(100);
    story.cluster.join();
    story.judge();
    story.end();
}

#[test]
fn the_right_store_may_come_back() {
    let mut story = Story::live(14);
    let (empty, store) = (story.cluster.path("backup"), story.cluster.store.clone());
    story.cluster.stop_receiver();
    copy(&store, &empty);
    story.cluster.start_receiver();
    story.load.wait_for(200);
    story.cluster.settle();
    let told = story.cluster.window();
    story.cluster.kill_receiver();
    // The old copy serves for a while, and gets things of its own.
    let right = story.cluster.path("right");
    fs::rename(&store, &right).unwrap();
    copy(&empty, &store);
    story.cluster.start_receiver();
    story.load.wait_for(100);
    story.cluster.settle();
    story.cluster.kill_receiver();
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&right, &store).unwrap();
    story.cluster.start_receiver();
    story.judge();
    story.judge_until(Some(told.1));
    story.end();
}
