//! Drills: real commands on real file systems as of then, and nothing left of them however they end.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use std::fs;
use std::path::Path;

use common::cluster::{Cluster, random};
use common::process::{Call, Process};
use common::tools::{Fuse, Loop, Mounted, missing, run, status};
use common::{skip, wait_for};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

const SIZE: usize = 32 << 20;

/// Whether nothing can be mounted here.
fn cannot_mount() -> bool {
    let missing = !Path::new("/dev/fuse").exists();
    if missing {
        skip("no FUSE");
    }
    missing
}

#[track_caller]
fn drill(cluster: &Cluster, command: &str, more: &[&str]) -> Call {
    cluster.ask(&[&["drill", "db", "--at", "latest", "--run", command], more].concat())
}

/// Its document and what the command said.
#[track_caller]
fn passed(cluster: &Cluster, command: &str) -> (Value, String) {
    let call = drill(cluster, command, &[]);
    assert_eq!(call.exit, 0, "{call:?}");
    let document = call.document();
    assert_eq!((&document["ok"], &document["command_status"]), (&true.into(), &0.into()));
    for part in ["open_seconds", "command_seconds"] {
        assert!(document["rto"][part].as_f64().unwrap() > 0.0, "{document}");
    }
    (document, call.stderr)
}

/// One that failed: its document is there all the same.
#[track_caller]
fn failed(cluster: &Cluster, command: &str, more: &[&str]) -> Value {
    let call = drill(cluster, command, more);
    assert_eq!(call.exit, 14, "{call:?}");
    let document: Value = serde_json::from_str(&call.stdout).unwrap();
    assert_eq!(document["ok"], false);
    document
}

/// What the receiver remembers.
fn last(cluster: &Cluster) -> Value {
    cluster.look().unwrap()["last_drill"].clone()
}

/// Waits until nothing of any drill is left.
#[track_caller]
fn assert_nothing_left(cluster: &Cluster) {
    let count = |name: &str| fs::read_dir(cluster.store.join(name)).map_or(0, Iterator::count);
    let store = cluster.store.canonicalize().unwrap();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let is_clean = || {
        let exports = cluster.look()?["exports"].as_array()?.len();
        let left = exports + count("drill") + count("scratch");
        (left == 0 && !mounts().contains(store.to_str()?)).then_some(())
    };
    wait_for("clean", is_clean, || format!("{} {}", cluster.words(), mounts()));
}

/// Starts a drill whose command runs until it is ended, and returns the command's process.
fn start(cluster: &Cluster) -> (Process, Pid) {
    let file = cluster.path("pid");
    _ = fs::remove_file(&file);
    let command = format!("echo $$ > {0}.new && mv {0}.new {0} && exec sleep 1000", file.display());
    let call = cluster.serve(&["drill", "db", "--at", "latest", "--run", &command]);
    let pid = || fs::read_to_string(&file).ok()?.trim().parse().ok().and_then(Pid::from_raw);
    let pid = wait_for("begun", pid, || cluster.words());
    (call, pid)
}

#[track_caller]
fn assert_gone(pid: Pid) {
    wait_for("gone", || test_kill_process(pid).is_err().then_some(()), || format!("{pid:?} runs"));
}

#[test]
fn a_command_passes_or_fails_and_nothing_is_left() {
    if cannot_mount() {
        return;
    }
    let cluster = Cluster::live(&random(1, SIZE));
    cluster.write(4096, &[7; 4096]);
    cluster.mark("here");
    let (document, said) = passed(&cluster, r#"test "$(wc -c < "$BACKSPOOL_IMAGE")" = 33554432 && echo seen"#);
    assert_eq!(said, "seen\n");
    assert_eq!(document["point"]["mark"], "here");
    assert_eq!(last(&cluster)["time"], document["time"], "it is remembered");
    // The file can be written, and who reads the same view over NBD sees that.
    passed(
        &cluster,
        r#"printf AAAA | dd of="$BACKSPOOL_IMAGE" bs=4 seek=1024 conv=notrunc,fsync status=none
        test "$(dd if="$BACKSPOOL_IMAGE" bs=4 skip=1024 count=1 status=none)" = AAAA"#,
    );
    passed(&cluster, r#"nbdinfo --size "$BACKSPOOL_NBD" | grep -x 33554432"#);
    let out = cluster.path("after.img");
    cluster.ask(&["restore", "db", "--at", "latest", "--to", out.to_str().unwrap()]).document();
    assert_eq!(fs::read(&out).unwrap()[4096..8192], [7; 4096], "what it changed is gone");

    assert_eq!(failed(&cluster, "exit 3", &[])["command_status"], 3);
    assert_eq!((&last(&cluster)["ok"], &last(&cluster)["command_status"]), (&false.into(), &3.into()));
    assert_eq!(failed(&cluster, "kill -9 $$", &[])["command_status"], 137);
    let late = failed(&cluster, "sleep 1000", &["--timeout", "300ms"]);
    assert_eq!((&late["command_status"], &late["why"]), (&143.into(), &"it took longer than --timeout".into()));
    // Neither what the command leaves running outlives it, nor what does not care about being asked to end.
    let left = |command: &str, more: &[&str], exit: i32| {
        let file = cluster.path("left");
        let call = drill(&cluster, &command.replace("PID", file.to_str().unwrap()), more);
        assert_eq!(call.exit, exit, "{call:?}");
        let pid = fs::read_to_string(&file).unwrap().trim().parse().ok().and_then(Pid::from_raw).unwrap();
        assert_gone(pid);
    };
    left("sleep 1000 & echo $! > PID; exit 0", &[], 0);
    left("sh -c 'trap \"\" TERM; echo $$ > PID; sleep 1000; sleep 1000' & wait", &["--timeout", "1s"], 14);
    let full = failed(
        &cluster,
        r#"dd if=/dev/zero of="$BACKSPOOL_IMAGE" bs=1M conv=notrunc,fsync seek=1 count=8"#,
        &["--scratch-size", "1MiB"],
    );
    assert!(full["command_status"].as_i64() > Some(0), "{full}");
    cluster.ask(&["drill", "other", "--at", "latest", "--run", "true"]).refused(10, "no group other");
    cluster.ask(&["drill", "db", "--at", "2020-01-01 00:00", "--run", "true"]).refused(13, "no recovery point");
    assert_nothing_left(&cluster);
    assert_eq!(cluster.look().unwrap()["state"], "live");
}

#[test]
fn whoever_is_killed_leaves_nothing() {
    if cannot_mount() {
        return;
    }
    let mut cluster = Cluster::live(&random(2, SIZE));
    let (call, pid) = start(&cluster);
    assert_eq!(cluster.look().unwrap()["exports"].as_array().unwrap().len(), 1, "it is seen");
    cluster.write(0, &[1; 4096]);
    cluster.mark("meanwhile");
    call.kill();
    assert_nothing_left(&cluster);
    let why = last(&cluster)["why"].as_str().unwrap().to_owned();
    assert_eq!(why, "who ran the command is gone");
    // Nobody is left who could end it.
    kill_process(pid, Signal::KILL).unwrap();

    let (mut call, pid) = start(&cluster);
    assert_eq!(call.terminate(), 143);
    assert_gone(pid);
    assert_nothing_left(&cluster);
    assert_eq!(
        (&last(&cluster)["command_status"], &last(&cluster)["why"]),
        (&143.into(), &"it was interrupted by signal 15".into())
    );

    let (mut call, pid) = start(&cluster);
    cluster.kill_receiver();
    assert_gone(pid);
    wait_for("ended", || call.has_ended().then_some(()), || cluster.words());
    cluster.start_receiver();
    cluster.wait_state("live");
    assert_nothing_left(&cluster);
    assert_eq!(last(&cluster)["command_status"], 143, "the one before is the last that is known");

    let (mut call, pid) = start(&cluster);
    cluster.stop_receiver();
    assert_gone(pid);
    wait_for("ended", || call.has_ended().then_some(()), || cluster.words());
    cluster.start_receiver();
    cluster.wait_state("live");
    assert_nothing_left(&cluster);
    assert_eq!(last(&cluster)["why"], "the receiver stops");
}

#[test]
fn a_file_system_and_a_database_in_it_are_checked() {
    if missing(&["python3"]) {
        return;
    }
    let mut cluster = Cluster::live(&vec![0; SIZE]);
    let uri = format!("nbd+unix:///?socket={}", cluster.path("tap.sock").display());
    let fuse = Fuse::mount(&uri, &cluster.path("fuse"), &cluster.path("fuse.pid"));
    let Some(device) = Loop::on(&fuse.file) else { return };
    let disk = Mounted::ext4(&device.device, cluster.path("disk"));
    let database = disk.dir.join("db.sqlite");
    let script = "import sqlite3, sys\nd = sqlite3.connect(sys.argv[1])\nd.execute('pragma journal_mode=wal')\n\
                  d.execute('create table if not exists t (n integer)')\n\
                  for n in range(500):\n    d.execute('insert into t values (?)', (n,))\n    d.commit()";
    if status(&["python3", "-c", "import sqlite3"]).0 != 0 {
        return skip("no sqlite3 module");
    }
    run(&["python3", "-c", script, database.to_str().unwrap()]);
    run(&["sync", "-f", disk.dir.to_str().unwrap()]);
    cluster.settle();
    // It is in use: a crash state, which the file system and the database recover in the scratch.
    let dir = cluster.path("drilled");
    let check = format!(
        "e2fsck -fy \"$BACKSPOOL_IMAGE\"; [ $? -le 1 ] && mkdir -p {0} && mount -o loop \"$BACKSPOOL_IMAGE\" {0} && \
         python3 -c \"import sqlite3; d = sqlite3.connect('{0}/db.sqlite'); \
         print(d.execute('pragma integrity_check').fetchone()[0], d.execute('select count(*) from t').fetchone()[0])\"; \
         status=$?; umount {0}; exit $status",
        dir.display()
    );
    let (_, said) = passed(&cluster, &check);
    assert!(said.contains("ok 500"), "{said}");
    drop(disk);
    cluster.settle();
    // At rest it is sound without being recovered.
    let (_, said) = passed(&cluster, r#"e2fsck -fn "$BACKSPOOL_IMAGE""#);
    assert!(said.contains("Pass 5"), "{said}");
    assert_nothing_left(&cluster);
}
