//! Block devices: what is mounted, held, or stands on the source itself.

use std::fs;
use std::path::Path;

use crate::common::cluster::{Cluster, random};
use crate::common::tools::{Loop, Mounted};

const SIZE: usize = 16 << 20;

/// A file of zeroes.
pub(crate) fn blank(path: &Path, size: u64) {
    fs::File::create(path).unwrap().set_len(size).unwrap();
}

#[test]
fn a_device_is_protected_and_always_compared() {
    let mut cluster = Cluster::new();
    let file = cluster.path("disk.img");
    fs::write(&file, random(1, SIZE)).unwrap();
    let Some(disk) = Loop::on(&file) else { return };
    cluster.source = disk.device.clone();
    cluster.begin();
    cluster.settle();
    cluster.write(4096, &random(2, 65536));
    cluster.settle();
    cluster.assert_same();
    cluster.agent_fails().refused(11, "");
    cluster.stop_agent();
    cluster.write_behind(1_000_001, &[0x5a]);
    cluster.start_agent();
    cluster.settle();
    assert_eq!(cluster.gaps().len(), 2, "nothing proves that nobody wrote to a device");
    cluster.assert_same();
    // Its file is behind it, and not to be had beside it.
    cluster.source = file;
    cluster.beside(&cluster.path("none"), &cluster.source, &cluster.path("none.sock")).failure();
    cluster.stop_agent();
    cluster.agent_fails().refused(11, "attached to");
}

#[test]
fn a_source_that_is_mounted_or_held_is_refused() {
    let mut cluster = Cluster::new();
    let file = cluster.path("disk.img");
    blank(&file, 32 << 20);
    cluster.start_receiver();
    cluster.join();
    let Some(disk) = Loop::on(&file) else { return };
    let mounted = Mounted::ext4(&disk.device, cluster.path("mnt"));
    cluster.source = disk.device.clone();
    cluster.agent_fails().refused(11, "mounted");
    cluster.source = file.clone();
    cluster.agent_fails().refused(11, "attached to");
    drop(mounted);
    cluster.source = disk.device.clone();
    let held = exclusive(&disk.device);
    cluster.agent_fails().refused(11, "has it for itself");
    drop(held);
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
}

fn exclusive(device: &Path) -> fs::File {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap();
    fs::File::options().read(true).custom_flags(flags).open(device).unwrap()
}

#[test]
fn what_is_written_by_protecting_must_not_stand_on_the_source() {
    let mut cluster = Cluster::new();
    let file = cluster.path("disk.img");
    blank(&file, 64 << 20);
    let Some(disk) = Loop::on(&file) else { return };
    let mounted = Mounted::ext4(&disk.device, cluster.path("mnt"));
    // The store and the agent's state are on a file system that is on the source.
    cluster.store = mounted.dir.join("store");
    cluster.state = mounted.dir.join("state");
    cluster.start_receiver();
    cluster.join();
    for source in [&disk.device, &file] {
        cluster.source.clone_from(source);
        cluster.agent_fails().refused(11, "");
    }
    // A file beside them is fine.
    cluster.source = mounted.dir.join("beside.img");
    fs::write(&cluster.source, random(3, 1 << 20)).unwrap();
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
    cluster.stop_agent();
    cluster.stop_receiver();
}

#[test]
fn an_image_goes_to_a_device_that_is_free_and_large_enough() {
    let cluster = Cluster::live(&random(4, SIZE));
    let (large, small) = (cluster.path("large.img"), cluster.path("small.img"));
    blank(&large, 24 << 20);
    blank(&small, 8 << 20);
    let (Some(large), Some(small)) = (Loop::on(&large), Loop::on(&small)) else { return };
    cluster.restore("latest", &large.device, &[]).refused(15, "exists");
    cluster.restore("latest", &small.device, &["--force"]).refused(17, "are needed");
    let mounted = Mounted::ext4(&large.device, cluster.path("mnt"));
    cluster.restore("latest", &large.device, &["--force"]).refused(11, "in use");
    drop(mounted);
    cluster.restore("latest", &large.device, &["--force"]).document();
    let found = fs::read(&large.device).unwrap();
    assert!(found[..SIZE] == random(4, SIZE));
}
