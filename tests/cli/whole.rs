//! The verbs with each other: a real receiver, a real agent, from the first invitation to a clean stop.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::call::{Call, backspool, command};

/// A machine with a receiver and an agent on it.
struct Machine {
    dir: TempDir,
}

/// A verb in the foreground. Dropped, it is killed.
struct Foreground {
    child: Child,
    events: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let config = format!(
            "[agent]\nstate = '{}'\n[[group]]\nname = 'db'\n[[group.volume]]\nname = 'data'\npath = '{}'\n\
             tracker = 'tap'\n[receiver]\nlisten = '127.0.0.1:0'\nstore = '{}'\n",
            path("state"),
            path("data.img"),
            path("store"),
        );
        std::fs::write(path("b.toml"), config).unwrap();
        let content: Vec<u8> = (0..1 << 20).map(|i: u32| i.to_le_bytes()[1]).collect();
        std::fs::write(path("data.img"), content).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn args<'a>(&self, args: &[&'a str]) -> Vec<std::ffi::OsString> {
        let config = [OsStr::new("--config").to_owned(), self.path("b.toml").into_os_string()];
        config.into_iter().chain(args.iter().map(|arg: &&'a str| arg.into())).collect()
    }

    fn call(&self, args: &[&str]) -> Call {
        backspool(self.args(args))
    }

    #[track_caller]
    fn good(&self, args: &[&str]) -> Value {
        let call = self.call(&[args, &["--json"]].concat());
        assert_eq!((call.exit, call.stderr.as_str()), (0, ""), "{args:?}");
        call.document()
    }

    /// Starts a verb and returns it with its first event.
    fn start(&self, verb: &str) -> (Foreground, Value) {
        let mut child = command().args(self.args(&[verb, "--json"])).stdout(Stdio::piped()).spawn().unwrap();
        let events = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut verb = Foreground { child, events };
        let event = verb.event();
        (verb, event)
    }

    fn invitation(&self, receiver: &Value) -> String {
        let address = receiver["listen"].as_str().unwrap();
        let document = self.good(&["invite", "web-1", "--address", address]);
        document["invitation"].as_str().unwrap().to_owned()
    }

    /// Waits until the first copy is whole. Before the agent's session is up the receiver knows no group.
    fn live(&self) -> Value {
        loop {
            let status = self.good(&["status"]);
            match status["groups"].as_array().unwrap().first() {
                Some(group) if group["state"] == "live" => return group.clone(),
                _ => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        }
    }
}

impl Foreground {
    fn event(&mut self) -> Value {
        serde_json::from_str(&self.events.next().unwrap().unwrap()).unwrap()
    }

    /// A clean stop, which ends with 0.
    fn stop(mut self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Writes through the tap, as any client would.
fn write(tap: &Path, offset: u64, data: &[u8]) {
    let mut client = oracle::Client::connect(&format!("unix:{}", tap.display()), "").unwrap();
    client.write(offset, data, true).unwrap();
}

#[test]
fn from_an_invitation_to_a_rollback() {
    let machine = Machine::new();
    let (receiver, ready) = machine.start("serve");
    assert_eq!((ready["event"].as_str(), &ready["http"]), (Some("ready"), &Value::Null));
    let joined = machine.good(&["join", &machine.invitation(&ready)]);
    assert_eq!((&joined["agent"], &joined["receiver"]), (&json!("web-1"), &ready["id"]));
    let (agent, ready) = machine.start("agent");
    let tap = machine.path("state/data.sock");
    assert_eq!(ready["volumes"], json!([{"group": "db", "volume": "data", "nbd": format!("unix:{}", tap.display())}]));
    let group = machine.live();
    assert_eq!(group["volumes"][0]["size_bytes"].as_u64(), Some(1 << 20));

    write(&tap, 4096, &[1; 4096]);
    let marked = machine.good(&["mark", "db", "before"])["point"].clone();
    assert_eq!(marked["mark"], "before");
    let before = std::fs::read(machine.path("data.img")).unwrap();
    write(&tap, 4096, &[2; 8192]);

    let out = machine.path("out.img");
    let restore = ["restore", "db", "--at", "mark:before", "--to", out.to_str().unwrap()];
    let restored = machine.good(&restore);
    assert_eq!(restored["point"], marked);
    assert_eq!(std::fs::read(&out).unwrap(), before);
    assert_eq!(restored["blake3"]["data"].as_str(), Some(blake3::hash(&before).to_string().as_str()));
    assert_eq!(machine.call(&restore).exit, 15, "it is not overwritten");
    let stdout = command().args(machine.args(&["restore", "db/data", "--at", "mark:before", "--to", "-"])).output();
    assert_eq!(stdout.unwrap().stdout, before);

    let points = machine.good(&["points", "db", "--since", "mark:before"]);
    assert_eq!(points["points"][0], marked);
    let early = machine.call(&["restore", "db", "--at", "1 day ago", "--to", "x", "--json"]);
    assert_eq!((early.exit, early.error()["code"].as_str()), (13, Some("E1301")));
    assert_eq!(machine.call(&["points", "other"]).exit, 10);

    let image = PathBuf::from(machine.live()["volumes"][0]["image"].as_str().unwrap());
    let rolled = machine.good(&["rollback", "db", "--at", "mark:before", "--yes"]);
    assert_eq!(rolled["point"]["seq"], marked["seq"]);
    let mut there = [0; 4096];
    std::fs::File::open(&image).unwrap().read_exact_at(&mut there, 4096).unwrap();
    assert_eq!(there, [1; 4096]);
    assert_eq!(machine.live()["volumes"][0]["image_held"], json!(true));
    machine.good(&["rollback", "db", "--undo", "--yes"]);
    assert_eq!(machine.live()["volumes"][0]["image_held"], json!(false));
    std::fs::File::open(&image).unwrap().read_exact_at(&mut there, 4096).unwrap();
    assert_eq!(there, [2; 4096]);

    assert_eq!(machine.good(&["verify", "db"])["ok"], json!(true));
    assert_eq!(machine.call(&["status", "--check"]).exit, 0);
    agent.stop(Signal::TERM);
    assert_eq!(machine.call(&["mark", "db", "late"]).exit, 16);
    receiver.stop(Signal::INT);
    assert!(!machine.path("store/control.sock").exists(), "a clean stop removes it");
    assert_eq!(machine.call(&["status"]).exit, 16);
}

/// What the contract says of a document: each key is there, whatever its value; `*` is every element of a list, at least one.
#[track_caller]
fn has_keys(document: &Value, paths: &[&str]) {
    for path in paths {
        let mut found = vec![document];
        for part in path.split('.') {
            found = match part {
                "*" => found.into_iter().flat_map(|list| list.as_array().unwrap()).collect(),
                key => {
                    found.into_iter().map(|map| map.get(key).unwrap_or_else(|| panic!("no {path}: {map}"))).collect()
                }
            };
            assert!(!found.is_empty(), "no {path}: {document}");
        }
    }
}

const POINT: [&str; 4] = ["point.seq", "point.time", "point.class", "point.mark"];

#[test]
fn documents_have_the_keys_that_programs_rely_on() {
    let machine = Machine::new();
    let (receiver, ready) = machine.start("serve");
    has_keys(&ready, &["event", "listen", "http", "id"]);
    let address = ready["listen"].as_str().unwrap().to_owned();
    let invited = machine.good(&["invite", "web-1", "--address", &address]);
    has_keys(&invited, &["schema", "invitation", "expires"]);
    let joined = machine.good(&["join", invited["invitation"].as_str().unwrap()]);
    has_keys(&joined, &["schema", "agent", "receiver"]);
    let (agent, ready) = machine.start("agent");
    has_keys(&ready, &["event", "volumes.*.group", "volumes.*.volume", "volumes.*.nbd"]);
    machine.live();
    write(&machine.path("state/data.sock"), 0, &[1; 4096]);
    let marked = machine.good(&["mark", "db", "here"]);
    has_keys(&marked, &[&["schema"], &POINT[..]].concat());

    let state = machine.path("state");
    let of_agent = machine.good(&["status", "--state", state.to_str().unwrap()]);
    for status in [machine.good(&["status"]), machine.good(&["status", "db"]), of_agent] {
        has_keys(&status, &["schema"]);
        let group = &status["groups"][0];
        has_keys(
            group,
            &["name", "state", "rpo_seconds", "captured", "why", "store_bytes", "gaps_total", "last_verified"],
        );
        has_keys(group, &["lag.p50_seconds", "lag.p99_seconds", "lag.max_seconds", "window.from", "window.to"]);
        has_keys(group, &["receivers.*.id", "receivers.*.sent", "receivers.*.received", "receivers.*.durable"]);
        has_keys(group, &["receivers.*.applied", "spool.bytes", "spool.limit_bytes"]);
        has_keys(group, &["volumes.*.name", "volumes.*.size_bytes", "volumes.*.tracker", "volumes.*.image"]);
    }
    let check = machine.good(&["status", "--check"]);
    has_keys(&check, &["schema", "groups.*.state"]);

    let points = machine.good(&["points", "db"]);
    has_keys(&points, &["schema", "points.*.seq", "points.*.time", "points.*.class", "points.*.mark", "truncated"]);
    has_keys(&points, &["gaps.*.from_seq", "gaps.*.to_seq", "gaps.*.from", "gaps.*.to", "gaps.*.reason"]);
    for point in points["points"].as_array().unwrap() {
        let time = point["time"].as_str().unwrap();
        assert_eq!((time.len(), time.ends_with('Z')), ("2026-11-20T14:15:24.117754Z".len(), true), "{time}");
    }

    let written = [&["schema", "bytes_written", "blocks_written", "seconds", "blake3"], &POINT[..]].concat();
    let out = machine.path("out.img");
    let restored = machine.good(&["restore", "db", "--at", "latest", "--to", out.to_str().unwrap()]);
    has_keys(&restored, &[&["blake3.data"], &written[..]].concat());
    has_keys(&machine.good(&["rollback", "db", "--at", "mark:here", "--yes"]), &written);
    has_keys(&machine.good(&["rollback", "db", "--undo", "--yes"]), &written);
    write(&machine.path("state/data.sock"), 4096, &[2; 8192]);
    machine.good(&["mark", "db", "there"]);
    let into = ["restore", "db", "--since", "mark:here", "--at", "mark:there", "--to", out.to_str().unwrap()];
    let into = machine.good(&into);
    has_keys(&into, &[&["blake3.data", "since.seq"], &written[..]].concat());
    assert_eq!(into["bytes_written"], json!(8192));
    let differ = machine.good(&["diff", "db", "--from", "mark:here", "--to", "mark:there", "--map"]);
    has_keys(&differ, &["schema", "from.seq", "from.time", "to.seq", "to.time", "bytes", "blocks", "extents_total"]);
    has_keys(&differ, &["extents.*.offset_bytes", "extents.*.length_bytes", "volumes.*.name", "volumes.*.bytes"]);
    assert_eq!(differ["extents"], json!([{"offset_bytes": 4096, "length_bytes": 8192, "volume": "data"}]));
    assert_eq!(machine.good(&["status"])["groups"][0]["last_drill"], Value::Null);
    if Path::new("/dev/fuse").exists() {
        let drill =
            ["drill", "db", "--at", "latest", "--run", "test -s \"$BACKSPOOL_IMAGE\" && test -n \"$BACKSPOOL_NBD\""];
        let drilled = machine.good(&drill);
        let keys =
            ["command_status", "rto.open_seconds", "rto.command_seconds", "ok", "time", "command", "why", "volume"];
        has_keys(&drilled, &[&["schema"], &keys[..], &POINT[..]].concat());
        has_keys(&machine.good(&["status"])["groups"][0]["last_drill"], &[&keys[..], &POINT[..]].concat());
    }
    assert_eq!(machine.good(&["status"])["groups"][0]["last_verified"], Value::Null);
    let verified = machine.good(&["verify", "db"]);
    assert!(machine.good(&["status"])["groups"][0]["last_verified"].is_string());
    has_keys(&verified, &["schema", "ok", "bytes_checked", "findings"]);
    assert_eq!(verified["findings"], json!([]));

    let refused = machine.call(&["restore", "db", "--at", "2020-01-01 09:15", "--to", "x", "--json"]).error();
    has_keys(&refused, &["type", "code", "exit", "message", "covered.from", "covered.to", "covered.after.time", "try"]);
    let unknown = machine.call(&["points", "other", "--json"]).error();
    has_keys(&unknown, &["type", "code", "exit", "message", "try"]);
    agent.stop(Signal::TERM);
    receiver.stop(Signal::TERM);
}

#[test]
fn who_may_not_join_is_told_so() {
    let machine = Machine::new();
    let (_receiver, ready) = machine.start("serve");
    let invitation = machine.invitation(&ready);
    let state = machine.path("other");
    let join = |string: &str, state: &Path| {
        let call = machine.call(&["join", string, "--state", state.to_str().unwrap(), "--json"]);
        (call.exit, if call.exit == 0 { Value::Null } else { call.error()["code"].clone() })
    };
    for garbled in ["bsp1-", "hello", &invitation[..40], &invitation.replace("bsp1-", "bsp1-a")] {
        assert_eq!(join(garbled, &state), (2, json!("E0206")), "{garbled}");
    }
    assert_eq!(join(&invitation, &state), (0, Value::Null));
    assert_eq!(join(&invitation, &state), (0, Value::Null), "a lost answer may be asked for again");
    assert_eq!(join(&invitation, &machine.path("third")), (12, json!("E1201")), "it is for one agent");
    assert_eq!(machine.call(&["serve"]).exit, 11, "the store is locked");
}

#[test]
fn what_cannot_be_protected_is_told_so() {
    let machine = Machine::new();
    for (args, exit) in [
        (["protect", "db=/srv/db.img"].as_slice(), 2),
        (&["protect", "db", "--tracker", "tap"], 2),
        (&["protect", "db=/srv/db.img", "--tracker", "scan"], 2),
        (&["protect", "DB=/srv/db.img", "--tracker", "tap"], 2),
        (&["protect", "db=/a", "db=/b", "--tracker", "tap"], 2),
        (&["protect", "db=/a", "--tracker", "tap", "--spool-size", "much"], 2),
        (&["protect", "db=/a", "--tracker", "tap", "--nbd", "nowhere"], 2),
        (&["serve", "--listen", "nowhere"], 2),
        (&["serve", "/proc"], 2),
        (&["serve", "--dry-run"], 2),
    ] {
        let call = machine.call(args);
        assert_eq!((call.exit, call.stdout.as_str()), (exit, ""), "{args:?}: {}", call.stderr);
    }
    let call = machine.call(&["agent"]);
    assert_eq!(call.exit, 1, "it has joined nobody: {}", call.stderr);
}

#[test]
fn the_demo_finds_every_byte_right() {
    let call = backspool(["demo", "--size", "16MiB", "--seconds", "1", "--json"]);
    assert_eq!((call.exit, call.stderr.as_str()), (0, ""));
    let document = call.document();
    assert_eq!((document["wrong"].as_u64(), document["instants"].as_u64()), (Some(0), Some(34)));
    assert_eq!(document["bytes_compared"].as_u64(), Some(34 * (16 << 20)));
    assert!(document["writes_total"].as_u64() > Some(100), "{document}");
    assert_eq!(backspool(["demo", "--size", "100KiB"]).exit, 2);
}
