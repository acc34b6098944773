//! A comparison sends the pages that differ and little else; with an older receiver, or of an older agent, blocks.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use journal::wire::{FEATURE_PAGES, FEATURES};
use oracle::Rng;

use super::relay::Relay;
use crate::common::cluster::{Cluster, random};

const PAGE: usize = 4096;
const SIZE: usize = (32 << 20) + 512;
/// In the header of a segment: which kind it is, and the number of bases.
const KIND_AT: usize = 14;
const BASE: u8 = 2;

/// Bytes of all base segments below `dir`, indexes included.
fn base_bytes(dir: &Path) -> u64 {
    let of = |path: &Path| {
        let mut header = [0; 64];
        let mut file = File::open(path).unwrap();
        file.read_exact(&mut header).unwrap();
        if header[KIND_AT] == BASE { file.metadata().unwrap().len() } else { 0 }
    };
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let sizes = entries.map(|path| match path.is_dir() {
        true => base_bytes(&path),
        false if path.extension().is_some_and(|end| end == "seg") => of(&path),
        false => 0,
    });
    sizes.sum()
}

/// Changes one page in a hundred while no agent runs, and what a comparison of all keeps for each byte of them.
fn compared(cluster: &mut Cluster, seed: u64) -> f64 {
    let before = base_bytes(&cluster.store);
    cluster.stop_agent();
    let mut rng = Rng::new(seed);
    let mut pages = BTreeSet::new();
    while pages.len() < SIZE / PAGE / 100 {
        pages.insert(rng.below((SIZE / PAGE) as u64));
    }
    let file = File::options().write(true).open(&cluster.source).unwrap();
    for &page in &pages {
        file.write_all_at(&random(seed << 32 | page, PAGE), page * PAGE as u64).unwrap();
    }
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
    (base_bytes(&cluster.store) - before) as f64 / (pages.len() * PAGE) as f64
}

#[test]
fn a_comparison_sends_the_pages_that_differ_and_little_else() {
    let mut cluster = Cluster::live(&random(1, SIZE));
    let ratio = compared(&mut cluster, 2);
    assert!(ratio <= 1.1, "{ratio:.3} bytes for each that differs");
}

#[test]
fn an_older_peer_is_not_asked_for_pages_and_takes_blocks() {
    let mut cluster = Cluster::new();
    fs::write(&cluster.source, random(1, SIZE)).unwrap();
    cluster.start_receiver();
    let relay = Relay::start(&cluster, FEATURES & !FEATURE_PAGES);
    cluster.address = Some(relay.address());
    cluster.join();
    cluster.start_agent();
    cluster.settle();
    let ratio = compared(&mut cluster, 2);
    assert!((8.0..=17.0).contains(&ratio), "{ratio:.3} bytes for each that differs");
    // Neither knows of anything but what was there from the start.
    drop(relay);
    let relay = Relay::start(&cluster, 0);
    cluster.stop_agent();
    cluster.address = Some(relay.address());
    cluster.join();
    cluster.start_agent();
    let ratio = compared(&mut cluster, 3);
    assert!((8.0..=17.0).contains(&ratio), "{ratio:.3} bytes for each that differs");
}
