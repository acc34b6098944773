//! What every backend does alike, and what a power cut may do.

use std::io::IoSlice;

use super::sim::{CrashMode, Fault, ReadFault, Rng};
use super::*;
use crate::error::ErrorKind;

fn write(file: &dyn File, offset: u64, data: &[u8]) -> Result<()> {
    file.write_at(offset, &[IoSlice::new(data)])
}

fn kind<T: Debug>(result: Result<T>) -> ErrorKind {
    result.expect_err("it has to fail").kind()
}

/// Runs one story over every backend that this machine has.
fn on_every_disk(story: impl Fn(&dyn Disk)) {
    story(&SimDisk::new(1));
    let dir = tempfile::tempdir().unwrap();
    story(&FileDisk::create(dir.path().join("plain/nested")).unwrap());
    if UringDisk::available() {
        story(&UringDisk::new(FileDisk::create(dir.path().join("uring")).unwrap()).unwrap());
    } else {
        println!("skipped: io_uring is not available here");
    }
}

#[test]
fn files_hold_what_was_written() {
    on_every_disk(|disk| {
        let file = disk.open("a", Open::CreateNew).unwrap();
        // More slices than the kernel takes at once, some of them empty.
        let data: Vec<u8> = (0..5000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let slices: Vec<_> = data.chunks(2).flat_map(|pair| [IoSlice::new(pair), IoSlice::new(&[])]).collect();
        file.write_at(10, &slices).unwrap();
        file.sync().unwrap();
        assert_eq!(file.len().unwrap(), 5010);

        let mut buf = vec![1; 6000];
        assert_eq!(file.read_at(0, &mut buf).unwrap(), 5010);
        assert_eq!(buf[..10], [0; 10]);
        assert_eq!(buf[10..5010], data);
        assert_eq!(file.read_at(9999, &mut buf).unwrap(), 0);
        assert_eq!(kind(file.read_exact_at(5000, &mut buf[..11])), ErrorKind::Corrupt);
        file.read_exact_at(5000, &mut buf[..10]).unwrap();

        file.set_len(100).unwrap();
        file.set_len(200).unwrap();
        assert_eq!(file.read_at(90, &mut buf).unwrap(), 110);
        assert_eq!((&buf[..10], &buf[10..110]), (&data[80..90], &[0; 100][..]));
    });
}

#[test]
fn names_come_and_go() {
    on_every_disk(|disk| {
        disk.open("a", Open::CreateNew).unwrap();
        write(&*disk.open("b", Open::CreateNew).unwrap(), 0, b"b").unwrap();
        assert_eq!(kind(disk.open("a", Open::CreateNew)), ErrorKind::Invalid);
        assert_eq!(kind(disk.open("c", Open::Existing)), ErrorKind::NotFound);
        assert_eq!(disk.list().unwrap(), ["a", "b"]);
        disk.rename("b", "a").unwrap();
        assert_eq!(disk.list().unwrap(), ["a"]);
        assert_eq!(disk.open("a", Open::ReadOnly).unwrap().len().unwrap(), 1);
        disk.remove("a").unwrap();
        assert_eq!(kind(disk.remove("a")), ErrorKind::NotFound);
        assert_eq!(kind(disk.rename("a", "b")), ErrorKind::NotFound);
        disk.sync_dir().unwrap();
        assert!(disk.list().unwrap().is_empty());
    });
}

#[test]
fn what_cannot_be_ours_is_refused() {
    let long = "n".repeat(256);
    on_every_disk(|disk| {
        for name in ["", ".", "..", ".hidden", "a/b", "/a", "a\0", "ä", "a b", &long] {
            assert_eq!(kind(disk.open(name, Open::CreateNew)), ErrorKind::Invalid, "{name:?}");
            assert_eq!(kind(disk.rename(name, "ok")), ErrorKind::Invalid, "{name:?}");
            assert_eq!(kind(disk.rename("ok", name)), ErrorKind::Invalid, "{name:?}");
            assert_eq!(kind(disk.remove(name)), ErrorKind::Invalid, "{name:?}");
        }
        let file = disk.open("aZ0._-", Open::CreateNew).unwrap();
        assert_eq!(kind(write(&*file, u64::MAX, b"xx")), ErrorKind::Invalid);
        assert_eq!(kind(write(&*file, i64::MAX.unsigned_abs(), b"xx")), ErrorKind::Invalid);
        let reader = disk.open("aZ0._-", Open::ReadOnly).unwrap();
        assert_eq!(kind(write(&*reader, 0, b"x")), ErrorKind::Invalid);
        assert_eq!(kind(reader.set_len(0)), ErrorKind::Invalid);
    });
}

#[test]
fn a_file_is_replaced_and_read_back() {
    on_every_disk(|disk| {
        assert!(read_file(disk, "state", 9).unwrap().is_none());
        write(&*disk.open("state.tmp", Open::CreateNew).unwrap(), 0, b"left over from a crash").unwrap();
        replace_file(disk, "state", b"one").unwrap();
        replace_file(disk, "state", b"two, more").unwrap();
        assert_eq!(read_file(disk, "state", 9).unwrap().unwrap(), b"two, more");
        assert_eq!(kind(read_file(disk, "state", 8)), ErrorKind::Corrupt);
        assert_eq!(disk.list().unwrap(), ["state"]);
    });
}

#[test]
fn one_process_locks_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (FileDisk::open(dir.path()).unwrap(), FileDisk::open(dir.path()).unwrap());
    first.lock().unwrap();
    assert_eq!(kind(second.lock()), ErrorKind::Locked);
    drop(first);
    second.lock().unwrap();
}

/// The story of T18: the kernel reports a failed write-back once, then says that all is well.
#[test]
fn a_failed_sync_poisons_the_handle_for_good() {
    let disk = SimDisk::new(7);
    let file = disk.open("a", Open::CreateNew).unwrap();
    disk.sync_dir().unwrap();
    write(&*file, 0, &[1; 4096]).unwrap();
    disk.fail_nth(disk.ops() + 1, Fault::Io);
    assert_eq!(kind(file.sync()), ErrorKind::Io);
    assert_eq!(kind(file.sync()), ErrorKind::Poisoned);
    assert_eq!(kind(write(&*file, 0, b"x")), ErrorKind::Poisoned);
    assert_eq!(kind(file.set_len(0)), ErrorKind::Poisoned);
    // A reader is not told, as with the kernel, and what it reads may never have reached the disk.
    assert_eq!(contents(&disk, "a"), [1; 4096]);
    // Whoever opens it to write is not told either, but reads what is there from now on.
    let other = disk.open("a", Open::Existing).unwrap();
    other.sync().unwrap();
    assert_ne!(contents(&disk, "a"), [1; 4096]);
    assert_eq!(contents(&disk, "a"), contents(&disk.crash(CrashMode::KeepAll, &mut Rng::new(0)), "a"));

    disk.fail_nth(disk.ops() + 1, Fault::NoSpace);
    assert_eq!(kind(disk.sync_dir()), ErrorKind::NoSpace);
    assert_eq!(kind(disk.sync_dir()), ErrorKind::Poisoned);
}

/// What a failed sync of the directory lost stays lost, whatever happens to its name later.
#[test]
fn a_failed_directory_sync_loses_names_for_good() {
    let mut left = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        disk.open("a", Open::CreateNew).unwrap();
        disk.fail_nth(2, Fault::Io);
        assert_eq!(kind(disk.sync_dir()), ErrorKind::Io);
        disk.rename("a", "b").unwrap();
        assert_eq!(disk.list().unwrap(), ["b"]);
        left.insert(disk.crash(CrashMode::KeepAll, &mut Rng::new(seed)).list().unwrap());
    }
    assert_eq!(left, [vec![], vec!["b".to_owned()]].into());
}

/// The same of a real file: this test runs itself again where the first `fdatasync` of each thread fails.
#[test]
fn a_failed_fdatasync_poisons_a_real_handle() {
    const CHILD: &str = "JOURNAL_TEST_FDATASYNC_FAILS";
    if std::env::var_os(CHILD).is_some() {
        let dir = tempfile::tempdir().unwrap();
        let file = FileDisk::open(dir.path()).unwrap().open("a", Open::CreateNew).unwrap();
        write(&*file, 0, b"x").unwrap();
        assert_eq!(kind(file.sync()), ErrorKind::Io);
        assert_eq!(kind(file.sync()), ErrorKind::Poisoned);
        assert_eq!(kind(write(&*file, 0, b"x")), ErrorKind::Poisoned);
        return;
    }
    let child = std::process::Command::new("strace")
        .args(["-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO:when=1"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "disk::tests::a_failed_fdatasync_poisons_a_real_handle"])
        .env(CHILD, "1")
        .output();
    match child {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        Err(error) => println!("skipped: strace is not available here: {error}"),
    }
}

fn contents(disk: &SimDisk, name: &str) -> Vec<u8> {
    read_file(disk, name, u64::MAX).unwrap().unwrap()
}

/// One file with 8 durable sectors of 1; then 2 is written over the middle and behind the end, in two writes.
fn half_synced() -> SimDisk {
    let disk = SimDisk::new(1);
    let file = disk.open("a", Open::CreateNew).unwrap();
    write(&*file, 0, &[1; 4096]).unwrap();
    file.sync().unwrap();
    disk.sync_dir().unwrap();
    write(&*file, 1024, &[2; 1024]).unwrap();
    write(&*file, 4096, &[2; 1000]).unwrap();
    disk
}

#[test]
fn what_was_synced_survives_and_the_rest_may_not() {
    let disk = half_synced();
    let rng = &mut Rng::new(1);
    assert_eq!(contents(&disk.crash(CrashMode::LoseAll, rng), "a"), [1; 4096]);
    assert_eq!(contents(&disk.crash(CrashMode::KeepAll, rng), "a"), contents(&disk, "a"));

    let (mut later_without_earlier, mut torn, mut garbage, mut between) = (0, 0, 0, 0);
    for seed in 0..2000 {
        let left = contents(&disk.crash(CrashMode::Random, &mut Rng::new(seed)), "a");
        assert!(left[..1024].iter().chain(&left[2048..4096]).all(|byte| *byte == 1), "seed {seed}");
        assert!((4096..=5096).contains(&left.len()), "seed {seed}");
        let sector = &left[1024..1536];
        later_without_earlier += i32::from(left[1024..2048] == [1; 1024] && left[4096..] == [2; 1000]);
        torn +=
            i32::from(sector.iter().all(|byte| matches!(byte, 1 | 2)) && sector.contains(&1) && sector.contains(&2));
        garbage += i32::from(sector.iter().any(|byte| !matches!(byte, 1 | 2)));
        between += i32::from(!left.len().is_multiple_of(SECTOR) && left.len() != 5096);
    }
    assert!(later_without_earlier > 100 && torn > 20 && garbage > 5 && between > 100);
}

const SECTOR: usize = 512;

#[test]
fn a_seed_gives_the_same_crash_again() {
    let disk = half_synced();
    let crash = |seed| contents(&disk.crash(CrashMode::Random, &mut Rng::new(seed)), "a");
    assert!((0..100).all(|seed| crash(seed) == crash(seed)));
    assert!((0..100).any(|seed| crash(seed) != crash(seed + 1)));
}

#[test]
fn a_crashed_disk_and_its_origin_go_separate_ways() {
    let disk = half_synced();
    let crashed = disk.crash(CrashMode::KeepAll, &mut Rng::new(1));
    write(&*crashed.open("a", Open::Existing).unwrap(), 0, b"new").unwrap();
    write(&*disk.open("a", Open::Existing).unwrap(), 0, b"old").unwrap();
    assert_eq!((&contents(&crashed, "a")[..3], &contents(&disk, "a")[..3]), (&b"new"[..], &b"old"[..]));
    assert_eq!(contents(&crashed.crash(CrashMode::LoseAll, &mut Rng::new(1)), "a")[..3], [1; 3]);
}

/// A file whose data was synced but whose name was not is gone, and a rename is whole or not at all.
#[test]
fn names_survive_only_a_synced_directory() {
    let disk = SimDisk::new(1);
    let file = disk.open("new", Open::CreateNew).unwrap();
    write(&*file, 0, b"x").unwrap();
    file.sync().unwrap();
    let rng = &mut Rng::new(3);
    assert!(disk.crash(CrashMode::LoseAll, rng).list().unwrap().is_empty());
    disk.sync_dir().unwrap();
    assert_eq!(disk.crash(CrashMode::LoseAll, rng).list().unwrap(), ["new"]);

    disk.rename("new", "kept").unwrap();
    disk.open("new", Open::CreateNew).unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let left = disk.crash(CrashMode::Random, rng);
        assert!(left.list().unwrap().iter().any(|name| contents(&left, name) == b"x"));
        seen.insert(left.list().unwrap());
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
}

/// Stops at every operation of a replacement, crashes in many ways, and looks: the old contents or the new, whole.
#[test]
fn a_replacement_is_whole_wherever_the_power_goes() {
    let (old, new) = (vec![1; 3000], vec![2; 5000]);
    let run = |stop_at| {
        let disk = SimDisk::new(1);
        replace_file(&disk, "state", &old).unwrap();
        disk.stop_at(disk.ops() + stop_at);
        let result = replace_file(&disk, "state", &new);
        (disk, result)
    };
    let steps = (1..).find(|stop_at| run(*stop_at).1.is_ok()).unwrap() - 1;
    assert!(steps >= 5, "create, write, sync, rename, sync_dir");
    let mut survivors = [0, 0];
    for stop_at in 1..=steps {
        for seed in 0..200 {
            let (disk, result) = run(stop_at);
            assert_eq!(kind(result), ErrorKind::Unavailable);
            assert_eq!(kind(read_file(&disk, "state", 9999)), ErrorKind::Unavailable);
            assert_eq!(kind(disk.list()), ErrorKind::Unavailable);
            let left = contents(&disk.crash(CrashMode::Random, &mut Rng::new(seed)), "state");
            assert!(left == old || left == new, "stopped at {stop_at}, seed {seed}");
            survivors[usize::from(left == new)] += 1;
        }
    }
    assert!(survivors[0] > 0 && survivors[1] > 0, "{survivors:?}");
    let (disk, _) = run(steps + 1);
    assert_eq!(contents(&disk.crash(CrashMode::LoseAll, &mut Rng::new(1)), "state"), new);
}

#[test]
fn faults_hit_the_operation_they_were_set_for() {
    let disk = SimDisk::new(5);
    let file = disk.open("a", Open::CreateNew).unwrap();
    disk.sync_dir().unwrap();
    assert_eq!(disk.ops(), 2);

    disk.fail_nth(3, Fault::NoSpace);
    assert_eq!(kind(write(&*file, 0, &[1; 100])), ErrorKind::NoSpace);
    assert!(file.len().unwrap() <= 100);
    disk.fail_nth(4, Fault::Misdirect(600));
    write(&*file, 0, &[9; 8]).unwrap();
    let mut buf = [0; 8];
    file.read_exact_at(600, &mut buf).unwrap();
    assert_eq!(buf, [9; 8]);

    disk.fail_nth(5, Fault::IgnoreFlush);
    file.sync().unwrap();
    assert!(contents(&disk.crash(CrashMode::LoseAll, &mut Rng::new(1)), "a").is_empty());
    file.sync().unwrap();
    disk.flip_bit("a", 601 * 8 + 3).unwrap();
    assert_eq!(contents(&disk.crash(CrashMode::LoseAll, &mut Rng::new(1)), "a")[600..603], [9, 1, 9]);
    assert_eq!(kind(disk.flip_bit("a", 608 * 8)), ErrorKind::Invalid);

    disk.fail_nth_read(disk.reads() + 1, ReadFault::Io);
    assert_eq!(kind(file.read_at(0, &mut buf)), ErrorKind::Io);
    disk.fail_nth_read(disk.reads() + 1, ReadFault::Short);
    assert_eq!(kind(file.read_exact_at(0, &mut buf)), ErrorKind::Corrupt);
    file.read_exact_at(0, &mut buf).unwrap();
}
