//! What can be wrong with a source, at first and when the agent starts again.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::common::cluster::{Cluster, random};

const SIZE: usize = (1 << 20) + 512;

#[test]
fn what_cannot_be_a_source_is_refused_before_anything_is_made_of_it() {
    let mut cluster = Cluster::new();
    cluster.start_receiver();
    cluster.join();
    let path = |name: &str| cluster.path(name);
    fs::write(path("empty"), "").unwrap();
    fs::write(path("odd"), [1; 1000]).unwrap();
    fs::write(path("read-only"), [1; 4096]).unwrap();
    fs::set_permissions(path("read-only"), fs::Permissions::from_mode(0o444)).unwrap();
    fs::create_dir(path("directory")).unwrap();
    std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    std::os::unix::fs::symlink(path("nowhere"), path("link")).unwrap();
    let cases = [
        ("missing", 1, "cannot find the source"),
        ("link", 1, "cannot find the source"),
        ("empty", 2, "the source is empty"),
        ("odd", 2, "1000 bytes, which is not a multiple of 512"),
        ("read-only", 2, "the source is read-only"),
        ("directory", 2, "the source is a directory"),
        ("socket", 2, "neither a regular file nor a block device"),
        ("/dev/null", 2, "neither a regular file nor a block device"),
    ];
    for (name, exit, says) in cases {
        cluster.source = cluster.path(name);
        let call = cluster.agent_fails();
        call.refused(exit, says);
        assert!(call.failure().1.contains(name), "the message names the path: {call:?}");
    }
    assert!(!cluster.state.join("groups").exists(), "nothing is remembered of them");
    assert!(cluster.look().is_none(), "the receiver has heard nothing of them");
}

#[test]
fn a_source_has_one_agent() {
    let mut cluster = Cluster::live(&random(1, SIZE));
    cluster.agent_fails().refused(11, "another agent");
    let other = cluster.path("other");
    cluster.join_with(&cluster.invitation("other", &[]), &other).document();
    let first = std::mem::replace(&mut cluster.state, other);
    cluster.agent_fails().refused(11, "held by another agent");
    cluster.state = first;
    // What was killed holds nothing.
    cluster.kill_agent();
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
}

#[test]
fn a_clean_stop_is_believed_and_one_changed_byte_is_found() {
    let mut cluster = Cluster::live(&random(2, SIZE));
    cluster.write(4096, &random(3, 8192));
    cluster.stop_agent();
    let gaps = cluster.gaps();
    cluster.start_agent();
    cluster.write(8192, &random(4, 8192));
    cluster.settle();
    assert_eq!(cluster.gaps(), gaps, "a clean stop opens no gap");
    cluster.assert_same();
    cluster.stop_receiver();
    cluster.start_receiver();
    cluster.settle();
    assert_eq!(cluster.gaps(), gaps, "nor does a receiver that was away");

    cluster.stop_agent();
    let before = fs::read(&cluster.source).unwrap();
    cluster.write_behind(700_001, &[!before[700_001]]);
    cluster.start_agent();
    cluster.settle();
    assert_eq!(cluster.gaps().len(), gaps.len() + 1);
    cluster.assert_same();
    let points = cluster.ask(&["points", "db"]).document();
    assert_eq!(points["gaps"].as_array().unwrap().last().unwrap()["reason"], "changed while stopped", "{points}");
    let (last, _) = (cluster.gaps().last().unwrap().from, ());
    assert!(cluster.image(&crate::common::cluster::at(last)) == before, "the past is as it was");
}

#[test]
fn a_source_may_grow() {
    let mut cluster = Cluster::live(&random(5, SIZE));
    cluster.stop_agent();
    let resize = |path: &Path, bytes: usize| {
        fs::File::options().write(true).open(path).unwrap().set_len(u64::try_from(bytes).unwrap()).unwrap();
    };
    resize(&cluster.source, SIZE + 65536);
    cluster.write_behind(u64::try_from(SIZE).unwrap() + 1000, &[7; 3000]);
    cluster.start_agent();
    cluster.write(u64::try_from(SIZE).unwrap() + 32768, &random(6, 4096));
    cluster.settle();
    assert_eq!(cluster.status()["volumes"][0]["size_bytes"], SIZE + 65536);
    assert_eq!(cluster.gaps().len(), 2);
    cluster.assert_same();
    let then = cluster.gaps()[1].from;
    assert_eq!(cluster.image(&crate::common::cluster::at(then)).len(), SIZE, "the past keeps its size");
}

#[test]
fn a_volume_may_come_and_go() {
    let mut cluster = Cluster::new();
    let (first, second) = (random(7, SIZE), random(8, 65536));
    fs::write(&cluster.source, &first).unwrap();
    fs::write(cluster.path("log.img"), &second).unwrap();
    let mut log = OsString::from("log=");
    log.push(cluster.path("log.img"));
    cluster.protect = ["--group".into(), "db".into()].to_vec();
    cluster.begin();
    cluster.settle();
    cluster.stop_agent();
    cluster.protect.push(log);
    cluster.start_agent();
    cluster.settle();
    let directory = cluster.path("restored");
    let restored = cluster.restore("latest", &directory, &[]).document();
    assert_eq!(restored["blake3"].as_object().unwrap().len(), 2, "{restored}");
    assert!(fs::read(directory.join("db.img")).unwrap() == first);
    assert!(fs::read(directory.join("log.img")).unwrap() == second);
    cluster.stop_agent();
    cluster.protect.pop();
    cluster.start_agent();
    cluster.settle();
    assert_eq!(cluster.status()["volumes"].as_array().unwrap().len(), 1);
    cluster.assert_same();
}
