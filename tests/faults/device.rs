//! Block devices: what is mounted, held, or stands on the source itself.

use std::fs;
use std::path::Path;

use crate::common::cluster::{Cluster, random};
use crate::common::tools::{Loop, Mounted, run};
use crate::common::wait_for;

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

/// A device that takes no writes. It would stay so for whoever has its number next.
struct ReadOnly<'a>(&'a Loop);

impl<'a> ReadOnly<'a> {
    fn set(disk: &'a Loop) -> Self {
        run(&["blockdev", "--setro", disk.device.to_str().unwrap()]);
        Self(disk)
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        run(&["blockdev", "--setrw", self.0.device.to_str().unwrap()]);
    }
}

/// The file behind it has another length, and the device follows.
fn resize(disk: &Loop, file: &Path, bytes: u64) {
    fs::File::options().write(true).open(file).unwrap().set_len(bytes).unwrap();
    run(&["losetup", "--set-capacity", disk.device.to_str().unwrap()]);
}

/// Until the receiver shows this size and all is durable, and the newest point is the device.
#[track_caller]
fn settle_at(cluster: &mut Cluster, bytes: u64) {
    let sized = || (cluster.look()?["volumes"][0]["size_bytes"] == bytes).then_some(());
    wait_for("resized", sized, || cluster.words());
    cluster.settle();
    cluster.assert_same();
}

#[test]
fn a_device_that_grows_and_shrinks_is_followed() {
    const MIB: u64 = 1 << 20;
    let mut cluster = Cluster::new();
    let file = cluster.path("disk.img");
    let first = random(11, SIZE);
    fs::write(&file, &first).unwrap();
    let Some(disk) = Loop::on(&file) else { return };
    cluster.source = disk.device.clone();
    cluster.begin();
    cluster.settle();
    cluster.mark("first");
    // While it is served: it grows without a gap, and a client that connects then has the new part.
    resize(&disk, &file, 24 * MIB);
    settle_at(&mut cluster, 24 * MIB);
    cluster.write(20 * MIB, &random(12, 65_536));
    settle_at(&mut cluster, 24 * MIB);
    assert_eq!(cluster.gaps().len(), 1);
    // It is cut, and given back what it had, which comes back as it is on the device.
    resize(&disk, &file, 8 * MIB);
    settle_at(&mut cluster, 8 * MIB);
    assert_eq!(cluster.gaps().len(), 2);
    cluster.write(4 * MIB, &random(13, 65_536));
    resize(&disk, &file, 16 * MIB);
    settle_at(&mut cluster, 16 * MIB);
    cluster.assert_runs();
    // And while nobody watches.
    for (round, bytes) in [20, 6].into_iter().enumerate() {
        cluster.stop_agent();
        resize(&disk, &file, bytes * MIB);
        cluster.start_agent();
        settle_at(&mut cluster, bytes * MIB);
        assert_eq!(cluster.gaps().len(), 3 + round);
    }
    assert!(cluster.image("mark:first") == first);
    let verified = cluster.ask(&["verify", "db"]).document();
    assert_eq!(verified["ok"], true, "{verified}");
    cluster.stop_agent();
    cluster.stop_receiver();
}

#[test]
fn another_device_under_the_name_and_one_that_is_read_only_are_refused() {
    let mut cluster = Cluster::new();
    let (file, other, link) = (cluster.path("disk.img"), cluster.path("other.img"), cluster.path("disk"));
    fs::write(&file, random(21, SIZE)).unwrap();
    fs::write(&other, random(22, SIZE)).unwrap();
    let (Some(disk), Some(second)) = (Loop::on(&file), Loop::on(&other)) else { return };
    let lead = |to: &Path| {
        _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(to, &link).unwrap();
    };
    lead(&disk.device);
    cluster.source.clone_from(&link);
    cluster.start_receiver();
    cluster.join();
    // Before it was ever protected, and after.
    let read_only = ReadOnly::set(&disk);
    cluster.agent_fails().refused(2, "may not be written to");
    drop(read_only);
    cluster.start_agent();
    cluster.settle();
    cluster.mark("first");
    cluster.stop_agent();
    let read_only = ReadOnly::set(&disk);
    cluster.agent_fails().refused(2, "may not be written to");
    drop(read_only);
    lead(&second.device);
    cluster.agent_fails().refused(2, "--replaced");
    // The same device is the same by whatever path.
    cluster.source.clone_from(&disk.device);
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
    cluster.stop_agent();
    cluster.source.clone_from(&link);
    cluster.agent_fails().refused(2, "--replaced");
    cluster.protect = vec!["--replaced".into()];
    cluster.start_agent();
    cluster.settle();
    cluster.assert_same();
    assert!(cluster.image("mark:first") == random(21, SIZE));
    cluster.stop_agent();
    cluster.stop_receiver();
}

/// A device that may not be written to for a while: clients are told, and points stay true.
#[test]
fn a_device_that_becomes_read_only_for_a_while_keeps_its_points_true() {
    let mut cluster = Cluster::new();
    let file = cluster.path("disk.img");
    fs::write(&file, random(31, SIZE)).unwrap();
    let Some(disk) = Loop::on(&file) else { return };
    cluster.source = disk.device.clone();
    cluster.begin();
    cluster.settle();
    let mut client = oracle::Client::connect(&cluster.tap(), "db").unwrap();
    client.write(4096, &random(32, 4096), true).unwrap();
    let read_only = ReadOnly::set(&disk);
    let refused = client.write(8192, &random(33, 4096), true).is_err();
    drop(read_only);
    client.write(12_288, &random(34, 4096), true).unwrap();
    cluster.settle();
    cluster.assert_same();
    cluster.assert_runs();
    assert!(refused, "a write that the device did not take was acknowledged");
    cluster.stop_agent();
    cluster.stop_receiver();
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
