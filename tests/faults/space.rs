//! Full disks on either side: the host goes on writing, what was durable stays so, and it is told why nothing goes on.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use oracle::Micros;
use rustix::process::Signal;

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
fn ballast(dir: &Path, bytes: usize) -> PathBuf {
    let path = dir.join("ballast");
    fs::write(&path, random(7, bytes)).unwrap();
    path
}

/// Somebody else's file, which takes all that is left, to the last block.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("filler");
    let mut file = File::create(&path).unwrap();
    for size in [1 << 20, 4096, 4096] {
        let block = random(8, size);
        while file.write_all(&block).is_ok() {}
        // What the kernel has put off takes its room, too.
        file.sync_all().unwrap();
    }
    path
}

/// Bytes that a reserve keeps.
fn kept(dir: &Path) -> u64 {
    fs::metadata(dir.join("reserve")).unwrap().blocks() * 512
}

#[track_caller]
fn wait_kept(cluster: &Cluster, dir: &Path) {
    wait_for("a reserve", || (kept(dir) >= 16 << 20).then_some(()), || cluster.words());
}

/// An agent of which the state directory is on a disk without a byte left: what it has to write it writes all the same.
#[test]
fn an_agent_on_a_full_disk_marks_stops_and_starts_as_ever() {
    let mut cluster = Cluster::new();
    blank(&cluster.path("disk.img"), 160 << 20);
    let Some(disk) = Loop::on(&cluster.path("disk.img")) else { return };
    let mounted = Mounted::ext4(&disk.device, cluster.path("mnt"));
    cluster.state = mounted.dir.join("state");
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    cluster.begin();
    cluster.settle();
    wait_kept(&cluster, &cluster.state);
    let gaps = cluster.gaps().len();

    let filler = fill(&mounted.dir);
    for round in 0..4 {
        cluster.write(round << 20, &random(20 + round, 4096));
        cluster.mark(&format!("full-{round}"));
        cluster.stop_agent();
        cluster.start_agent();
        cluster.settle();
        assert_eq!(cluster.gaps().len(), gaps, "a clean stop on a full disk is believed");
    }
    assert_eq!(kept(&cluster.state), 0, "the reserve is in use");
    assert_eq!(cluster.read("mark:full-2", 2 << 20, 4096).unwrap().unwrap(), random(22, 4096));

    // More than the rest of it holds, while nobody takes anything: the host does not notice.
    cluster.receiver.as_ref().unwrap().signal(Signal::STOP);
    write_until(&cluster, "tracking", || cluster.agent_status()["state"] == "tracking");
    let why = cluster.agent_status()["why"].clone();
    assert!(why.as_str().is_some_and(|why| why.contains("the disk of the spool is full")), "{why}");
    cluster.write(0, &random(30, BLOCK));
    cluster.receiver.as_ref().unwrap().signal(Signal::CONT);
    fs::remove_file(filler).unwrap();
    cluster.settle();
    wait_kept(&cluster, &cluster.state);
    assert_eq!(cluster.gaps().len(), gaps + 1);
    assert!(cluster.agent_status()["why"].is_null());
    cluster.assert_same();
    // Killed with a disk that is full again: what the start has to write finds room.
    let filler = fill(&mounted.dir);
    cluster.kill_agent();
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
    fs::remove_file(filler).unwrap();
    wait_kept(&cluster, &cluster.state);
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// The story: an agent is killed while it holds what no receiver has, somebody takes all of its disk, the reserve too, and it is
/// started. What it held is sent; what it cannot record it tracks, and says why.
#[test]
fn an_agent_that_starts_on_a_full_disk_keeps_its_spool() {
    let mut cluster = Cluster::new();
    blank(&cluster.path("disk.img"), 96 << 20);
    let Some(disk) = Loop::on(&cluster.path("disk.img")) else { return };
    let mounted = Mounted::ext4(&disk.device, cluster.path("mnt"));
    cluster.state = mounted.dir.join("state");
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    cluster.begin();
    cluster.settle();
    wait_kept(&cluster, &cluster.state);
    let gaps = cluster.gaps().len();

    cluster.kill_receiver();
    cluster.write(0, &random(40, BLOCK));
    let (then, held) = (Micros::now().0, fs::read(&cluster.source).unwrap());
    // Later than that by any clock.
    thread::sleep(Duration::from_millis(5));
    cluster.write(BLOCK as u64, &random(41, BLOCK));
    let is_spooled = || (cluster.agent_status()["spool"]["bytes"].as_u64() >= Some(2 << 20)).then_some(());
    wait_for("spooled", is_spooled, || cluster.agent_status().to_string());
    cluster.kill_agent();
    let reserve = cluster.state.join("reserve");
    File::options().write(true).open(&reserve).unwrap().set_len(0).unwrap();
    let filler = fill(&mounted.dir);
    cluster.start_agent();
    let tracks = || (cluster.agent_status()["state"] == "tracking").then_some(());
    wait_for("tracking", tracks, || cluster.words());
    let why = cluster.agent_status()["why"].clone();
    assert!(why.as_str().is_some_and(|why| why.contains("full")), "{why}");
    cluster.write(2 * BLOCK as u64, &random(42, BLOCK));
    cluster.start_receiver();
    let is_sent = || cluster.look().filter(|status| status["window"]["to"].is_string() && cluster.window().1 >= then);
    wait_for("what was spooled", is_sent, || cluster.words());
    assert!(cluster.image(&at(then)) == held, "what was spooled before is history");

    fs::remove_file(filler).unwrap();
    cluster.settle();
    cluster.assert_same();
    assert!(cluster.image(&at(then)) == held);
    assert_eq!(cluster.gaps().len(), gaps + 1);
    let log = fs::read_to_string(cluster.path("agent.log")).unwrap();
    assert!(!log.contains("the spool is damaged"), "{log}");
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// A receiver of which the store is on a disk without a byte left.
#[test]
fn a_receiver_on_a_full_disk_writes_what_it_has_to() {
    let mut cluster = Cluster::new();
    blank(&cluster.path("disk.img"), 192 << 20);
    let Some(disk) = Loop::on(&cluster.path("disk.img")) else { return };
    let mounted = Mounted::ext4(&disk.device, cluster.path("mnt"));
    cluster.store = mounted.dir.join("store");
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    cluster.begin();
    cluster.settle();
    cluster.mark("before");
    cluster.write(0, &random(2, BLOCK));
    cluster.settle();
    let (before, after) = (cluster.image("mark:before"), fs::read(&cluster.source).unwrap());
    let applied = || {
        let receiver = cluster.status()["receivers"][0].clone();
        (!receiver["applied"].is_null() && receiver["applied"] == receiver["durable"]).then_some(())
    };
    wait_for("applied", applied, || cluster.words());
    wait_kept(&cluster, &cluster.store);
    let gaps = cluster.gaps().len();

    let filler = fill(&mounted.dir);
    cluster.mark("full");
    assert!(cluster.image("mark:full") == after);
    let image = PathBuf::from(cluster.status()["volumes"][0]["image"].as_str().unwrap());
    cluster.ask(&["rollback", "db", "--at", "mark:before", "--yes"]).document();
    assert!(fs::read(&image).unwrap() == before, "the image is rolled back");
    cluster.ask(&["rollback", "db", "--undo", "--yes"]).document();
    cluster.invitation("another", &[]);
    cluster.stop_receiver();
    cluster.start_receiver();
    cluster.settle();
    // A comparison that finds nothing is begun and sealed; an older one is dropped.
    for _ in 0..2 {
        cluster.kill_agent();
        cluster.start_agent();
        cluster.settle();
    }
    assert_eq!(cluster.gaps().len(), gaps + 2);
    assert_eq!(kept(&cluster.store), 0, "the reserve is in use");
    cluster.assert_same();

    // Data finds no room, and is not lost by that.
    write_until(&cluster, "refused", || cluster.state() == "stopped");
    let status = cluster.status();
    assert!(status["why"].as_str().unwrap().contains("no space left"), "{status}");
    assert!(cluster.image("mark:full") == after);
    let durable = status["receivers"][0]["durable"].as_u64();
    cluster.kill_receiver();
    cluster.start_receiver();
    assert!(cluster.image("mark:before") == before, "the past is there");
    assert!(cluster.status()["receivers"][0]["durable"].as_u64() >= durable);
    fs::remove_file(filler).unwrap();
    cluster.settle();
    wait_kept(&cluster, &cluster.store);
    assert_eq!(cluster.gaps().len(), gaps + 2, "all of it was kept by the agent");
    cluster.assert_same();
    assert_eq!(cluster.ask(&["verify", "db"]).document()["ok"], true);
    cluster.stop_agent();
    cluster.stop_receiver();
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

/// A disk without a byte left but the reserve, and history that has used its half of that: what retention lets go makes room, and all
/// that was refused comes in.
#[test]
fn cleaning_makes_room_on_a_full_disk() {
    let mut cluster = Cluster::new();
    blank(&cluster.path("disk.img"), 384 << 20);
    let Some(disk) = Loop::on(&cluster.path("disk.img")) else { return };
    let mounted = Mounted::ext4(&disk.device, cluster.path("mnt"));
    cluster.store = mounted.dir.join("store");
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    cluster.begin();
    cluster.settle();
    cluster.mark("before");
    let before = cluster.image("mark:before");
    let stored = |cluster: &Cluster| cluster.status()["store_bytes"].as_u64().unwrap();
    write_until(&cluster, "history", || stored(&cluster) >= 240 << 20);
    cluster.settle();
    wait_kept(&cluster, &cluster.store);
    // Whoever gives the reserve back while somebody takes all that there is has given it to him.
    let receiver = cluster.receiver.as_ref().unwrap();
    receiver.signal(Signal::STOP);
    let filler = fill(&mounted.dir);
    assert!(kept(&cluster.store) >= 16 << 20);
    receiver.signal(Signal::CONT);
    write_until(&cluster, "full", || cluster.state() == "stopped");
    assert_eq!(kept(&cluster.store), 0, "the reserve is in use");
    let gaps = cluster.gaps().len();
    let full = stored(&cluster);

    let short = ["retention", "db", "--every-write", "1s", "--every-minute", "0", "--hourly", "0", "--yes"];
    cluster.ask(&short).document();
    wait_for("cleaned", || (stored(&cluster) < full / 2).then_some(()), || cluster.words());
    cluster.settle();
    wait_kept(&cluster, &cluster.store);
    assert_eq!(cluster.gaps().len(), gaps, "all of it was kept by the agent");
    cluster.assert_same();
    assert!(cluster.image("mark:before") == before);
    assert_eq!(cluster.ask(&["verify", "db"]).document()["ok"], true);
    fs::remove_file(filler).unwrap();
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
