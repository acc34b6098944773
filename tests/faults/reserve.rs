//! The reserve on the file systems that there are: to the last byte somebody else has all of it, and what has to be written is written.

use std::fs::{self, File};
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use journal::disk::{Disk, FileDisk, Open, RESERVE_BYTES, Reserve};
use rustix::fs::{FallocateFlags, fallocate};

use crate::common::cluster::Cluster;
use crate::common::tools::{Loop, Mounted, missing, run};
use crate::common::wait_for;
use crate::device::blank;

const MIB: u64 = 1 << 20;

/// Takes all that is left, to the last block.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("filler");
    let file = File::create(&path).unwrap();
    let mut end = 0;
    for step in [MIB, 64 << 10, 4096] {
        while fallocate(&file, FallocateFlags::empty(), end, step).is_ok() {
            end += step;
        }
    }
    path
}

/// The whole life of a reserve in `dir`.
fn lives(what: &str, dir: &Path) {
    let reserve = Arc::new(Reserve::open(dir).unwrap());
    assert!(reserve.is_whole(), "{what}: there is room for it");
    let disk = FileDisk::open(dir).unwrap().with_reserve(Some(Arc::clone(&reserve)));
    for round in 0..2 {
        let filler = fill(dir);
        assert!(reserve.is_whole(), "{what}: nobody takes it");
        let free = reserve.free_bytes().unwrap();
        assert!(free < MIB, "{what}: {free} bytes that nobody gets are no room");
        assert!(!reserve.has_room_for(RESERVE_BYTES * 3 / 4), "{what}: half of it is for what cannot wait");
        // A name, and more than any file system keeps for itself.
        let name = format!("note-{round}");
        let file = disk.open(&name, Open::CreateNew).unwrap();
        let (note, piece) = (vec![7; 4 << 20], vec![7; 1 << 20]);
        file.write_at(0, &[IoSlice::new(&note)]).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        file.sync().unwrap();
        disk.sync_dir().unwrap();
        assert!(!reserve.is_whole() && reserve.is_in_use(), "{what}: that took it");
        assert!(reserve.has_room_for(MIB), "{what}: some is left");
        assert!(!reserve.tend().unwrap(), "{what}: there is no room");
        // What is left for what cannot wait is not for others.
        let more = disk.open(&format!("more-{round}"), Open::CreateNew).unwrap();
        let mut end = 0;
        while reserve.has_room_for(MIB) {
            more.write_at(end, &[IoSlice::new(&piece)]).unwrap();
            end += MIB;
        }
        assert!((MIB..=RESERVE_BYTES / 2).contains(&end), "{what}: {end} bytes");
        file.write_at(4 << 20, &[IoSlice::new(&piece)]).unwrap();

        fs::remove_file(filler).unwrap();
        // A file system may take its time with what was removed.
        let is_taken = || (reserve.tend().unwrap() && reserve.is_whole()).then_some(());
        wait_for("taken again", is_taken, || format!("{what}: {:?} are free", reserve.free_bytes()));
        assert!(fs::read(dir.join(&name)).unwrap().iter().all(|byte| *byte == 7));
        for name in [name, format!("more-{round}")] {
            disk.remove(&name).unwrap();
        }
    }
    // As the next process finds it.
    drop((disk, reserve));
    assert!(Reserve::open(dir).unwrap().is_whole(), "{what}");
}

/// A file system of its own for a test.
struct OwnDisk {
    mounted: Mounted,
    _device: Option<Loop>,
    // Holds its file.
    _cluster: Cluster,
}

impl OwnDisk {
    fn new(fs: &str, bytes: u64) -> Option<Self> {
        let cluster = Cluster::new();
        let (image, dir) = (cluster.path("disk.img"), cluster.path("mnt"));
        if fs == "tmpfs" {
            let mounted = Mounted::with(fs, Path::new("none"), dir, &format!("size={bytes}"));
            return Some(Self { mounted, _device: None, _cluster: cluster });
        }
        blank(&image, bytes);
        let device = Loop::on(&image)?;
        let force = if fs == "xfs" { "-f" } else { "-F" };
        run(&[&format!("mkfs.{fs}"), "-q", force, device.device.to_str().unwrap()]);
        let mounted = Mounted::with(fs, &device.device, dir, "defaults");
        Some(Self { mounted, _device: Some(device), _cluster: cluster })
    }
}

#[test]
fn a_reserve_lives_on_tmpfs_ext4_and_xfs() {
    for (fs, mib) in [("tmpfs", 64), ("ext4", 96), ("xfs", 320)] {
        if fs != "tmpfs" && missing(&[&format!("mkfs.{fs}")]) {
            return;
        }
        let Some(disk) = OwnDisk::new(fs, mib * MIB) else { return };
        lives(fs, &disk.mounted.dir);
    }
    // Where its tools are; CI does not ask for them.
    if Command::new("mkfs.btrfs").arg("--version").output().is_err() {
        println!("btrfs is not tried: there is no mkfs.btrfs");
    }
}
