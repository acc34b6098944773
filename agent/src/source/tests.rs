//! What may be protected, and what is refused and why; what a proof notices.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::stack::{Node, below};
use super::*;
use crate::ErrorKind;
use crate::testing::{Rng, file_of};

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[track_caller]
fn refused(path: &Path, kind: ErrorKind, saying: &str) {
    let error = Source::open(path).unwrap_err();
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.to_string().contains(saying), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

#[test]
fn what_cannot_be_protected_is_refused_with_the_reason() {
    let dir = dir();
    let make = |name, length| file_of(dir.path(), name, &vec![1; length]);
    refused(&dir.path().join("none"), ErrorKind::NotFound, "cannot find the source");
    refused(dir.path(), ErrorKind::Invalid, "is a directory");
    refused(Path::new("/dev/null"), ErrorKind::Invalid, "neither a regular file nor a block device");
    refused(&make("empty", 0), ErrorKind::Invalid, "is empty");
    refused(&make("odd", 1000), ErrorKind::Invalid, "not a multiple of 512");
    let read_only = make("read-only", 512);
    fs::set_permissions(&read_only, Permissions::from_mode(0o444)).unwrap();
    refused(&read_only, ErrorKind::Invalid, "read-only");

    let held = make("held", 512);
    let first = Source::open(&held).unwrap();
    refused(&held, ErrorKind::Locked, "held by another agent");
    drop(first);
    Source::open(&held).unwrap();
}

#[test]
fn a_source_reads_what_was_written_at_any_length_and_alignment() {
    let dir = dir();
    // 1001 sectors: no multiple of 4096.
    let path = file_of(dir.path(), "source", &vec![0; 1001 * 512]);
    let source = Source::open(&path).unwrap();
    assert_eq!(source.size().count(), 1001);
    let block = u64::from(source.block_bytes());
    let blocks = source.size().bytes() / block;
    let mut image = vec![0; usize::try_from(blocks * block).unwrap()];
    let mut rng = Rng(3);
    for round in 0..200 {
        let start = rng.below(blocks);
        let count = 1 + rng.below(blocks - start);
        let (offset, length) = (start * block, usize::try_from(count * block).unwrap());
        let range = usize::try_from(offset).unwrap()..usize::try_from(offset).unwrap() + length;
        match rng.below(4) {
            0 => {
                // Memory that `O_DIRECT` would refuse.
                let data = vec![round; length + 1];
                source.write_at(offset, &data[1..]).unwrap();
                image[range.clone()].fill(round);
            }
            1 if source.discard(offset, count * block).unwrap() => image[range.clone()].fill(0),
            kind => {
                source.zero(offset, count * block, kind == 2).unwrap();
                image[range.clone()].fill(0);
            }
        }
        let mut read = vec![0xAA; length + 1];
        source.read_at(offset, &mut read[1..]).unwrap();
        assert!(read[1..] == image[range], "round {round}");
    }
    source.sync().unwrap();
    assert!(fs::read(&path).unwrap()[..image.len()] == image[..]);
    assert!(source.read_at(source.size().bytes(), &mut [0; 512]).is_err());
}

#[test]
fn a_batch_is_as_many_calls_at_any_number_and_alignment() {
    let dir = dir();
    let path = file_of(dir.path(), "source", &vec![7; 100 * 4096]);
    let source = Source::open(&path).unwrap();
    for shift in [0, 1] {
        // More than the ring takes at a time.
        let mut memory = AlignedBuf::new(101 * 4096).unwrap();
        let (reads, writes) = memory[shift..].split_at_mut(50 * 4096);
        let fill = |n: usize| u8::try_from(n + 10 * shift).unwrap();
        writes.chunks_mut(4096).zip(0..).for_each(|(block, n)| block.fill(fill(n)));
        let block = |n: usize| bytes(n * 4096);
        let write = |(n, data)| Transfer::Write { offset: block(n), data };
        let read = |(n, buffer)| Transfer::Read { offset: block(50 + n), buffer };
        let mut batch: Vec<_> = writes.chunks_exact(4096).take(50).enumerate().map(write).collect();
        batch.extend(reads.chunks_exact_mut(4096).enumerate().map(read));
        let mut beyond = AlignedBuf::new(4096).unwrap();
        batch.push(Transfer::Read { offset: block(100), buffer: &mut beyond });
        let outcomes = source.transfer(&mut batch);
        assert!(outcomes[..100].iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(outcomes[100].as_ref().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(reads.iter().all(|byte| *byte == 7));
        let image = fs::read(&path).unwrap();
        assert!((0..50).all(|n| image[n * 4096..][..4096].iter().all(|byte| *byte == fill(n))));
    }
}

/// The story: stop cleanly, change something, start. Each change has to be noticed, also one right after the proof.
#[test]
fn a_proof_notices_every_change() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 6] = [
        ("one byte", |path| OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[9], 70_000).unwrap()),
        ("one byte, with the old time", |path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            let time = file.metadata().unwrap().modified().unwrap();
            file.write_all_at(&[9], 70_000).unwrap();
            file.set_modified(time).unwrap();
        }),
        ("the same byte", |path| OpenOptions::new().write(true).open(path).unwrap().write_all_at(&[1], 0).unwrap()),
        ("the size", |path| OpenOptions::new().write(true).open(path).unwrap().set_len(1 << 20).unwrap()),
        ("the size, and back", |path| {
            let file = OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(512).unwrap();
            file.set_len(1 << 17).unwrap();
        }),
        ("the whole file", |path| {
            fs::copy(path, path.with_extension("new")).unwrap();
            fs::remove_file(path).unwrap();
            fs::hard_link(path.with_extension("new"), path).unwrap();
        }),
    ];
    for (what, change) in changes {
        let dir = dir();
        let path = file_of(dir.path(), "source", &[1; 1 << 17]);
        let proof = {
            let source = Source::open(&path).unwrap();
            source.write_at(4096, &[2; 4096]).unwrap();
            source.sync().unwrap();
            source.proof().unwrap().unwrap()
        };
        assert!(Source::open(&path).unwrap().is_unchanged_since(&proof).unwrap(), "nothing was changed");
        change(&path);
        assert!(!Source::open(&path).unwrap().is_unchanged_since(&proof).unwrap(), "{what} was changed");
    }
}

#[test]
fn a_directory_stands_on_its_disk_and_a_file_beside_it_is_fine() {
    let dir = dir();
    let path = file_of(dir.path(), "source", &[1; 4096]);
    refuse_inside(dir.path(), &Source::open(&path).unwrap()).unwrap();
    assert!(!below(dir.path()).unwrap().is_empty());
    assert!(refuse_inside(dir.path().join("none"), &Source::open(&path).unwrap()).is_err());
}

/// A loop device, detached when dropped. `None`, with a word, where there are none.
struct Loop(PathBuf);

impl Loop {
    fn attach(file: &Path) -> Option<Self> {
        let output = Command::new("losetup").args(["--find", "--show", "--partscan"]).arg(file).output();
        match output {
            Ok(output) if output.status.success() => {
                Some(Self(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())))
            }
            other => {
                eprintln!("SKIPPED: no loop devices here: {other:?}");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

struct Mounted(PathBuf);

impl Mounted {
    /// A new ext4 of a device.
    fn ext4(device: &Path, at: PathBuf) -> Self {
        assert!(Command::new("mkfs.ext4").arg("-q").arg(device).status().unwrap().success());
        Self::new(&[device.to_str().unwrap()], at)
    }

    fn new(what: &[&str], at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        assert!(Command::new("mount").args(what).arg(&at).status().unwrap().success());
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn node(path: &Path) -> Node {
    open::node_of(&fs::metadata(path).unwrap())
}

/// A file of zeroes with room for a file system.
fn blank(dir: &Path) -> PathBuf {
    let path = file_of(dir, "source", &[]);
    File::options().write(true).open(&path).unwrap().set_len(16 << 20).unwrap();
    path
}

/// The story: the state directory lies on a file system on a loop device on the file that is to be protected. Each record would
/// be a write to be recorded.
#[test]
fn loops_mounts_and_state_on_the_source_are_refused() {
    let dir = dir();
    let path = blank(dir.path());
    // Opened first: what is on a loop device already is refused below.
    let source = Source::open(&path).unwrap();
    let Some(device) = Loop::attach(&path) else { return };
    {
        let whole = Source::open(&device.0).unwrap();
        assert!(whole.is_device() && whole.proof().unwrap().is_none());
        let mut block = vec![0; 4096];
        whole.read_at(0, &mut block).unwrap();
        whole.write_at(0, &block).unwrap();
        assert!(whole.discard(8 << 20, 1 << 20).unwrap());
        refused(&device.0, ErrorKind::Locked, "something else has it");
    }
    let inside = Mounted::ext4(&device.0, dir.path().join("mounted"));
    refused(&device.0, ErrorKind::Locked, "mounted");

    let error = refuse_inside(&inside.0, &source).unwrap_err();
    assert!(error.to_string().contains("stored on the protected source"), "{error}");
    refuse_inside(dir.path(), &source).unwrap();
    let found = below(&inside.0).unwrap();
    assert!(found.contains(&node(&path)));
    assert!(found.contains(&node(&device.0)));

    drop(source);
    refused(&path, ErrorKind::Locked, "attached to /dev/loop");
}

/// A directory on a partition stands on the whole disk and on what is behind it, and none of them can be had.
#[test]
fn a_partition_stands_on_its_disk() {
    let dir = dir();
    let path = blank(dir.path());
    let source = Source::open(&path).unwrap();
    let Some(disk) = Loop::attach(&path) else { return };
    assert!(Command::new("addpart").arg(&disk.0).args(["1", "2048", "28672"]).status().unwrap().success());
    let partition = PathBuf::from(format!("{}p1", disk.0.display()));
    let inside = Mounted::ext4(&partition, dir.path().join("mounted"));
    let found = below(&inside.0).unwrap();
    for place in [&partition, &disk.0, &path] {
        assert!(found.contains(&node(place)), "{}: {found:?}", place.display());
    }
    assert!(refuse_inside(&inside.0, &source).is_err());
    for place in [&partition, &disk.0] {
        refused(place, ErrorKind::Locked, "mounted");
    }
}

#[test]
fn a_loop_device_on_a_loop_device_stands_on_the_file_of_both() {
    let dir = dir();
    let path = blank(dir.path());
    let source = Source::open(&path).unwrap();
    let Some(lower) = Loop::attach(&path) else { return };
    let Some(upper) = Loop::attach(&lower.0) else { return };
    let inside = Mounted::ext4(&upper.0, dir.path().join("mounted"));
    let found = below(&inside.0).unwrap();
    for place in [&upper.0, &lower.0, &path] {
        assert!(found.contains(&node(place)), "{}: {found:?}", place.display());
    }
    assert!(refuse_inside(&inside.0, &source).is_err());
    refused(&upper.0, ErrorKind::Locked, "mounted");
    refused(&lower.0, ErrorKind::Locked, "attached to /dev/loop");
}

/// A file system in a file of a file system: the outer one's device is found through the file.
#[test]
fn a_file_system_in_a_file_stands_on_the_disk_of_that_file() {
    let dir = dir();
    let path = blank(dir.path());
    let source = Source::open(&path).unwrap();
    let Some(outer) = Loop::attach(&path) else { return };
    let outside = Mounted::ext4(&outer.0, dir.path().join("outside"));
    let file = outside.0.join("inner");
    File::create(&file).unwrap().set_len(8 << 20).unwrap();
    let Some(inner) = Loop::attach(&file) else { return };
    let inside = Mounted::ext4(&inner.0, dir.path().join("inside"));
    let found = below(&inside.0).unwrap();
    for place in [&inner.0, &file, &outer.0, &path] {
        assert!(found.contains(&node(place)), "{}: {found:?}", place.display());
    }
    assert!(refuse_inside(&inside.0, &source).is_err());
    // Beside it is another disk.
    assert!(!below(dir.path()).unwrap().contains(&node(&outer.0)));
}

/// An overlay has no device that could be named. What its layers are on is in use, and that is refused when it is opened.
#[test]
fn what_an_overlay_is_on_is_in_use() {
    let dir = dir();
    let path = blank(dir.path());
    let Some(device) = Loop::attach(&path) else { return };
    let layers = Mounted::ext4(&device.0, dir.path().join("layers"));
    let layer = |name: &str| {
        fs::create_dir(layers.0.join(name)).unwrap();
        format!("{name}dir={}", layers.0.join(name).display())
    };
    let options = [layer("lower"), layer("upper"), layer("work")].join(",");
    let overlay = Mounted::new(&["-t", "overlay", "overlay", "-o", &options], dir.path().join("overlay"));
    assert!(!below(&overlay.0).unwrap().is_empty());
    refused(&device.0, ErrorKind::Locked, "mounted");
    refused(&path, ErrorKind::Locked, "attached to /dev/loop");
    // Nor does it keep anything from being protected that has nothing to do with it.
    let beside = file_of(&overlay.0, "beside", &[1; 4096]);
    refuse_inside(&overlay.0, &Source::open(&beside).unwrap()).unwrap();
}
