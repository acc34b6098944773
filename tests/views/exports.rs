//! Exports over NBD: what clients get, who ends them, what is refused.

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use oracle::{Client, Micros};
use rustix::process::Signal;
use serde_json::Value;

use crate::common::cluster::{assert_equal, at, random};
use crate::common::tools::{run, status};
use crate::common::{skip, wait_for};
use crate::past::{BYTES, Past};

/// Whether NBD clients are missing, which is then said.
pub(crate) fn no_clients() -> bool {
    let tools = ["nbdinfo", "nbdcopy", "qemu-img", "qemu-io"];
    let missing = tools.into_iter().find(|tool| Command::new(tool).arg("--version").output().is_err());
    missing.inspect(|tool| skip(&format!("no {tool}"))).is_some()
}

#[test]
fn every_client_reads_what_was_then_while_it_goes_on() {
    if no_clients() {
        return;
    }
    let mut past = Past::new();
    // All instants at once, and replication goes on meanwhile.
    let exports: Vec<_> =
        (0..past.instants.len()).map(|instant| past.export(instant, &format!("{instant}.sock"), &[])).collect();
    assert_eq!(past.exports().len(), exports.len());
    past.cluster.write(0, &random(9, 1 << 20));
    past.cluster.ask(&["rollback", "db", "--at", &past.instants[1].0, "--yes"]).document();
    for (instant, (_, uri)) in exports.iter().enumerate() {
        let copy = past.cluster.path(&format!("{instant}.copy"));
        run(&["nbdcopy", uri, copy.to_str().unwrap()]);
        assert_equal(&fs::read(&copy).unwrap(), &past.instants[instant].1);
        let restored = past.cluster.path(&format!("{instant}.img"));
        past.cluster.restore(&past.instants[instant].0, &restored, &[]).document();
        run(&["qemu-img", "compare", "-f", "raw", "-F", "raw", uri, restored.to_str().unwrap()]);
    }
    let info: Value = serde_json::from_str(&run(&["nbdinfo", "--json", &exports[1].1])).unwrap();
    let info = &info["exports"][0];
    assert_eq!((&info["export-size"], &info["is_read_only"]), (&BYTES.into(), &true.into()));
    assert_eq!((&info["can_multi_conn"], &info["can_fua"]), (&true.into(), &false.into()));
    let map: Value = serde_json::from_str(&run(&["nbdinfo", "--map", "--json", &exports[1].1])).unwrap();
    let holes = map.as_array().unwrap().iter().filter(|extent| extent["type"] == 3);
    assert_eq!(holes.map(|extent| extent["length"].as_u64().unwrap()).sum::<u64>(), BYTES as u64 / 4);
    let (exit, said) = status(&["qemu-io", "-f", "raw", "-c", "write 0 4k", &exports[0].1]);
    assert!(exit != 0, "written to: {said}");
    let held = &past.exports()[0];
    assert_eq!((&held["kind"], &held["writable"], &held["scratch"]), (&"nbd".into(), &false.into(), &Value::Null));
    assert!(held["held_seconds"].as_f64().unwrap() > 0.0 && held["point"]["seq"].is_u64());
    for (export, _) in exports {
        export.stop();
    }
    assert_eq!(past.exports(), [Value::Null; 0]);
    past.cluster.assert_runs();
}

#[test]
fn it_ends_with_whoever_asked_for_it() {
    let mut past = Past::new();
    let gone = |past: &Past, name: &str| {
        let path = past.cluster.path(name);
        wait_for(
            "ended",
            || (past.exports().is_empty() && !path.exists()).then_some(()),
            || format!("{:?}, its socket: {}", past.exports(), path.exists()),
        );
    };
    // Killed, with a client attached.
    let (export, _) = past.export(0, "a.sock", &[]);
    let mut client = Client::connect(&past.address("a.sock"), "db").unwrap();
    client.read(0, &mut [0; 512]).unwrap();
    assert_eq!(past.exports()[0]["clients"], 1);
    export.kill();
    gone(&past, "a.sock");
    assert!(client.read(0, &mut [0; 512]).is_err());
    // Stopped, with a client that never reads what it asked for.
    let (export, _) = past.export(0, "a.sock", &[]);
    let mut mute = UnixStream::connect(past.cluster.path("a.sock")).unwrap();
    mute.read_exact(&mut [0; 18]).unwrap();
    export.stop();
    gone(&past, "a.sock");
    // From elsewhere.
    let (mut export, _) = past.export(0, "a.sock", &[]);
    let address = past.address("a.sock");
    past.cluster.ask(&["export", "db", "--nbd", &address, "--release"]).document();
    gone(&past, "a.sock");
    assert_eq!(export.event()["event"], "stopped");
    assert_eq!(export.wait(), 0);
    past.cluster.ask(&["export", "db", "--nbd", &address, "--release"]).refused(10, "nothing of db is served at");
    // With the receiver, which is stopped, then killed.
    let (mut export, _) = past.export(0, "a.sock", &[]);
    let _client = Client::connect(&address, "db").unwrap();
    past.cluster.stop_receiver();
    assert_eq!(export.wait(), 16, "{}", export.last_words());
    assert!(!past.cluster.path("a.sock").exists());
    past.cluster.start_receiver();
    let (mut export, _) = past.export(0, "a.sock", &[]);
    past.cluster.kill_receiver();
    assert_eq!(export.wait(), 16, "{}", export.last_words());
    assert!(past.cluster.path("a.sock").exists(), "nobody was left to remove it");
    past.cluster.start_receiver();
    let (export, _) = past.export(1, "a.sock", &[]);
    let mut found = vec![0; BYTES];
    Client::connect(&address, "db").unwrap().read(0, &mut found).unwrap();
    assert_equal(&found, &past.instants[1].1);
    export.stop();
}

#[test]
fn what_cannot_be_served_is_refused() {
    let mut past = Past::new();
    past.cluster.kill_agent();
    let gap = at(Micros::now().0);
    past.cluster.start_agent();
    past.cluster.settle();
    let free = past.address("free.sock");
    let export = |args: &[&str]| past.cluster.ask(&[&["export"], args].concat());
    let within = export(&["db", "--at", &gap, "--nbd", &free]);
    within.refused(13, "no recovery point");
    let error: Value = serde_json::from_str(within.stderr.lines().last().unwrap()).unwrap();
    assert!(error["covered"]["before"]["seq"].is_u64() && error["covered"]["after"]["seq"].is_u64(), "{error}");
    let early = export(&["db", "--at", "@1", "--nbd", &free]);
    early.refused(13, "no recovery point at 1970-01-01T00:00:01.000000Z for db");
    let error: Value = serde_json::from_str(early.stderr.lines().last().unwrap()).unwrap();
    assert!(error["covered"]["after"]["seq"].is_u64() && error["covered"]["before"].is_null(), "{error}");
    export(&["db", "--at", "@99999999999", "--nbd", &free]).refused(13, "no recovery point");
    export(&["db", "--at", "mark:none", "--nbd", &free]).refused(13, "marked none");
    export(&["db", "--at", "yesterday-ish", "--nbd", &free]).refused(2, "cannot read");
    export(&["none", "--at", "latest", "--nbd", &free]).refused(10, "no group none");
    export(&["db/none", "--at", "latest", "--nbd", &free]).refused(10, "has no volume none");
    export(&["db", "--at", "latest", "--nbd", "0.0.0.0:0"]).refused(2, "can be reached from other machines");
    export(&["db", "--at", "latest", "--nbd", "nowhere"]).refused(2, "is not an NBD address");
    export(&["db", "--nbd", &free]).refused(2, "--at");
    let nowhere = past.address("no/such/dir.sock");
    assert_ne!(export(&["db", "--at", "latest", "--nbd", &nowhere]).failure().0, 0);
    let (_export, _) = past.export(0, "taken.sock", &[]);
    let taken = past.address("taken.sock");
    export(&["db", "--at", "latest", "--nbd", &taken]).refused(11, "in use");
    fs::write(past.cluster.path("file"), "mine").unwrap();
    let file = past.address("file");
    export(&["db", "--at", "latest", "--nbd", &file]).refused(15, "not a socket");
    assert_eq!(past.exports().len(), 1);
    assert!(!past.cluster.path("free.sock").exists());
    // The earliest there is instead.
    let mut nearest = past.cluster.serve(&["export", "db", "--at", "@1", "--nearest", "--nbd", "127.0.0.1:0"]);
    let ready = nearest.event();
    assert!(ready["uri"].as_str().unwrap().starts_with("nbd://127.0.0.1:"), "{ready}");
    nearest.stop();
}

#[test]
fn damage_is_an_error_for_whoever_reads_it_and_nobody_else() {
    let mut past = Past::new();
    // Where the last write's data lies: it cannot be compressed.
    let (offset, data) = (3 * 1_000_003 / 512 * 512_u64, random(103, 70 * 512));
    let segments = fs::read_dir(past.cluster.store.join("groups")).unwrap().flat_map(|group| {
        fs::read_dir(group.unwrap().path()).unwrap().map(|file| file.unwrap().path()).filter(|path| path.is_file())
    });
    let found: Vec<_> = segments
        .filter_map(|path| {
            let content = fs::read(&path).unwrap();
            let place = content.windows(64).position(|window| window == &data[4096..4160])?;
            Some((path, place as u64))
        })
        .collect();
    let [(path, place)] = &found[..] else { panic!("the data is in {found:?}") };
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[data[4096] ^ 1], *place).unwrap();
    let (export, _) = past.export(4, "a.sock", &[]);
    let mut client = Client::connect(&past.address("a.sock"), "db").unwrap();
    let mut block = vec![0; 4096];
    for _ in 0..20 {
        assert!(client.read(offset + 4096, &mut block).is_err(), "damaged data was served");
    }
    client.read(offset, &mut block).unwrap();
    assert_equal(&block, &data[..4096]);
    let (before, _) = past.export(3, "b.sock", &[]);
    let mut client = Client::connect(&past.address("b.sock"), "db").unwrap();
    let mut whole = vec![0; BYTES];
    client.read(0, &mut whole).unwrap();
    assert_equal(&whole, &past.instants[3].1);
    let log = fs::read_to_string(past.cluster.path("receiver.log")).unwrap();
    let told = log.lines().filter(|line| line.contains("a read of a view failed")).count();
    assert_eq!(told, 5, "at 1, 2, 4, 8 and 16 of them: {log}");
    past.cluster.assert_runs();
    export.stop();
    before.stop();
}

#[test]
fn many_requests_at_once_are_answered_right() {
    if no_clients() || Command::new("fio").arg("--version").output().is_err() {
        return skip("no fio");
    }
    let mut past = Past::new();
    let fio = |uri: &str, more: &[&str]| {
        let uri = format!("--uri={uri}");
        let job = ["fio", "--name=x", "--ioengine=nbd", &uri, "--rw=randwrite", "--bs=4k", "--iodepth=32", "--size=8m"];
        run(&[&job[..], &["--verify=crc32c", "--randrepeat=1", "--verify_state_save=0"], more].concat());
    };
    let tap = format!("nbd+unix:///?socket={}", past.cluster.path("tap.sock").display());
    fio(&tap, &["--do_verify=0"]);
    past.cluster.settle();
    past.instants.push(("latest".to_owned(), Vec::new()));
    let last = past.instants.len() - 1;
    let (export, uri) = past.export(last, "a.sock", &[]);
    past.cluster.write(0, &random(7, BYTES));
    fio(&uri, &["--verify_only"]);
    // A client that is killed in the middle costs nobody anything.
    let mut reader = Command::new("nbdcopy").args([&uri, "null:"]).stderr(Stdio::null()).spawn().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&reader), Signal::KILL).unwrap();
    reader.wait().unwrap();
    fio(&uri, &["--verify_only"]);
    export.stop();
}
