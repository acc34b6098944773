//! A real file system, and a database on it, through the tap: every instant restores to what a power cut at that instant would
//! have left, so that the journals of both make it whole again, with all that was synced by then.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;
mod filesystems {
    pub(crate) mod database;
    pub(crate) mod disk;
    pub(crate) mod files;
}

use std::path::Path;
use std::time::{Duration, Instant};

use common::cluster::at;
use common::tools::{missing, status};
use filesystems::database::{self, Database, Transaction};
use filesystems::disk::Disk;
use filesystems::files;
use oracle::{Micros, Rng};

/// How long there is something to do on the file system.
const LOAD: Duration = Duration::from_secs(6);
const INSTANTS: usize = 20;

#[test]
fn ext4_is_whole_at_every_instant() {
    if missing(&[]) {
        return;
    }
    let mut disk = Disk::new();
    let begun = Micros::now().0;
    let loaded = files::load(&disk.mounted().dir, 4, LOAD);
    let ended = Micros::now().0;
    disk.settle(begun, ended);
    let mut rng = Rng::new(begun);
    let (mut replayed, mut found) = (0, 0);
    for round in 0..INSTANTS {
        let instant = begun + rng.below(ended - begun + 1);
        let image = disk.restore(instant);
        replayed += usize::from(needs_recovery(&image));
        // The kernel's way of making it whole, and the other one.
        if round % 2 == 0 {
            drop(disk.mount(&image));
        } else {
            let (exit, says) = status(&["e2fsck", "-p", image.to_str().unwrap()]);
            assert!(exit <= 1, "at {instant}: e2fsck -p ends with {exit}: {says}");
        }
        let (exit, says) = status(&["e2fsck", "-fn", image.to_str().unwrap()]);
        assert_eq!(exit, 0, "at {instant}, once its journal was replayed: {says}");
        let mounted = disk.mount(&image);
        for file in loaded.kept.iter().filter(|file| file.is_kept_at(instant)) {
            file.check(&mounted.dir).unwrap_or_else(|why| panic!("at {instant}: {why}; {file:?}"));
            found += 1;
        }
    }
    println!(
        "ext4: {INSTANTS} instants of {:.1} s, all clean, {replayed} with a journal to replay; {found} synced files found whole; \
         {} operations, {} of them synced",
        LOAD.as_secs_f64(),
        loaded.operations,
        loaded.kept.len(),
    );
    assert!(replayed > INSTANTS / 2 && found > INSTANTS, "the load was too small");
    disk.end();
}

#[test]
fn a_database_has_exactly_what_was_committed() {
    if missing(&["sqlite3"]) {
        return;
    }
    let mut disk = Disk::new();
    let mut database = Database::create(&disk.mounted().dir.join(database::NAME));
    let (begun, start) = (Micros::now().0, Instant::now());
    let (mut rng, mut transactions) = (Rng::new(begun), Vec::new());
    while start.elapsed() < LOAD {
        transactions.push(database.transaction(transactions.len() + 1));
        // So that there are instants between two of them.
        std::thread::sleep(Duration::from_micros(rng.below(2000)));
    }
    drop(database);
    disk.settle(begun, transactions.last().unwrap().committed);
    let (mut exact, mut rolled_back) = (0, 0);
    for round in 0..INSTANTS {
        let instant = instant(round, &transactions, &mut rng);
        let image = disk.restore(instant);
        let mounted = disk.mount(&image);
        let path = mounted.dir.join(database::NAME);
        rolled_back += usize::from(path.with_file_name(format!("{}-journal", database::NAME)).exists());
        let count = database::check(&path).unwrap_or_else(|why| panic!("at {instant}: {why}"));
        let committed = transactions.iter().filter(|done| done.committed <= instant).count();
        let begun = transactions.iter().filter(|done| done.begun <= instant).count();
        assert!(
            (committed..=begun).contains(&count),
            "at {instant}: {count} transactions; {committed} were committed, {begun} begun"
        );
        exact += usize::from(committed == begun);
    }
    println!(
        "SQLite: {INSTANTS} instants, all with what was committed, {exact} between two transactions, {rolled_back} with a journal \
         to roll back; {} transactions",
        transactions.len(),
    );
    assert!(exact >= INSTANTS / 4 && rolled_back > 0, "too little was in flight");
    disk.end();
}

/// The volume that it is on goes back under it, and forth again; unmounted and detached meanwhile.
#[test]
fn a_database_goes_back_with_its_volume() {
    if missing(&["sqlite3"]) {
        return;
    }
    let mut disk = Disk::new();
    let path = disk.mounted().dir.join(database::NAME);
    let mut database = Database::create(&path);
    let begun = Micros::now().0;
    let transactions: Vec<_> = (1..=60).map(|number| database.transaction(number)).collect();
    drop(database);
    disk.settle(begun, transactions.last().unwrap().committed);
    // A commit in the middle, with all that was in flight in the file system.
    let then = at(transactions[29].committed);
    disk.go_back(&["--at", &then]);
    assert_eq!(database::check(&path), Ok(30), "exactly what was committed by then");
    disk.go_back(&["--undo"]);
    assert_eq!(database::check(&path), Ok(60), "and all of it again");
    disk.go_back(&["--undo"]);
    assert_eq!(database::check(&path), Ok(30));
    disk.end();
}

/// The moment a transaction was committed, or the last one before it began, or any.
fn instant(round: usize, transactions: &[Transaction], rng: &mut Rng) -> u64 {
    let any = usize::try_from(rng.below(transactions.len() as u64 - 1)).unwrap();
    let (one, next) = (transactions[any], transactions[any + 1]);
    match round % 4 {
        0 => one.committed,
        1 => next.begun - 1,
        _ => next.begun + rng.below(next.committed - next.begun + 1),
    }
}

/// Whether the journal of an ext4 is in use: `INCOMPAT_RECOVER` in its superblock.
fn needs_recovery(image: &Path) -> bool {
    let mut incompatible = [0; 4];
    let file = std::fs::File::open(image).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut incompatible, 1024 + 0x60).unwrap();
    u32::from_le_bytes(incompatible) & 4 != 0
}
