//! A killed agent reads only what was being written when it starts again; and all of it when its record of that proves nothing.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use common::cluster::Cluster;
use common::wait_for;
use oracle::{Client, Rng};

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
    let mut cluster = Cluster::live(&common::cluster::random(1, 32 << 20));
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
