//! The whole API over its socket, with a group that a scripted agent has filled.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use journal::codec::{Body, Mark};
use journal::types::Seq;
use journal::wire::{Pin, ReceiverId};
use serde_json::{Value, json};

use super::*;
use crate::catalog::{Catalog, Name, StoreDir, StoreId};
use crate::group::{Attachment, Group};
use crate::retention::Wanted;
use crate::testing::{Frames, GROUP, extent, uuid};

struct Api {
    dir: tempfile::TempDir,
    groups: Arc<Groups>,
    group: Group,
    session: Attachment,
    frames: Frames,
    _socket: local::SocketFile,
}

impl Api {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(StoreDir::open(&dir.path().join("store"), StoreId([1; 16])).unwrap()).unwrap();
        let groups = Arc::new(Groups::open(catalog, true).unwrap());
        let retention =
            Retention::new(Arc::clone(&groups), Wanted::default(), Box::new(crate::retention::read_clocks)).unwrap();
        let group = groups.claim(&Name::parse("web").unwrap(), GROUP, "db").unwrap();
        let session = group.attach(groups.next_session()).await.unwrap();
        let listen = "127.0.0.1:7440".parse().unwrap();
        let retention = Arc::new(retention);
        let app = App {
            groups: Arc::clone(&groups),
            retention: Arc::clone(&retention),
            holdings: Holdings::default(),
            drills: Drills::open(&dir.path().join("store")).unwrap(),
            running: Running::default(),
            id: ReceiverId(Pin([2; 32])),
            listen,
        };
        let (listener, socket) = socket::bind(&dir.path().join("control.sock")).unwrap();
        tokio::spawn(async { axum::serve(listener, router(app)).await });
        let mut api = Self { dir, groups, group, session, frames: Frames::new(), _socket: socket };
        let first = api.frames.begin(&[4096]);
        api.session.ingest.live(first).await.unwrap();
        api
    }

    /// Frames of one sector each: the sector with this number holds this byte.
    async fn write(&mut self, bytes: std::ops::Range<u8>) -> Seq {
        let mut newest = Seq::FIRST;
        for byte in bytes {
            self.frames.write(0, extent(u64::from(byte), 1), &[byte; 512]);
            newest = self.frames.seq().before().unwrap();
            self.session.ingest.live(self.frames.finish()).await.unwrap();
        }
        self.durable(newest).await;
        newest
    }

    async fn durable(&mut self, seq: Seq) {
        self.session.progress.wait_for(|now| now.head.is_some_and(|head| head.seq >= seq)).await.unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Status and body of an answer.
    async fn ask(&self, head: &str, body: &str) -> (u16, Vec<u8>) {
        let socket = self.path("control.sock");
        let request = format!("{head} HTTP/1.0\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let ask = move || {
            let mut stream = UnixStream::connect(socket).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            answer
        };
        let answer = tokio::task::spawn_blocking(ask).await.unwrap();
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        (status, answer[end + 4..].to_vec())
    }

    async fn get(&self, path: &str) -> Value {
        serde_json::from_slice(&self.ask(&format!("GET {path}"), "").await.1).unwrap()
    }

    /// All lines of an answer.
    async fn post(&self, path: &str, body: Value) -> Vec<Value> {
        let (_, lines) = self.ask(&format!("POST {path}"), &body.to_string()).await;
        lines
            .split(|&byte| byte == b'\n')
            .filter(|l| !l.is_empty())
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect()
    }

    async fn last(&self, path: &str, body: Value) -> Value {
        self.post(path, body).await.pop().unwrap()
    }
}

fn volume(upto: u8) -> Vec<u8> {
    let mut bytes = vec![0; 4096 * 512];
    for byte in 1..upto {
        bytes[usize::from(byte) * 512..][..512].fill(byte);
    }
    bytes
}

fn image(api: &Api) -> PathBuf {
    api.path("store/images").join(format!("{}.img", uuid(0)))
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_points_tell_what_is_there() {
    let mut api = Api::start().await;
    let newest = api.write(1..50).await;
    let document = api.get("/v1/status").await;
    let group = &document["groups"][0];
    assert_eq!((&group["name"], &group["state"]), (&json!("db"), &json!("stopped")), "no report yet");
    assert_eq!(group["receivers"][0]["durable"], newest.number());
    assert_eq!(group["volumes"][0]["size_bytes"], 4096 * 512);
    assert_eq!(group["volumes"][0]["image"], image(&api).display().to_string());
    assert!(group["store_bytes"].as_u64().unwrap() > 0 && group["window"]["to"].is_string());
    let points = api.get("/v1/points?group=db&limit=10").await;
    assert_eq!(points["points"].as_array().unwrap().len(), 10);
    assert_eq!((&points["points"][9]["seq"], &points["truncated"]), (&json!(newest.number()), &json!(true)));
    let few = api.get(&format!("/v1/points?group=db&since=seq:{}", newest.number() - 1)).await;
    assert_eq!(few["points"].as_array().unwrap().len(), 2);
    assert_eq!(api.get("/v1/points?group=other").await["exit"], 10);
    assert_eq!(api.get("/v1/points").await["exit"], 2);
    assert_eq!(api.get("/v1/points?group=db&since=10m").await["exit"], 2);
    assert_eq!(api.ask("GET /v1/nothing", "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_is_made_and_names_this_receiver() {
    let api = Api::start().await;
    let document = api.last("/v1/invite", json!({"agent": "web2", "ttl_seconds": 60.0, "address": null})).await;
    let invitation: link::Invitation = document["invitation"].as_str().unwrap().parse().unwrap();
    assert_eq!((invitation.address.as_str(), invitation.receiver), ("127.0.0.1:7440", ReceiverId(Pin([2; 32]))));
    let redeem = crate::enrol::redeem(api.groups.catalog(), &invitation.secret.0, [3; 32], crate::time::now());
    assert_eq!(redeem.unwrap(), journal::wire::JoinOutcome::Joined("web2".to_owned()));
    for bad in [
        json!({"agent": "../x"}),
        json!({"agent": "x", "ttl_seconds": -1.0}),
        json!({"agent": "x", "address": "no port"}),
        json!({}),
        json!([]),
    ] {
        assert_eq!(api.last("/v1/invite", bad.clone()).await["exit"], 2, "{bad}");
    }
    assert_eq!(api.groups.catalog().locked().invitations.len(), 1, "a refused one leaves nothing open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_is_restored_and_read() {
    let mut api = Api::start().await;
    let middle = api.write(1..50).await;
    api.write(50..90).await;
    let to = api.path("out.img").display().to_string();
    let request = json!({"group": "db", "volume": null, "at": format!("seq:{middle}"), "to": to});
    let mut dry = request.clone();
    dry["dry_run"] = json!(true);
    let lines = api.post("/v1/restore", dry).await;
    assert_eq!((&lines[0]["event"], &lines[0]["bytes_total"]), (&json!("plan"), &json!(4096 * 512)));
    assert_eq!(lines.last().unwrap()["point"]["seq"], middle.number());
    assert!(!Path::new(&to).exists());
    let done = api.last("/v1/restore", request.clone()).await;
    let expect = volume(50);
    assert!(fs::read(&to).unwrap() == expect);
    assert_eq!(done["blake3"]["vol0"], blake3::hash(&expect).to_string());
    assert_eq!(api.last("/v1/restore", request).await["exit"], 15);
    let (status, bytes) = api.ask(&format!("GET /v1/read?group=db&at=seq:{middle}"), "").await;
    assert!(status == 200 && bytes == expect);
    let (_, part) = api.ask(&format!("GET /v1/read?group=db&at=seq:{middle}&offset=512&length=1024"), "").await;
    assert_eq!(part, expect[512..1536]);
    assert_eq!(api.get(&format!("/v1/read?group=db&at=seq:{middle}&offset=7")).await["exit"], 2);
    assert_eq!(api.get("/v1/read?group=db&at=@1").await["exit"], 13);
    assert_eq!(api.get("/v1/read?group=db&at=latest&volume=none").await["exit"], 10);
    let plan = api.last("/v1/restore", json!({"group": "db", "at": "latest", "to": "-", "dry_run": true})).await;
    assert_eq!(plan["volume"], "vol0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_is_rolled_back_held_and_undone() {
    let mut api = Api::start().await;
    let middle = api.write(1..50).await;
    api.write(50..90).await;
    let back = json!({"group": "db", "at": format!("seq:{middle}")});
    let lines = api.post("/v1/rollback", back.clone()).await;
    let done = lines.last().unwrap();
    assert_eq!((&done["point"]["seq"], &done["held"]), (&json!(middle.number()), &json!(true)), "{lines:?}");
    assert!(fs::read(image(&api)).unwrap() == volume(50));
    api.write(90..120).await;
    let dry = api.post("/v1/rollback", json!({"group": "db", "undo": true, "dry_run": true})).await;
    // Sectors 50 to 119 are in blocks 6 to 14.
    assert_eq!((&dry[0]["blocks_total"], &dry[1]["blocks_written"]), (&json!(9), &json!(0)), "{dry:?}");
    assert!(fs::read(image(&api)).unwrap() == volume(50));
    let undone = api.last("/v1/rollback", json!({"group": "db", "undo": true})).await;
    assert_eq!((&undone["blocks_written"], &undone["held"]), (&json!(9), &json!(false)));
    assert!(fs::read(image(&api)).unwrap() == volume(120));
    assert_eq!(api.last("/v1/rollback", json!({"group": "db", "undo": true})).await["code"], "E1105");
    assert_eq!(api.last("/v1/rollback", json!({"group": "db"})).await["exit"], 2);
    let _alone = api.group.reserve("a test").unwrap();
    assert_eq!(api.last("/v1/rollback", back).await["exit"], 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_named() {
    let mut api = Api::start().await;
    api.write(1..50).await;
    let sound = api.last("/v1/verify", json!({"group": "db"})).await;
    assert_eq!((&sound["ok"], &sound["findings"]), (&json!(true), &json!([])), "{sound}");
    assert!(api.get("/v1/status?group=db").await["groups"][0]["last_verified"].is_string());
    let dir = api.groups.catalog().group_dir(GROUP);
    let segment = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some()).unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    // Within the payload of the frame that wrote sector 24, which is not compressed.
    let at = bytes.windows(512).position(|window| window == [24; 512]).unwrap();
    bytes[at + 100] ^= 1;
    fs::write(&segment, &bytes).unwrap();
    let damaged = api.last("/v1/verify", json!({"group": "db"})).await;
    assert_eq!(damaged["ok"], false, "{damaged}");
    let name = segment.file_name().unwrap().to_str().unwrap();
    assert!(damaged["findings"][0]["where"].as_str().unwrap().contains(name), "{damaged}");
    let refused = api.get("/v1/read?group=db&at=latest&offset=12288&length=512").await;
    assert_eq!(refused["exit"], 14, "nothing corrupt is served: {refused}");
    let to = api.path("out.img");
    let refused = api.last("/v1/restore", json!({"group": "db", "at": "latest", "to": to})).await;
    assert_eq!((&refused["exit"], to.exists()), (&json!(14), false), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_goes_through_the_agent() {
    let mut api = Api::start().await;
    api.write(1..5).await;
    let (socket, group) = (api.path("control.sock"), api.group.clone());
    let asked = tokio::task::spawn_blocking(move || {
        let body = json!({"group": "db", "name": "m1", "lock_seconds": 60}).to_string();
        let mut stream = UnixStream::connect(socket).unwrap();
        let head = format!("POST /v1/mark HTTP/1.0\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let order = api.session.orders.recv().await.unwrap();
    let crate::group::Order::Mark { name, locked_until, reply } = order else { panic!("{order:?}") };
    assert!(locked_until.is_some());
    let seq = api.frames.seq();
    api.frames.push(Body::Mark(Mark { locked_until, name }));
    reply.send(Ok(seq)).unwrap();
    api.session.ingest.live(api.frames.finish()).await.unwrap();
    let answer = asked.await.unwrap();
    assert!(answer.contains(r#""mark":"m1""#), "{answer}");
    drop(api.session);
    assert_eq!(group.mark("m2", None).await.unwrap_err().code().exit(), 16);
}
