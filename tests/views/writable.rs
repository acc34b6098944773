//! Writable exports: a real file system and a real database on them, and what lies below stays as it was.

use std::fs;
use std::os::unix::fs::FileExt;

use oracle::Client;
use serde_json::Value;

use crate::common::cluster::{assert_equal, random};
use crate::common::tools::{Fuse, Loop, Mounted, missing, run};
use crate::past::{BYTES, Past};

#[test]
fn changes_are_the_exports_own_and_go_with_it() {
    let mut past = Past::new();
    let (first, _) = past.export(2, "a.sock", &["--writable"]);
    let (second, _) = past.export(2, "b.sock", &["--writable"]);
    let mut one = Client::connect(&past.address("a.sock"), "db").unwrap();
    let mut other = Client::connect(&past.address("b.sock"), "db").unwrap();
    let mut expect = past.instants[2].1.clone();
    let data = random(50, 300 * 512);
    one.write(512 * 7, &data, true).unwrap();
    expect[512 * 7..][..data.len()].copy_from_slice(&data);
    one.trim(1 << 20, 1 << 20).unwrap();
    expect[1 << 20..2 << 20].fill(0);
    one.write_zeroes((3 << 20) + 512, 70_144).unwrap();
    expect[(3 << 20) + 512..][..70_144].fill(0);
    one.flush().unwrap();
    let mut found = vec![0; BYTES];
    // On another connection too: a flush on one covers them all.
    Client::connect(&past.address("a.sock"), "db").unwrap().read(0, &mut found).unwrap();
    assert_equal(&found, &expect);
    other.read(0, &mut found).unwrap();
    assert_equal(&found, &past.instants[2].1);
    let held = past.exports();
    assert_eq!((&held[0]["writable"], &held[1]["scratch"]["bytes"]), (&true.into(), &0.into()), "{held:?}");
    assert!(held[0]["scratch"]["bytes"].as_u64().unwrap() >= data.len() as u64, "{held:?}");
    assert_eq!(past.cluster.image(&past.instants[2].0), past.instants[2].1);
    first.stop();
    second.stop();
    let (again, _) = past.export(2, "a.sock", &["--writable"]);
    Client::connect(&past.address("a.sock"), "db").unwrap().read(0, &mut found).unwrap();
    assert_equal(&found, &past.instants[2].1);
    again.stop();
    assert_eq!(fs::read_dir(past.cluster.store.join("scratch")).unwrap().count(), 0);
    past.cluster.settle();
    past.cluster.assert_same();
}

#[test]
fn a_full_scratch_is_no_space_for_its_client_and_nothing_else() {
    let mut past = Past::new();
    let (export, _) = past.export(1, "a.sock", &["--writable", "--scratch-size", "1MiB"]);
    let mut client = Client::connect(&past.address("a.sock"), "db").unwrap();
    client.write(0, &[1; 1 << 20], false).unwrap();
    let error = client.write(2 << 20, &[2; 4096], false).unwrap_err();
    assert!(format!("{error:?}").contains("28"), "not ENOSPC: {error:?}");
    client.write(4096, &[3; 4096], false).unwrap();
    client.trim(0, 4096).unwrap();
    client.write(2 << 20, &[2; 4096], true).unwrap();
    let mut found = vec![0; 4096];
    client.read(2 << 20, &mut found).unwrap();
    assert_eq!(found, [2; 4096]);
    past.cluster.write(0, &random(4, 4096));
    past.cluster.settle();
    past.cluster.assert_same();
    export.stop();
}

#[test]
fn a_file_system_of_the_past_is_mended_and_written_to() {
    if missing(&[]) {
        return;
    }
    let mut past = Past::new();
    let uri = format!("nbd+unix:///?socket={}", past.cluster.path("tap.sock").display());
    let fuse = Fuse::mount(&uri, &past.cluster.path("fuse"), &past.cluster.path("fuse.pid"));
    let Some(device) = Loop::on(&fuse.file) else { return };
    let mounted = Mounted::ext4(&device.device, past.cluster.path("mounted"));
    fs::write(mounted.dir.join("kept"), random(60, 100_000)).unwrap();
    run(&["sync", "-f", mounted.dir.to_str().unwrap()]);
    // It is mounted, and its journal in use, at this instant.
    past.cluster.mark("then");
    fs::write(mounted.dir.join("later"), "not yet there").unwrap();
    fs::remove_file(mounted.dir.join("kept")).unwrap();
    drop(mounted);
    drop((device, fuse));
    past.cluster.settle();
    past.instants.push(("mark:then".to_owned(), Vec::new()));
    let before = past.cluster.image("mark:then");
    let (export, uri) = past.export(past.instants.len() - 1, "a.sock", &["--writable"]);
    let fuse = Fuse::mount(&uri, &past.cluster.path("fuse2"), &past.cluster.path("fuse2.pid"));
    let device = Loop::on(&fuse.file).unwrap();
    let then = Mounted::of("ext4", &device.device, past.cluster.path("then"));
    assert_equal(&fs::read(then.dir.join("kept")).unwrap(), &random(60, 100_000));
    assert!(!then.dir.join("later").exists());
    fs::write(then.dir.join("mine"), random(61, 1_000_000)).unwrap();
    drop(then);
    run(&["e2fsck", "-fn", device.device.to_str().unwrap()]);
    let then = Mounted::of("ext4", &device.device, past.cluster.path("then"));
    assert_equal(&fs::read(then.dir.join("mine")).unwrap(), &random(61, 1_000_000));
    drop(then);
    drop((device, fuse));
    export.stop();
    assert!(past.cluster.image("mark:then") == before, "what lies below has changed");
    past.cluster.assert_runs();
}

#[test]
fn a_killed_receiver_leaves_no_scratch() {
    let mut past = Past::new();
    let (mut export, _) = past.export(1, "a.sock", &["--writable"]);
    let mut client = Client::connect(&past.address("a.sock"), "db").unwrap();
    client.write(0, &[1; 1 << 20], true).unwrap();
    past.cluster.kill_receiver();
    assert_eq!(export.wait(), 16);
    let scratch = past.cluster.store.join("scratch");
    fs::File::create(scratch.join("1.1")).unwrap().write_all_at(b"left by one killed a moment earlier", 0).unwrap();
    past.cluster.start_receiver();
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
    assert_eq!(past.exports(), [Value::Null; 0]);
}
