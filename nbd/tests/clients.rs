//! Real clients. One that is not installed is skipped aloud; with `BACKSPOOL_NO_SKIP=1` that is a failure.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Memory, Random, Served};
use nbd::{Capabilities, RemoteClients, Server};
use rustix::process::{Pid, Signal, kill_process};

const SIZE: usize = 24 << 20;

fn serve() -> (Served, Arc<Memory>) {
    let memory = Arc::new(Memory::new(SIZE));
    (Served::new(vec![("disk", memory.clone())]), memory)
}

/// An image with data and holes.
fn image() -> Vec<u8> {
    let mut image = vec![0; SIZE];
    let mut random = Random(7);
    for _ in 0..40 {
        let start = random.below(SIZE / 4096 - 64) * 4096;
        let length = (1 + random.below(64)) * 4096;
        image[start..start + length].copy_from_slice(&random.bytes(length));
    }
    image
}

fn missing(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(program).exists()));
    if !found {
        skip(&format!("{program} is not installed"));
    }
    !found
}

fn skip(why: &str) {
    assert!(std::env::var_os("BACKSPOOL_NO_SKIP").is_none_or(|value| value != "1"), "not skipped: {why}");
    println!("skipped: {why}");
}

/// Runs a client: what it printed.
#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
    printed
}

#[test]
fn nbdinfo() {
    if missing("nbdinfo") {
        return;
    }
    let memory = Arc::new(Memory::new(SIZE));
    memory.fill(&image());
    let mut other = Memory::new(512);
    other.capabilities = Capabilities::READ_ONLY;
    let served = Served::new(vec![("disk", memory), ("other", Arc::new(other))]);
    let info = run("nbdinfo", &[&served.uri("disk")]);
    for line in [
        "protocol: newstyle-fixed without TLS",
        "export-size: 25165824 (24M)",
        "base:allocation",
        "is_read_only: false",
        "can_flush: true",
        "can_fua: true",
        "can_trim: true",
        "can_zero: true",
        "can_fast_zero: false",
        "can_df: true",
        "can_multi_conn: true",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(info.contains(line), "no `{line}` in {info}");
    }
    assert!(run("nbdinfo", &[&served.uri("other")]).contains("is_read_only: true"));
    let list = run("nbdinfo", &["--list", &served.uri("")]);
    assert!(list.contains("export=\"disk\"") && list.contains("export=\"other\""), "{list}");
    let map = run("nbdinfo", &["--map", &served.uri("disk")]);
    assert!(map.contains("hole,zero") && map.contains("data"), "{map}");
    let refused = Command::new("nbdinfo").arg(served.uri("nobody")).output().unwrap();
    assert!(!refused.status.success());
}

#[test]
fn nbdcopy_both_ways() {
    if missing("nbdcopy") {
        return;
    }
    let (served, memory) = serve();
    let image = image();
    let (from, to) = (served.directory.path().join("from"), served.directory.path().join("to"));
    fs::write(&from, &image).unwrap();
    run("nbdcopy", &["--flush", "--connections=4", from.to_str().unwrap(), &served.uri("disk")]);
    assert!(memory.bytes() == image);
    assert!(memory.flushes.load(Ordering::Relaxed) > 0);
    run("nbdcopy", &["--request-size=33554432", &served.uri("disk"), to.to_str().unwrap()]);
    assert!(fs::read(&to).unwrap() == image);
}

#[test]
fn nbdcopy_over_tcp() {
    if missing("nbdcopy") {
        return;
    }
    let memory = Arc::new(Memory::new(SIZE));
    memory.fill(&image());
    let exports: Vec<(String, Arc<dyn nbd::Export>)> = vec![("disk".to_owned(), memory)];
    let address = "127.0.0.1:0".parse().unwrap();
    let running = Server::bind(&address, exports, RemoteClients::Refused).unwrap().start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let to = directory.path().join("to");
    run("nbdcopy", &[&format!("nbd://{}/disk", running.address()), to.to_str().unwrap()]);
    assert!(fs::read(&to).unwrap() == image());
}

#[test]
fn qemu_img() {
    if missing("qemu-img") {
        return;
    }
    let (served, memory) = serve();
    let image = image();
    let (from, to) = (served.directory.path().join("from"), served.directory.path().join("to"));
    fs::write(&from, &image).unwrap();
    let (from, to, uri) = (from.to_str().unwrap(), to.to_str().unwrap(), served.uri("disk"));
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", from, &uri]);
    assert!(memory.bytes() == image);
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", from, &uri]);
    run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, to]);
    assert!(fs::read(to).unwrap() == image);
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]);
    assert!(map.contains("\"zero\": true") && map.contains("\"zero\": false"), "{map}");
    let mut changed = image;
    changed[SIZE / 2] ^= 1;
    memory.fill(&changed);
    assert!(!Command::new("qemu-img").args(["compare", from, &uri]).output().unwrap().status.success());
}

#[test]
fn qemu_io() {
    if missing("qemu-io") {
        return;
    }
    let (served, memory) = serve();
    let commands = [
        "write -P 1 0 64k",
        "write -f -P 2 64k 64k",
        "write -P 3 512 512",
        "write -z 128k 64k",
        "write -z -u 8k 4k",
        "discard 16k 16k",
        "flush",
        "read -P 1 4k 4k",
        "read -P 2 64k 64k",
        "read -P 3 512 512",
        "read -P 0 128k 64k",
        "read -P 0 8k 4k",
        "aio_write -P 4 1M 1M",
        "aio_write -P 5 2M 1M",
        "aio_flush",
        "read -P 4 1M 1M",
        "read -P 5 2M 1M",
    ];
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    let uri = served.uri("disk");
    arguments.push(&uri);
    let printed = run("qemu-io", &arguments);
    assert!(!printed.contains("failed"), "{printed}");
    assert_eq!(memory.bytes()[512..1024], [3; 512]);
    assert!(memory.bytes()[2 << 20..3 << 20] == [5; 1 << 20]);
}

#[test]
fn fio_verifies_what_it_wrote() {
    if missing("fio") {
        return;
    }
    let (served, _) = serve();
    if !run("fio", &["--enghelp"]).contains("nbd") {
        return skip("fio has no nbd engine");
    }
    let uri = format!("--uri={}", served.uri("disk"));
    let name = "--name=verify";
    let job =
        [name, "--ioengine=nbd", &uri, "--rw=randwrite", "--size=24M", "--bssplit=512/20:4k/60:64k/20", "--iodepth=32"];
    let check = ["--verify=crc32c", "--verify_fatal=1", "--fsync=64", "--randseed=1", "--output-format=terse"];
    let current = Command::new("fio").args(job).args(check).current_dir(served.directory.path()).output().unwrap();
    assert!(current.status.success(), "{}", String::from_utf8_lossy(&current.stderr));
}

#[test]
fn nbdfuse() {
    if missing("nbdfuse") {
        return;
    }
    if File::open("/dev/fuse").is_err() {
        return skip("no /dev/fuse");
    }
    let (served, memory) = serve();
    let image = image();
    memory.fill(&image);
    let mountpoint = served.directory.path().join("mnt");
    fs::create_dir(&mountpoint).unwrap();
    let (pid, file) = (served.directory.path().join("pid"), mountpoint.join("nbd"));
    let child = Command::new("nbdfuse").arg("-P").arg(&pid).arg(&mountpoint).arg(served.uri("disk")).spawn().unwrap();
    let mut fuse = Fuse(child);
    while !pid.exists() {
        assert!(fuse.0.try_wait().unwrap().is_none(), "nbdfuse ended");
        std::thread::yield_now();
    }
    let mut read = Vec::new();
    File::open(&file).unwrap().read_to_end(&mut read).unwrap();
    assert!(read == image);
    let mut file = File::options().write(true).open(&file).unwrap();
    // Memory that was touched: FUSE splits a write where its page must be faulted in first, and nbdfuse then refuses the
    // unaligned pieces. (A loop device on top always writes whole sectors.)
    let (page, sector) = (vec![9; 4096], vec![8; 512]);
    file.write_all(&page).unwrap();
    file.write_all_at(&sector, 1 << 20).unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(memory.bytes()[..4096], [9; 4096]);
    assert_eq!(memory.bytes()[1 << 20..(1 << 20) + 512], [8; 512]);
    drop(fuse);
    assert!(!mountpoint.join("nbd").exists(), "unmounted");
}

/// Unmounts when dropped, also when a test fails: a mount left behind keeps its process for ever.
struct Fuse(Child);

impl Drop for Fuse {
    fn drop(&mut self) {
        // It fails only on a process that has ended.
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}
