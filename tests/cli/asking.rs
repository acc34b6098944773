//! The verbs that ask a running process, against one of few words.

use serde_json::{Value, json};

use crate::call::Call;
use crate::peer::{Asked, Peer, Reply};

fn point(seq: u64) -> Value {
    json!({"seq": seq, "time": "2026-11-20T10:15:32.000000Z", "class": "write", "mark": null})
}

fn asked(method: &str, uri: &str, body: Value) -> Asked {
    Asked { method: method.to_owned(), uri: uri.to_owned(), body }
}

#[track_caller]
fn good(call: Call) -> Call {
    assert_eq!((call.exit, call.stderr.as_str()), (0, ""), "{call:?}");
    call
}

#[test]
fn status_asks_for_all_or_one_and_passes_the_document_on() {
    let document = json!({"schema": 1, "groups": [{"name": "db", "state": "live", "rpo_seconds": 0}], "new": [1]});
    let peer = Peer::answering(vec![Reply::lines(std::slice::from_ref(&document))]);
    assert_eq!(good(peer.call(&["status", "--json"])).document(), document);
    assert!(good(peer.call(&["status", "db"])).stdout.starts_with("db  live  rpo 0 s\n"));
    assert_eq!(
        peer.asked(),
        [asked("GET", "/v1/status", Value::Null), asked("GET", "/v1/status?group=db", Value::Null)]
    );
}

#[test]
fn status_check_speaks_to_monitoring() {
    let reply = |state: &str, rpo: Value| {
        Reply::lines(&[json!({"schema": 1, "groups": [{"name": "db", "state": state, "rpo_seconds": rpo}]})])
    };
    let error = json!({"type": "error", "code": "E1001", "exit": 10, "message": "no group x"});
    let peer = Peer::answering(vec![
        reply("live", json!(0)),
        reply("behind", json!(7.5)),
        reply("behind", json!(7.5)),
        reply("stopped", Value::Null),
        Reply::status(404, error),
        reply("live", json!(0)),
    ]);
    let check = |args: &[&str]| {
        let call = peer.call(&[&["status", "--check"], args].concat());
        (call.exit, call.stdout.trim_end().to_owned())
    };
    assert_eq!(check(&[]), (0, "BACKSPOOL OK - db live rpo 0 s".to_owned()));
    assert_eq!(check(&[]), (1, "BACKSPOOL WARNING - db behind rpo 7.5 s".to_owned()));
    assert_eq!(check(&["--crit", "7s"]), (2, "BACKSPOOL CRITICAL - db behind rpo 7.5 s".to_owned()));
    assert_eq!(check(&[]), (2, "BACKSPOOL CRITICAL - db stopped rpo unknown".to_owned()));
    assert_eq!(check(&[]), (3, "BACKSPOOL UNKNOWN - no group x".to_owned()));
    let (exit, line) = check(&["--json"]);
    let document: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((exit, document["schema"].as_u64(), document["level"].as_str()), (0, Some(1), Some("ok")));
}

#[test]
fn status_watch_is_one_object_a_line() {
    let groups = json!([{"name": "db", "state": "live", "rpo_seconds": 0}]);
    let error = json!({"type": "error", "code": "E0101", "exit": 1, "message": "enough"});
    let document = json!({"schema": 1, "groups": groups});
    let again = Reply::lines(&[document]);
    let peer = Peer::answering(vec![again.clone(), again, Reply::status(500, error)]);
    let call = peer.call(&["status", "--watch", "--json"]);
    assert_eq!((call.exit, call.stdout.lines().count()), (1, 2));
    for line in call.stdout.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        assert_eq!((event["event"].as_str(), &event["groups"]), (Some("status"), &groups));
    }
}

#[test]
fn points_settles_times_here() {
    let document = json!({"schema": 1, "points": [point(7)], "truncated": false, "gaps": []});
    let peer = Peer::answering(vec![Reply::lines(&[document])]);
    let args = ["points", "db", "--since", "2026-11-20 09:15", "--until", "@1763630000.25", "--limit", "5"];
    assert_eq!(good(peer.call(&args)).stdout, "2026-11-20T10:15:32.000000Z  seq:7             write\n");
    let uri = "/v1/points?group=db&limit=5&since=%401795166100.000000&until=%401763630000.250000";
    let uri = uri.replace("1795166100", &epoch("2026-11-20T09:15:00Z"));
    assert_eq!(peer.asked(), [asked("GET", &uri, Value::Null)]);
    good(peer.call(&["points", "db", "--since", "-90s"]));
    good(peer.call(&["points", "db", "--since", "mark:before"]));
    assert_eq!(peer.asked()[2].uri, "/v1/points?group=db&limit=1000&since=mark%3Abefore");
}

fn epoch(time: &str) -> String {
    let output = std::process::Command::new("date").args(["-d", time, "+%s"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn invite_prints_exactly_one_string() {
    let reply = json!({"schema": 1, "invitation": "bsp1-abc", "expires": "2026-11-20T10:30:00.000000Z"});
    let peer = Peer::answering(vec![Reply::lines(std::slice::from_ref(&reply))]);
    let call = peer.call(&["invite", "web-1", "--ttl", "90s", "--address", "backup:7440"]);
    assert_eq!((call.exit, call.stdout.as_str()), (0, "bsp1-abc\n"));
    assert!(call.stderr.contains("backspool join"), "{}", call.stderr);
    assert_eq!(good(peer.call(&["invite", "web-1", "-q"])).stdout, "bsp1-abc\n");
    assert_eq!(good(peer.call(&["invite", "web-1", "--json"])).document(), reply);
    let body = json!({"agent": "web-1", "ttl_seconds": 90, "address": "backup:7440"});
    assert_eq!(peer.asked()[0], asked("POST", "/v1/invite", body));
    assert_eq!(peer.asked()[1].body, json!({"agent": "web-1", "ttl_seconds": 900, "address": null}));
}

#[test]
fn mark_names_a_point() {
    let mut marked = point(9);
    marked["mark"] = json!("before");
    let peer = Peer::answering(vec![Reply::lines(&[json!({"schema": 1, "point": marked})])]);
    let call = good(peer.call(&["mark", "db", "before", "--lock", "30d"]));
    assert_eq!(call.stdout, "marked db at 2026-11-20T10:15:32.000000Z (seq 9, write, mark before)\n");
    let body = json!({"group": "db", "name": "before", "lock_seconds": 2_592_000});
    assert_eq!(peer.asked(), [asked("POST", "/v1/mark", body)]);
}

fn restored() -> Value {
    json!({"schema": 1, "point": point(7), "bytes_written": 8192, "blocks_written": 2, "seconds": 0.5,
        "blake3": {"data": "abcd"}})
}

fn restoring() -> Reply {
    Reply::lines(&[
        json!({"event": "plan", "point": point(7), "bytes_total": 8192, "blocks_total": 2, "target": "/t"}),
        json!({"event": "progress", "bytes_done": 4096, "bytes_total": 8192}),
        json!({"event": "something new"}),
        restored(),
    ])
}

#[test]
fn restore_shows_the_point_before_and_the_hash_after() {
    let peer = Peer::answering(vec![restoring()]);
    let call = good(peer.call(&["restore", "db/data", "--at", "latest", "--to", "/t", "--nearest"]));
    assert_eq!(
        call.stdout,
        "plan: point 2026-11-20T10:15:32.000000Z (seq 7, write), 8.0 KiB in 2 blocks, to /t\n\
         db/data restored as of 2026-11-20T10:15:32.000000Z (seq 7, write): 8.0 KiB written in 500.0 ms\n\
         blake3 data abcd\n"
    );
    assert_eq!(
        good(peer.call(&["restore", "db", "--at", "latest", "--to", "x", "--force", "--json"])).document(),
        restored()
    );
    let body = json!({"group": "db", "volume": "data", "at": "latest", "nearest": true, "to": "/t", "force": false,
        "dry_run": false});
    assert_eq!(peer.asked()[0], asked("POST", "/v1/restore", body));
    let here = std::env::current_dir().unwrap().join("x");
    assert_eq!(peer.asked()[1].body["to"].as_str(), here.to_str(), "the receiver runs elsewhere");
    assert_eq!(peer.asked()[1].body["force"], json!(true));
}

#[test]
fn restore_to_stdout_is_bytes_there_and_the_document_on_stderr() {
    let plan = json!({"event": "plan", "point": point(7), "target": "-"});
    let settled = json!({"schema": 1, "point": point(7), "volume": "data"});
    let plan = Reply::lines(&[plan, settled]);
    let peer = Peer::answering(vec![plan.clone(), Reply::status(200, "some bytes"), plan, Reply::status(200, "more")]);
    let call = peer.call(&["restore", "db", "--at", "latest", "--to", "-", "--json"]);
    assert_eq!((call.exit, call.stdout.as_str()), (0, "some bytes"));
    let document = call.error();
    assert_eq!((&document["point"], document["bytes_written"].as_u64()), (&point(7), Some(10)));
    assert_eq!(document["blake3"]["data"].as_str(), Some(blake3::hash(b"some bytes").to_string().as_str()));
    assert_eq!(peer.asked()[0].body["dry_run"], json!(true));
    let call = peer.call(&["restore", "db", "--at", "latest", "--to", "-"]);
    assert_eq!((call.exit, call.stdout.as_str()), (0, "more"));
    assert!(call.stderr.starts_with("plan: point ") && call.stderr.contains("4 B written"), "{}", call.stderr);
    // The point that was settled is the one that is read, whatever is written meanwhile.
    assert_eq!(peer.asked()[1], asked("GET", "/v1/read?group=db&at=seq%3A7", Value::Null));
}

#[test]
fn restore_into_an_image_that_is_there_names_both_points() {
    let mut plan =
        json!({"event": "plan", "since": point(3), "point": point(7), "bytes_total": 8192, "blocks_total": 2});
    plan["target"] = json!("/t");
    let peer = Peer::answering(vec![Reply::lines(&[plan, restored()])]);
    let call = good(peer.call(&["restore", "db", "--since", "seq:3", "--at", "latest", "--to", "/t"]));
    let expect = "plan: point 2026-11-20T10:15:32.000000Z (seq 7, write), from 2026-11-20T10:15:32.000000Z (seq 3, write), \
                  8.0 KiB in 2 blocks, to /t\n";
    assert!(call.stdout.starts_with(expect), "{}", call.stdout);
    let body = json!({"group": "db", "volume": null, "at": "latest", "nearest": false, "to": "/t", "force": false,
        "dry_run": false, "since": "seq:3"});
    assert_eq!(peer.asked(), [asked("POST", "/v1/restore", body)]);
    for more in [["--to", "/t", "--force"].as_slice(), &["--to", "-"]] {
        let call = peer.call(&[&["restore", "db", "--since", "seq:3", "--at", "latest"], more].concat());
        assert_eq!(call.exit, 2, "{more:?}: {}", call.stderr);
    }
    assert_eq!(peer.asked().len(), 1, "neither was asked for");
}

#[test]
fn diff_is_a_summary_and_with_map_the_extents() {
    let volume = |name: &str| json!({"name": name, "from_bytes": 1 << 20, "to_bytes": 1 << 20, "bytes": 12288, "blocks": 3, "extents_total": 2});
    let result = |volumes: Vec<Value>| json!({"schema": 1, "from": point(3), "to": point(7), "bytes": 12288, "blocks": 3, "extents_total": 2, "volumes": volumes, "seconds": 0.5});
    let map = |name: &str, extents: Value| json!({"event": "extents", "volume": name, "extents": extents});
    let summary = Reply::lines(&[json!({"event": "plan", "bytes_total": 1 << 20}), result(vec![volume("a")])]);
    let mapped =
        Reply::lines(&[map("a", json!([[0, 4096]])), map("a", json!([[8192, 8192]])), result(vec![volume("a")])]);
    let two = [map("a", json!([[0, 4096]])), map("b", json!([[0, 8192]])), result(vec![volume("a"), volume("b")])];
    let peer = Peer::answering(vec![summary.clone(), summary, mapped.clone(), mapped, Reply::lines(&two)]);
    let args = ["diff", "db", "--from", "-1h", "--to", "latest"];
    let said = "db from 2026-11-20T10:15:32.000000Z (seq 3, write) to 2026-11-20T10:15:32.000000Z (seq 7, write): \
                12.0 KiB in 3 blocks, 2 extents, 1.17 % of 1.0 MiB differ\n";
    assert_eq!(good(peer.call(&args)).stdout, said);
    let document = good(peer.call(&[&args[..], &["--json"]].concat())).document();
    assert_eq!((&document["bytes"], &document["extents"]), (&json!(12288), &json!([])));
    let text = good(peer.call(&[&args[..], &["--map"]].concat())).stdout;
    assert_eq!(text, format!("               0         4096  a\n            8192         8192  a\n{said}"));
    let extent = |offset: u64, length: u64, volume: &str| json!({"offset_bytes": offset, "length_bytes": length, "volume": volume});
    let document = good(peer.call(&[&args[..], &["--map", "--json"]].concat())).document();
    assert_eq!(document["extents"], json!([extent(0, 4096, "a"), extent(8192, 8192, "a")]));
    let document = good(peer.call(&[&args[..], &["--map", "--json"]].concat())).document();
    assert_eq!(document["extents"], json!([extent(0, 4096, "a"), extent(0, 8192, "b")]));
    assert_eq!(document["to"], point(7));
    let bodies: Vec<Value> = peer.asked().into_iter().map(|asked| asked.body).collect();
    assert!(bodies[0]["from"].as_str().unwrap().starts_with('@') && bodies[0]["volume"].is_null(), "{bodies:?}");
    assert_eq!(
        bodies.iter().map(|body| body["map"] == json!(true)).collect::<Vec<_>>(),
        [false, false, true, true, true]
    );
}

#[test]
fn rollback_is_told_what_to_do() {
    let peer = Peer::answering(vec![restoring()]);
    let call = good(peer.call(&["rollback", "db", "--at", "seq:7", "--yes"]));
    let expect = "db is at 2026-11-20T10:15:32.000000Z (seq 7, write): 8.0 KiB written in 500.0 ms\n";
    assert!(call.stdout.starts_with("plan: ") && call.stdout.ends_with(expect), "{}", call.stdout);
    good(peer.call(&["rollback", "db", "--undo", "--yes"]));
    let call = good(peer.call(&["rollback", "db", "--at", "mark:m", "--dry-run"]));
    assert!(call.stdout.contains("nothing was changed"), "{}", call.stdout);
    let body = |at: Value, undo: bool, dry_run: bool| {
        json!({"group": "db", "at": at, "undo": undo, "nearest": false, "dry_run": dry_run,
            "live": false, "force_attached": false})
    };
    let bodies: Vec<Value> = peer.asked().into_iter().map(|asked| asked.body).collect();
    assert_eq!(
        bodies,
        [body(json!("seq:7"), false, false), body(Value::Null, true, false), body(json!("mark:m"), false, true)]
    );
}

#[test]
fn verify_ends_with_14_on_any_damage_even_if_mended() {
    let finding = |mended: bool| json!({"where": "seg-1 at byte 7", "what": "bad checksum", "mended": mended});
    let reply = |ok: bool, findings: Vec<Value>| {
        let progress = json!({"event": "progress", "bytes_done": 1, "bytes_total": 2});
        Reply::lines(&[progress, json!({"schema": 1, "ok": ok, "bytes_checked": 4096, "findings": findings})])
    };
    let peer = Peer::answering(vec![
        reply(true, vec![]),
        reply(false, vec![finding(false)]),
        reply(true, vec![finding(true)]),
        reply(false, vec![]),
    ]);
    assert_eq!(good(peer.call(&["verify", "db"])).stdout, "sound: 4.0 KiB checked\n");
    let call = peer.call(&["verify", "db"]);
    assert_eq!(call.exit, 14);
    assert_eq!(call.stdout, "seg-1 at byte 7: bad checksum\ndamaged: 1 findings in 4.0 KiB\n");
    let call = peer.call(&["verify", "db", "--json"]);
    assert_eq!((call.exit, call.document()["findings"][0]["mended"].as_bool()), (14, Some(true)));
    assert_eq!(peer.call(&["verify", "db"]).exit, 14);
    assert_eq!(peer.asked()[1].body, json!({"group": "db"}));
}

#[test]
fn errors_are_rendered_as_they_come() {
    let error = json!({"type": "error", "code": "E1301", "exit": 13, "message": "no recovery point then for db",
        "covered": {"from": "A", "to": "B"}, "try": "backspool points db"});
    let at_once = Peer::answering(vec![Reply::status(422, &error)]);
    let late = Peer::answering(vec![Reply::lines(&[json!({"event": "progress"}), error.clone()])]);
    for peer in [at_once, late] {
        let call = peer.call(&["restore", "db", "--at", "latest", "--to", "/t"]);
        let expect = "error[E1301]: no recovery point then for db\n  covered: A … B\n  try: backspool points db\n";
        assert_eq!((call.exit, call.stderr.as_str()), (13, expect));
        let call = peer.call(&["restore", "db", "--at", "latest", "--to", "/t", "--json"]);
        assert_eq!((call.exit, call.stdout.as_str(), call.error()), (13, "", error.clone()));
    }
}

#[test]
fn an_answer_that_is_none_is_a_failure() {
    let check = |reply: Reply, exit: i32, code: &str| {
        let peer = Peer::answering(vec![reply]);
        for args in [["status"].as_slice(), &["rollback", "db", "--undo", "--yes"]] {
            let call = peer.call(args);
            assert_eq!((call.exit, call.stdout.as_str()), (exit, ""), "{args:?}: {}", call.stderr);
            assert!(call.stderr.starts_with(&format!("error[{code}]")), "{args:?}: {}", call.stderr);
        }
    };
    check(Reply::status(404, ""), 16, "E1604");
    check(Reply::status(405, "Method Not Allowed"), 16, "E1604");
    check(Reply::status(500, "oh"), 1, "E0103");
    check(Reply::status(200, "oh\n"), 1, "E0103");
    check(Reply::status(200, "[]\n"), 1, "E0103");
    check(Reply::status(200, ""), 16, "E1603");
    check(Reply { cut: true, ..Reply::status(200, "{\"event\":\"progress\"}") }, 16, "E1603");
}

#[test]
fn bytes_that_are_cut_off_are_a_failure() {
    let plan = Reply::lines(&[json!({"schema": 1, "point": point(7)})]);
    let peer = Peer::answering(vec![plan, Reply { cut: true, ..Reply::status(200, "some bytes") }]);
    let call = peer.call(&["restore", "db", "--at", "latest", "--to", "-"]);
    assert_eq!((call.exit, call.stdout.as_str()), (16, "some bytes"));
    assert!(call.stderr.starts_with("error[E1603]"), "{}", call.stderr);
}
