//! A killed agent reads only what was being written when it starts again, and so does one whose machine lost power; and all of it when
//! the record of that proves nothing.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;
mod hot {
    pub(crate) mod power;
}
#[path = "network/relay.rs"]
mod relay;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::cluster::{Cluster, assert_equal, random};
use common::judged::{Load, assert_gap, assert_legal, is_in_gap};
use common::wait_for;
use hot::power::Machine;
use journal::wire::{FEATURE_CHANGED, FEATURES};
use oracle::{Client, Hot, Rng, SizeShare, Volume, Workload, fill_initial};
use relay::Relay;

const GIB: u64 = 1 << 30;
const BLOCK: u64 = 4096;

/// The volume's log.
fn log(cluster: &Cluster) -> PathBuf {
    let group = fs::read_dir(cluster.state.join("groups")).unwrap().next().unwrap().unwrap().path();
    fs::read_dir(group.join("hot")).unwrap().next().unwrap().unwrap().path()
}

/// Until the log lists what is hot: the first copy is covered.
fn wait_listed(cluster: &Cluster) {
    let listed = || (fs::read(log(cluster)).ok()?.get(14) == Some(&2)).then_some(());
    wait_for("a list", listed, || cluster.words());
}

/// Why the newest gap is there.
fn newest_gap(cluster: &Cluster) -> String {
    let points = cluster.ask(&["points", "db", "--json"]).document();
    points["gaps"].as_array().unwrap().last().unwrap()["text"].as_str().unwrap().to_owned()
}

/// The story: 4 GiB, of which the clients write to a few places and to one window that moves. They are in the middle of it when the
/// agent is killed, eight times. Each start reads a small part of the volume; and then the newest point is the source, wherever anything was
/// ever written, what was acknowledged and what was not.
#[test]
fn after_a_kill_only_what_was_hot_is_compared() {
    const SIZE: u64 = 4 * GIB;
    const ROUNDS: u64 = 8;
    const EXTENT: u64 = 4 << 20;
    let mut cluster = Cluster::new();
    let source = File::create_new(&cluster.source).unwrap();
    source.set_len(SIZE).unwrap();
    cluster.begin();
    cluster.settle();
    wait_listed(&cluster);
    let mut touched: Vec<u64> = Vec::new();
    let mut compared = Vec::new();
    for round in 0..ROUNDS {
        let (stop, written) = (AtomicBool::new(false), AtomicU64::new(0));
        let windows: Vec<Vec<u64>> = std::thread::scope(|scope| {
            let clients = (0..3).map(|client| {
                let (tap, stop, written) = (cluster.tap(), &stop, &written);
                scope.spawn(move || {
                    let mut rng = Rng::new(round * 10 + client + 1);
                    let mut offsets = Vec::new();
                    let mut connection = Client::connect(&tap, "db").unwrap();
                    while !stop.load(Ordering::Relaxed) {
                        let window = round * 256 * (1 << 20) + rng.below(32 << 20);
                        let far = rng.below(4) * GIB + client * 8 * BLOCK;
                        let offset = (if rng.percent(2) { far } else { window }) / BLOCK * BLOCK;
                        offsets.push(offset);
                        let data = offset.wrapping_add(rng.next_u64()).to_le_bytes().repeat(512);
                        if connection.write(offset, &data, false).is_err() {
                            break;
                        }
                        written.fetch_add(1, Ordering::Relaxed);
                    }
                    offsets
                })
            });
            let clients: Vec<_> = clients.collect();
            let target = 300 + round * 100;
            wait_for("busy", || (written.load(Ordering::Relaxed) > target).then_some(()), || cluster.words());
            cluster.kill_agent();
            stop.store(true, Ordering::Relaxed);
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        touched.extend(windows.into_iter().flatten());
        cluster.start_agent();
        cluster.settle();
        let why = newest_gap(&cluster);
        let (_, bytes) = why.split_once("cleanly; ").unwrap_or_else(|| panic!("{why}"));
        let (bytes, rest) = bytes.split_once(' ').unwrap();
        assert!(rest.starts_with("of 4294967296 bytes of db are compared"), "{why}");
        let bytes: u64 = bytes.parse().unwrap();
        // What was written to, and what is called hot ahead of a stream. Nothing has turned cold yet.
        let hot: BTreeSet<u64> = touched.iter().flat_map(|at| at / EXTENT..=at / EXTENT + 15).collect();
        assert!(bytes > 0 && bytes <= hot.len() as u64 * EXTENT && bytes < SIZE / 2, "{why}");
        compared.push(bytes >> 20);
        touched.sort_unstable();
        touched.dedup();
        for &offset in &touched {
            let mut expect = vec![0; usize::try_from(BLOCK).unwrap()];
            source.read_exact_at(&mut expect, offset).unwrap();
            assert!(cluster.read("latest", offset, BLOCK).unwrap().unwrap() == expect, "round {round}, at {offset}");
        }
    }
    println!("MiB compared of {}: {compared:?}; {} blocks are the same", SIZE >> 20, touched.len());
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// Whatever is wrong with the log is a reason to compare all, and said; what somebody else wrote meanwhile is found.
#[test]
fn a_log_that_proves_nothing_means_that_all_is_compared() {
    let mut cluster = Cluster::live(&random(1, 32 << 20));
    let old = fs::read(log(&cluster)).unwrap();
    let mut check = |damage: &mut dyn FnMut(&Cluster), why: &str| {
        cluster.write(12 << 20, &[0xAB; 4096]);
        cluster.kill_agent();
        damage(&cluster);
        cluster.start_agent();
        cluster.settle();
        let found = newest_gap(&cluster);
        assert!(found.contains("all of db is compared") && found.contains(why), "{found}, expected {why}");
        cluster.assert_same();
    };
    check(&mut |cluster| fs::remove_file(log(cluster)).unwrap(), "there is no record");
    check(&mut |cluster| fs::write(log(cluster), &old).unwrap(), "not of the last run");
    check(&mut |cluster| fs::write(log(cluster), [0xCC; 1 << 20]).unwrap(), "wrong magic");
    check(&mut |cluster| fs::write(log(cluster), &old[..70_000]).unwrap(), "not as long");
    let flip = &mut |cluster: &Cluster| {
        let mut bytes = fs::read(log(cluster)).unwrap();
        bytes[4096 + 33] ^= 1;
        fs::write(log(cluster), bytes).unwrap();
    };
    check(flip, "torn");
    let write = &mut |cluster: &Cluster| {
        // Longer than the tap itself may be late.
        std::thread::sleep(Duration::from_secs(6));
        cluster.write_behind(30 << 20, &[0xEF; 512]);
    };
    check(write, "after the agent had ended");
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// Writes there without a flush, until the receiver has all of it durably.
fn write_unflushed(cluster: &Cluster, offset: u64, round: u64) {
    let mut client = Client::connect(&cluster.tap(), "db").unwrap();
    for block in 0..64 {
        client.write(offset + block * BLOCK, &random(round * 100 + block, 4096), false).unwrap();
    }
    drop(client);
    cluster.mark(&format!("round-{round}"));
}

/// How many bytes were compared at the last start, and whether the receiver was ahead.
fn compared(cluster: &Cluster) -> (u64, bool) {
    let why = newest_gap(cluster);
    let (text, bytes) = why.rsplit_once("; ").unwrap_or_else(|| panic!("{why}"));
    let (bytes, rest) = bytes.split_once(' ').unwrap();
    assert!(rest.ends_with("bytes of db are compared"), "{why}");
    (bytes.parse().unwrap(), text == "the receiver has more than this agent remembers")
}

/// The story: a machine under load loses power, with what its disk did not have yet, though the receiver does. It comes up with less than
/// the receiver has, reads the little that was hot, and the newest point is what it has; every point from before is what it was.
#[test]
fn after_a_power_cut_only_what_was_hot_is_compared() {
    const SIZE: u64 = 128 << 20;
    let Some((mut cluster, mut machine)) = Machine::new() else { return };
    let volume = Volume::new(31, SIZE);
    fill_initial(&cluster.source, &volume).unwrap();
    cluster.begin();
    cluster.settle();
    wait_listed(&cluster);
    let load = Workload {
        connections: 2,
        sizes: [(4096, 8), (65_536, 2)].map(|(bytes, weight)| SizeShare { bytes, weight }).to_vec(),
        hot: Some(Hot { bytes: 4 << 20, percent: 100 }),
        seed: 31,
        rate: Some(500),
        flush_every: Some(64),
        ..Workload::new(&cluster.tap(), "")
    };
    let load = Load::start(volume, load);
    load.wait_for(1000);
    let mut sizes = Vec::new();
    let mut before: Vec<(String, Vec<u8>)> = Vec::new();
    let (mut lost, mut ahead) = (0, 0);
    for round in 0..3 {
        if round > 0 {
            write_unflushed(&cluster, (72 + 24 * round) << 20, round);
        }
        machine.cut(&mut cluster);
        if round > 0 {
            let mark = format!("round-{round}");
            let image = cluster.image(&format!("mark:{mark}"));
            before.push((mark, image));
        }
        machine.boot(&mut cluster);
        cluster.settle();
        let (bytes, is_ahead) = compared(&cluster);
        assert!(bytes > 0 && bytes < SIZE / 2, "{}", newest_gap(&cluster));
        sizes.push(bytes >> 20);
        ahead += u32::from(is_ahead);
        cluster.assert_same();
        if let Some((_, image)) = before.last() {
            let source = fs::read(&cluster.source).unwrap();
            lost += source.chunks(512).zip(image.chunks(512)).filter(|(now, then)| now != then).count();
        }
    }
    // Points from before the first cut are legal, the load ended with it; and the others are what they were.
    let (gaps, mut rng) = (cluster.gaps(), Rng::new(31));
    let ((from, _), until) = (cluster.window(), gaps[1].from);
    for instant in [from + rng.below(until - from + 1), from + rng.below(until - from + 1), until] {
        match is_in_gap(instant, &gaps) {
            true => assert_gap(&cluster, instant),
            false => assert_legal(&cluster, instant, || load.history()),
        }
    }
    for (mark, image) in &before {
        assert_equal(&cluster.image(&format!("mark:{mark}")), image);
    }
    println!(
        "MiB compared of {}: {sizes:?}, {ahead} times behind the receiver; {lost} sectors that it had were lost here",
        SIZE >> 20
    );
    assert!(lost > 0 && ahead > 1, "no power was cut");
    let verified = cluster.ask(&["verify", "db"]).document();
    assert_eq!(verified["ok"], true, "{verified}");
    machine.end(cluster);
}

/// A snapshot of the whole machine that is put back looks like a power cut, and the receiver is ahead as it is after one. That its
/// log of hot extents is an old one shows in what the receiver has.
#[test]
fn a_machine_that_was_set_back_compares_all() {
    const SIZE: u64 = 64 << 20;
    let Some((mut cluster, mut machine)) = Machine::new() else { return };
    fs::write(&cluster.source, random(5, usize::try_from(SIZE).unwrap())).unwrap();
    cluster.begin();
    cluster.settle();
    wait_listed(&cluster);
    cluster.write(1 << 20, &random(6, 65_536));
    let snapshot = machine.snapshot(&cluster);
    cluster.write(40 << 20, &random(7, 65_536));
    cluster.mark("later");
    let later = cluster.image("mark:later");
    machine.cut(&mut cluster);
    machine.set_back(&snapshot);
    machine.boot(&mut cluster);
    cluster.settle();
    let why = newest_gap(&cluster);
    assert!(why.contains("all of db is compared: the receiver has a change in extent 10"), "{why}");
    cluster.assert_same();
    assert_equal(&cluster.image("mark:later"), &later);
    assert!(later != fs::read(&cluster.source).unwrap());
    machine.end(cluster);
}

/// A receiver that cannot say what it changed is not asked, and nothing is believed without its word.
#[test]
fn with_an_older_peer_all_is_compared_after_a_power_cut() {
    const SIZE: usize = 32 << 20;
    let Some((mut cluster, mut machine)) = Machine::new() else { return };
    fs::write(&cluster.source, random(9, SIZE)).unwrap();
    cluster.start_receiver();
    let relay = Relay::start(&cluster, FEATURES & !FEATURE_CHANGED);
    cluster.address = Some(relay.address());
    cluster.join();
    cluster.start_agent();
    cluster.settle();
    wait_listed(&cluster);
    write_unflushed(&cluster, 8 << 20, 1);
    machine.cut(&mut cluster);
    machine.boot(&mut cluster);
    cluster.settle();
    let why = newest_gap(&cluster);
    let says = "all of db is compared: the receiver is of a version that cannot say what it changed";
    assert!(why.contains(says), "{why}");
    cluster.assert_same();
    machine.end(cluster);
}
