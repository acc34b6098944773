//! Full disks on either side: the host goes on writing, what was durable stays so, and it is told why nothing goes on.

use std::fs;
use std::path::Path;

use crate::common::cluster::{Cluster, at, random};
use crate::common::tools::{Loop, Mounted};
use crate::common::wait_for;
use crate::device::blank;

const SIZE: usize = 16 << 20;
const BLOCK: usize = 1 << 20;

/// Writes until `enough`; the host is never refused.
fn write_until(cluster: &Cluster, what: &str, enough: impl Fn() -> bool) {
    let mut seed = 100;
    let write = || {
        let offset = BLOCK * usize::try_from(seed % 16).unwrap();
        cluster.write(u64::try_from(offset).unwrap(), &random(seed, BLOCK));
        seed += 1;
        enough().then_some(())
    };
    wait_for(what, write, || cluster.words());
}

/// Room that can be given back.
fn ballast(dir: &Path, bytes: usize) -> std::path::PathBuf {
    let path = dir.join("ballast");
    fs::write(&path, random(7, bytes)).unwrap();
    path
}

#[test]
fn a_receiver_without_room_keeps_what_it_has_and_goes_on_later() {
    let mut cluster = Cluster::new();
    blank(&cluster.path("disk.img"), 128 << 20);
    let Some(disk) = Loop::on(&cluster.path("disk.img")) else { return };
    let mounted = Mounted::ext4(&disk.device, cluster.path("mnt"));
    let ballast = ballast(&mounted.dir, 48 << 20);
    cluster.store = mounted.dir.join("store");
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    cluster.begin();
    cluster.settle();
    let (then, before) = (cluster.window().1, fs::read(&cluster.source).unwrap());

    write_until(&cluster, "full", || cluster.state() == "stopped");
    let status = cluster.status();
    let why = status["why"].as_str().unwrap();
    assert!(why.to_lowercase().contains("space") || why.contains("full"), "{status}");
    let durable = status["receivers"][0]["durable"].as_u64();
    cluster.write(0, &random(2, BLOCK));
    cluster.assert_runs();
    assert!(cluster.image(&at(then)) == before, "the past is there");
    let gaps = cluster.gaps().len();

    fs::remove_file(ballast).unwrap();
    cluster.settle();
    assert!(cluster.status()["receivers"][0]["durable"].as_u64() >= durable, "nothing durable was lost");
    assert_eq!(cluster.gaps().len(), gaps, "all of it was kept by the agent");
    cluster.assert_same();
    assert!(cluster.image(&at(then)) == before, "the past is still there");
    assert_eq!(cluster.ask(&["verify", "db"]).document()["ok"], true);
    cluster.stop_agent();
    cluster.stop_receiver();
    cluster.start_receiver();
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// What both ways to a full spool have in common: a gap, and back by itself.
#[track_caller]
fn tracks(mut cluster: Cluster) {
    let (then, before) = (cluster.window().1, fs::read(&cluster.source).unwrap());
    cluster.stop_receiver();
    write_until(&cluster, "tracking", || cluster.agent_status()["state"] == "tracking");
    let status = cluster.agent_status();
    assert!(status["why"].as_str().unwrap().contains("spool"), "{status}");
    cluster.write(0, &random(3, BLOCK));
    assert!(cluster.agent_status()["progress"]["total_bytes"].as_u64().unwrap() >= 1 << 20);
    // What was captured before is sent, and then what changed since.
    cluster.start_receiver();
    cluster.settle();
    cluster.assert_same();
    let gap = cluster.gaps()[1];
    assert_eq!(cluster.gaps().len(), 2);
    let last = cluster.image(&at(gap.from));
    assert_eq!(cluster.image(&at(gap.to.unwrap())).len(), last.len());
    crate::common::judged::assert_gap(&cluster, gap.from + 1);
    cluster.write(0, &random(4, BLOCK));
    cluster.settle();
    cluster.assert_same();
    // A run that has tracked ends as cleanly as any other.
    cluster.stop_agent();
    cluster.start_agent();
    cluster.settle();
    assert_eq!(cluster.gaps().len(), 2, "a clean stop is believed");
    cluster.assert_same();
    assert!(cluster.image(&at(then)) == before, "the past is there");
    assert!(cluster.image(&at(gap.from)) == last);
    cluster.stop_agent();
    cluster.stop_receiver();
}

#[test]
fn a_spool_over_its_limit_opens_a_gap_that_closes_by_itself() {
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    cluster.protect = ["--spool-size".into(), "4MiB".into()].to_vec();
    cluster.begin();
    cluster.settle();
    tracks(cluster);
}

#[test]
fn a_full_disk_under_the_spool_opens_a_gap_that_closes_by_itself() {
    let mut cluster = Cluster::new();
    blank(&cluster.path("disk.img"), 64 << 20);
    let Some(disk) = Loop::on(&cluster.path("disk.img")) else { return };
    let mounted = Mounted::ext4(&disk.device, cluster.path("mnt"));
    _ = ballast(&mounted.dir, 16 << 20);
    cluster.state = mounted.dir.join("state");
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    cluster.begin();
    cluster.settle();
    tracks(cluster);
}
