//! The past as files: what any program finds there, and who ends it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use oracle::Micros;
use rustix::process::geteuid;
use serde_json::Value;

use crate::common::cluster::{Cluster, assert_equal, random};
use crate::common::process::Process;
use crate::common::tools::{Loop, Mounted, missing, run, status};
use crate::common::{skip, wait_for};
use crate::past::{BYTES, Past};

/// Whether nothing can be mounted here, which is then said.
fn no_fuse() -> bool {
    let why = if !geteuid().is_root() {
        "not root"
    } else if !Path::new("/dev/fuse").exists() {
        "no FUSE"
    } else {
        return false;
    };
    skip(why);
    true
}

/// A mount of the past, taken off when it is dropped.
struct Mount {
    process: Option<Process>,
    dir: PathBuf,
}

impl Mount {
    fn of(past: &Past) -> Self {
        Self::of_volumes(&past.cluster, &["db"])
    }

    fn of_volumes(cluster: &Cluster, volumes: &[&str]) -> Self {
        let dir = cluster.path("past");
        fs::create_dir_all(&dir).unwrap();
        let mut process = cluster.serve(&["mount", "db", dir.to_str().unwrap()]);
        let ready = process.event();
        assert_eq!((&ready["event"], &ready["volumes"]), (&"ready".into(), &serde_json::json!(volumes)), "{ready}");
        Self { process: Some(process), dir }
    }

    fn image(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.img"))
    }

    fn stop(mut self) {
        self.process.take().unwrap().stop();
        assert!(!is_mounted(&self.dir));
    }

    fn take(&mut self) -> Process {
        self.process.take().unwrap()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.process = None;
        // A test that fails may leave it.
        _ = status(&["umount", "--quiet", "--lazy", self.dir.to_str().unwrap()]);
    }
}

fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == dir.to_str())
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_instant_has_a_name() {
    if no_fuse() {
        return;
    }
    let mut past = Past::new();
    past.cluster.mark("before");
    let mount = Mount::of(&past);
    for (instant, content) in &past.instants {
        let path = mount.image(instant);
        assert_equal(&fs::read(&path).unwrap(), content);
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.len(), found.mode() & 0o7777), (BYTES as u64, 0o400));
        assert!(found.blocks() * 512 < found.len(), "so that programs ask for holes");
        let time: f64 = instant[1..].parse().unwrap();
        let modified = found.mtime() as f64 + found.mtime_nsec() as f64 / 1e9;
        assert!(modified <= time && modified > time - 60.0, "{modified} for {time}");
    }
    // The other one is how the test waits until all is durable.
    assert_eq!(names(&mount.dir.join("marks")), ["before.img", "now.img"].map(str::to_owned).into());
    let listed = names(&mount.dir);
    assert!(listed.contains("latest.img") && listed.contains("marks"), "{listed:?}");
    for name in listed.iter().filter(|name| *name != "marks") {
        assert_eq!(fs::metadata(mount.dir.join(name)).unwrap().len(), BYTES as u64, "{name}");
    }
    // The newest stays what it was when it was opened.
    let mut latest = File::open(mount.image("latest")).unwrap();
    let inode = latest.metadata().unwrap().ino();
    past.cluster.write(0, &random(9, 4096));
    past.cluster.wait_durable();
    let mut found = Vec::new();
    latest.read_to_end(&mut found).unwrap();
    assert_equal(&found, &past.instants[4].1);
    assert_ne!(fs::metadata(mount.image("latest")).unwrap().ino(), inode, "another point is another file");
    assert_eq!(
        fs::metadata(mount.image("mark:before")).unwrap().ino(),
        fs::metadata(mount.dir.join("marks/before.img")).unwrap().ino(),
        "the same point is the same file"
    );
    // Where nothing was ever written there is a hole.
    let hole = latest.seek(SeekFrom::Start(0)).unwrap();
    let found = rustix::fs::seek(&latest, rustix::fs::SeekFrom::Hole(hole)).unwrap();
    assert_eq!(found, BYTES as u64 / 2);
    let data = rustix::fs::seek(&latest, rustix::fs::SeekFrom::Data(found)).unwrap();
    assert_eq!(data, BYTES as u64 / 4 * 3);
    let held = past.exports();
    assert_eq!((held.len(), &held[0]["kind"], &held[0]["clients"]), (1, &"mount".into(), &1.into()), "{held:?}");
    assert!(held[0]["held_seconds"].as_f64().unwrap() > 0.0);
    drop(latest);
    let idle = || (past.exports()[0]["point"].is_null()).then_some(());
    wait_for("closed", idle, || format!("{:?}", past.exports()));
    mount.stop();
    assert_eq!(past.exports(), [Value::Null; 0]);
    past.cluster.assert_runs();
}

#[test]
fn a_group_of_several_volumes_has_a_directory_for_each() {
    if no_fuse() {
        return;
    }
    let mut cluster = Cluster::new();
    let log = cluster.path("log.img");
    fs::write(&cluster.source, random(1, 1 << 20)).unwrap();
    fs::write(&log, random(2, 2 << 20)).unwrap();
    cluster.protect = ["--group".into(), "db".into(), format!("log={}", log.display()).into()].into();
    cluster.begin();
    cluster.settle();
    let (mut data, mut journal) = (random(1, 1 << 20), random(2, 2 << 20));
    // First the one, then the other: an instant in between has the one only.
    cluster.write_to("log", 4096, &[7; 4096]);
    let between = crate::common::cluster::at(Micros::now().0);
    cluster.write_to("db", 8192, &[8; 4096]);
    cluster.settle();
    let mount = Mount::of_volumes(&cluster, &["db", "log"]);
    assert_eq!(names(&mount.dir), ["db", "log"].map(str::to_owned).into());
    let read = |volume: &str, name: &str| fs::read(mount.dir.join(volume).join(format!("{name}.img"))).unwrap();
    journal[4096..8192].fill(7);
    assert_equal(&read("log", &between), &journal);
    assert_equal(&read("db", &between), &data);
    data[8192..12288].fill(8);
    assert_equal(&read("db", "latest"), &data);
    assert_equal(&read("db", "marks/now"), &data);
    assert_equal(&read("log", "latest"), &journal);
    for name in ["latest.img", "marks", "none", "db/none.img"] {
        assert!(!mount.dir.join(name).exists(), "{name}");
    }
    let nbd = format!("unix:{}", cluster.path("a.sock").display());
    cluster.ask(&["export", "db", "--at", "latest", "--nbd", &nbd]).refused(10, "has several volumes: db, log");
    let mut export = cluster.serve(&["export", "db/log", "--at", &between, "--nbd", &nbd]);
    assert_eq!(export.event()["export"], "log");
    let mut found = vec![0; 2 << 20];
    oracle::Client::connect(&nbd, "log").unwrap().read(0, &mut found).unwrap();
    assert_equal(&found, &journal);
    export.stop();
    mount.stop();
}

#[test]
fn what_is_no_instant_is_not_there() {
    if no_fuse() {
        return;
    }
    let past = Past::new();
    let mount = Mount::of(&past);
    let longest = format!("{}.img", "9".repeat(240));
    for name in
        ["nothing", "nothing.img", "@1.img", "@99999999999.img", "seq:99999999.img", "mark:none.img", "latest", " .img"]
            .into_iter()
            .chain(["marks/none.img", "marks/../../etc.img", "2026-02-30 00:00.img", "\u{202e}.img", longest.as_str()])
    {
        assert_eq!(fs::metadata(mount.dir.join(name)).unwrap_err().kind(), std::io::ErrorKind::NotFound, "{name}");
    }
    for refused in [File::create(mount.dir.join("new.img")), File::options().write(true).open(mount.image("latest"))] {
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(rustix::io::Errno::ROFS.raw_os_error()));
    }
    let busy = |args: &[&str]| past.cluster.ask(&[&["mount", "db"], args].concat());
    busy(&[mount.dir.to_str().unwrap()]).refused(15, "not empty");
    busy(&[past.cluster.store.to_str().unwrap()]).refused(15, "is the store");
    assert_ne!(busy(&["/no/such/directory"]).failure().0, 0);
    past.cluster.ask(&["mount", "none", "/mnt"]).refused(10, "no group none");
    past.cluster.ask(&["unmount", past.cluster.store.to_str().unwrap()]).refused(10, "nothing of backspool is mounted");
    // As many as anybody likes, each another instant: nothing is kept of them.
    let before = past.cluster.receiver.as_ref().unwrap().memory_max_kib();
    let (first, last) = (past.cluster.window().0, past.cluster.window().1);
    let mut inodes = BTreeSet::new();
    for step in 0..10_000 {
        let instant = crate::common::cluster::at(first + (last - first) * step / 10_000);
        inodes.insert(fs::metadata(mount.image(&instant)).unwrap().ino());
    }
    let after = past.cluster.receiver.as_ref().unwrap().memory_max_kib();
    assert!(after < before + 16 * 1024, "{before} KiB, then {after} KiB");
    assert!(inodes.len() >= 4, "{inodes:?}");
    // Open ones are views that are held, up to a bound.
    let open: Vec<_> = inodes.iter().take(4).collect();
    assert_eq!(past.exports().len(), 1, "{open:?}");
    mount.stop();
}

#[test]
fn a_mount_an_export_and_a_restore_of_one_instant_are_the_same() {
    if no_fuse() || crate::exports::no_clients() {
        return;
    }
    let past = Past::new();
    let mount = Mount::of(&past);
    for (index, (instant, content)) in past.instants.iter().enumerate() {
        let (export, uri) = past.export(index, "a.sock", &[]);
        let restored = past.cluster.path(&format!("{index}.img"));
        past.cluster.restore(instant, &restored, &[]).document();
        let image = mount.image(instant);
        let (image, restored) = (image.to_str().unwrap(), restored.to_str().unwrap());
        for (one, other) in [(uri.as_str(), image), (image, restored), (restored, uri.as_str())] {
            run(&["qemu-img", "compare", "-f", "raw", "-F", "raw", one, other]);
        }
        assert_equal(&fs::read(restored).unwrap(), content);
        export.stop();
    }
    // cp leaves the holes out.
    let copy = past.cluster.path("copy");
    run(&["cp", mount.image("latest").to_str().unwrap(), copy.to_str().unwrap()]);
    assert_equal(&fs::read(&copy).unwrap(), &past.instants[4].1);
    assert!(fs::metadata(&copy).unwrap().blocks() * 512 <= BYTES as u64 / 4 * 3 + 65536);
    mount.stop();
}

#[test]
fn many_read_at_once() {
    if no_fuse() || Command::new("fio").arg("--version").output().is_err() {
        return skip("no fio");
    }
    let mut past = Past::new();
    let tap = format!("--uri=nbd+unix:///?socket={}", past.cluster.path("tap.sock").display());
    let job = [
        "fio",
        "--name=x",
        "--bs=4k",
        "--iodepth=32",
        "--size=8m",
        "--randrepeat=1",
        "--verify_state_save=0",
        "--verify=crc32c",
    ];
    run(&[&job[..], &["--rw=randwrite", "--ioengine=nbd", &tap, "--do_verify=0"]].concat());
    past.cluster.mark("then");
    past.cluster.write(0, &random(7, BYTES));
    past.cluster.wait_durable();
    let mount = Mount::of(&past);
    let file = format!("--filename={}", mount.dir.join("marks/then.img").display().to_string().replace(':', "\\:"));
    run(&[&job[..], &["--rw=randread", "--ioengine=io_uring", "--readonly", &file]].concat());
    mount.stop();
}

#[test]
fn it_ends_with_whoever_asked_for_it() {
    if no_fuse() {
        return;
    }
    let mut past = Past::new();
    let gone = |past: &Past, dir: &Path| {
        let gone = || (past.exports().is_empty() && !is_mounted(dir)).then_some(());
        wait_for("unmounted", gone, || format!("{:?}, mounted: {}", past.exports(), is_mounted(dir)));
    };
    // Killed, with a file open: whoever has it gets errors.
    let mut mount = Mount::of(&past);
    let open = File::open(mount.image("latest")).unwrap();
    open.read_exact_at(&mut [0; 512], 0).unwrap();
    mount.take().kill();
    gone(&past, &mount.dir);
    assert!(open.read_exact_at(&mut [0; 512], 1 << 20).is_err());
    // Stopped, with a file open.
    let mount = Mount::of(&past);
    let open = File::open(mount.image("latest")).unwrap();
    mount.stop();
    assert!(open.read_exact_at(&mut [0; 512], 1 << 20).is_err());
    gone(&past, &past.cluster.path("past"));
    // Unmounted, which it is not while it is in use.
    let mut mount = Mount::of(&past);
    let open = File::open(mount.image("latest")).unwrap();
    let unmount = |more: &[&str]| past.cluster.ask(&[&["unmount", mount.dir.to_str().unwrap()], more].concat());
    unmount(&[]).refused(11, "is in use");
    open.read_exact_at(&mut [0; 512], 0).unwrap();
    drop(open);
    unmount(&[]).document();
    gone(&past, &mount.dir);
    let mut process = mount.take();
    assert_eq!((&process.event()["why"], process.wait()), (&"unmounted".into(), 0));
    // With the receiver, which is stopped, then killed, then both are.
    let mut mount = Mount::of(&past);
    past.cluster.stop_receiver();
    assert_eq!(mount.take().wait(), 16);
    assert!(!is_mounted(&mount.dir));
    past.cluster.start_receiver();
    let mut mount = Mount::of(&past);
    past.cluster.kill_receiver();
    assert_eq!(mount.take().wait(), 16);
    assert!(!is_mounted(&mount.dir), "nobody would ever answer there");
    past.cluster.start_receiver();
    let mut mount = Mount::of(&past);
    let process = mount.take();
    process.signal(rustix::process::Signal::STOP);
    past.cluster.kill_receiver();
    process.kill();
    assert!(is_mounted(&mount.dir), "both were killed");
    assert_eq!(fs::read_dir(&mount.dir).unwrap_err().raw_os_error(), Some(rustix::io::Errno::NOTCONN.raw_os_error()));
    past.cluster.start_receiver();
    past.cluster.ask(&["mount", "db", mount.dir.to_str().unwrap()]).refused(11, "nobody serves any more");
    past.cluster.ask(&["unmount", mount.dir.to_str().unwrap()]).document();
    assert!(!is_mounted(&mount.dir));
    Mount::of(&past).stop();
}

#[test]
fn files_are_copied_out_of_file_systems_of_the_past() {
    if missing(&["mkfs.xfs"]) {
        return;
    }
    for (kind, size, options) in [("ext4", 96 << 20, "ro,noload"), ("xfs", 320 << 20, "ro,norecovery,nouuid")] {
        let mut cluster = Cluster::new();
        File::create(&cluster.source).unwrap().set_len(size).unwrap();
        cluster.begin();
        cluster.settle();
        let uri = format!("nbd+unix:///?socket={}", cluster.path("tap.sock").display());
        let fuse = crate::common::tools::Fuse::mount(&uri, &cluster.path("fuse"), &cluster.path("fuse.pid"));
        let Some(device) = Loop::on(&fuse.file) else { return };
        let path = device.device.to_str().unwrap();
        match kind {
            "ext4" => run(&["mkfs.ext4", "-q", "-F", path]),
            _ => run(&["mkfs.xfs", "-q", "-f", path]),
        };
        let mounted = Mounted::of(kind, &device.device, cluster.path("mounted"));
        fs::create_dir(mounted.dir.join("papers")).unwrap();
        fs::write(mounted.dir.join("papers/thesis"), random(70, 3_000_000)).unwrap();
        // Without its journal the file system is as it was synced.
        run(&["sync", "-f", mounted.dir.to_str().unwrap()]);
        run(&["fsfreeze", "--freeze", mounted.dir.to_str().unwrap()]);
        let then = Micros::now().0;
        run(&["fsfreeze", "--unfreeze", mounted.dir.to_str().unwrap()]);
        fs::write(mounted.dir.join("papers/thesis"), "overwritten by mistake").unwrap();
        drop(mounted);
        drop((device, fuse));
        cluster.settle();
        let past = Past { cluster, instants: Vec::new() };
        let mount = Mount::of(&past);
        let image = mount.image(&crate::common::cluster::at(then));
        let (exit, device) = status(&["losetup", "--find", "--show", "--read-only", image.to_str().unwrap()]);
        assert_eq!(exit, 0, "{device}");
        let device = Loop { device: device.into() };
        let dir = past.cluster.path("then");
        fs::create_dir(&dir).unwrap();
        run(&["mount", "-t", kind, "-o", options, device.device.to_str().unwrap(), dir.to_str().unwrap()]);
        let files = Mounted { dir };
        assert_equal(&fs::read(files.dir.join("papers/thesis")).unwrap(), &random(70, 3_000_000));
        assert_eq!(past.exports()[0]["clients"], 1, "the loop device");
        drop(files);
        drop(device);
        mount.stop();
    }
}
