//! Two where there may be one: agents of a group, copies of an agent, receivers of a store.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::cluster::{Cluster, random};
use crate::common::wait_for;

const SIZE: usize = 1 << 20;

/// As a backup program would, or a cloned machine.
fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").args([from, to]).status().unwrap();
    assert!(status.success());
}

#[test]
fn a_group_belongs_to_the_first_agent() {
    let mut cluster = Cluster::live(&random(1, SIZE));
    let (state, source) = (cluster.path("other"), cluster.path("other.img"));
    cluster.join_with(&cluster.invitation("other", &[]), &state).document();
    fs::write(&source, random(2, SIZE)).unwrap();
    let tap = cluster.path("other.sock");
    let mut second = cluster.beside(&state, &source, &tap);
    second.refused(11, "host");
    // An agent that takes the first one's name takes its groups' place only with its history.
    let renamed = cluster.path("renamed");
    cluster.join_with(&cluster.invitation("host", &[]), &renamed).document();
    second = cluster.beside(&renamed, &source, &tap);
    second.refused(11, "");
    cluster.kill_agent();
    cluster.assert_same();
}

#[test]
fn a_copy_of_an_agent_is_refused_as_a_sibling() {
    let mut cluster = Cluster::live(&random(3, SIZE));
    cluster.stop_agent();
    let (state, source, tap) = (cluster.path("copy"), cluster.path("copy.img"), cluster.path("copy.sock"));
    copy(&cluster.state, &state);
    copy(&cluster.source, &source);
    cluster.start_agent();
    cluster.write(0, &random(4, 4096));
    cluster.settle();
    let durable = cluster.status()["receivers"][0]["durable"].clone();
    cluster.beside(&state, &source, &tap).refused(11, "");
    // The one that is right goes on, and nothing of the copy came in.
    cluster.write(8192, &random(5, 4096));
    cluster.settle();
    assert!(cluster.status()["receivers"][0]["durable"].as_u64() > durable.as_u64());
    assert_eq!(cluster.gaps().len(), 1);
    cluster.assert_same();
}

#[test]
fn a_store_has_one_receiver_and_is_ours() {
    let mut cluster = Cluster::live(&random(6, SIZE));
    cluster.receiver_fails(&cluster.store).refused(11, "in use by another process");
    cluster.stop_agent();
    cluster.stop_receiver();
    // Not ours.
    let foreign = cluster.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("thesis.tex"), "mine").unwrap();
    cluster.receiver_fails(&foreign).refused(2, "is not a store: it holds thesis.tex");
    cluster.receiver_fails(&foreign.join("thesis.tex")).refused(2, "not a directory");
    assert_eq!(fs::read_dir(&foreign).unwrap().count(), 1, "nothing was put there");
    // Of a newer version; then with a flipped bit.
    let file = cluster.store.join("backspool.store");
    let good = fs::read(&file).unwrap();
    let with = |at: usize, byte: u8| {
        let mut bad = good.clone();
        bad[at] = byte;
        fs::write(&file, bad).unwrap();
    };
    with(12, 9);
    cluster.receiver_fails(&cluster.store).refused(2, "newer version (format 9");
    with(20, !good[20]);
    cluster.receiver_fails(&cluster.store).refused(14, "checksum");
    fs::write(&file, &good).unwrap();
    cluster.start_receiver();
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
}

#[test]
fn sockets_of_the_dead_are_replaced_and_those_of_the_living_are_not() {
    let mut cluster = Cluster::live(&random(7, SIZE));
    let control = cluster.store.join("control.sock");
    let other = cluster.path("other-store");
    let at_control = |cluster: &Cluster| cluster.serve_at(&other, &control);
    at_control(&cluster).refused(11, "");
    cluster.kill_receiver();
    cluster.kill_agent();
    assert!(control.exists() && cluster.path("tap.sock").exists() && cluster.state.join("agent.sock").exists());
    cluster.start_receiver();
    cluster.start_agent();
    cluster.settle();
    // What is no socket is left alone.
    cluster.stop_agent();
    assert!(!cluster.path("tap.sock").exists() && !cluster.state.join("agent.sock").exists());
    fs::write(cluster.path("tap.sock"), "mine").unwrap();
    assert_ne!(cluster.agent_fails().exit, 0);
    assert_eq!(fs::read(cluster.path("tap.sock")).unwrap(), b"mine");
    fs::remove_file(cluster.path("tap.sock")).unwrap();
    cluster.start_agent();
    wait_for("live", || (cluster.state() == "live").then_some(()), || cluster.words());
}
