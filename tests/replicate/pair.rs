//! A receiver and an agent with one group `db` of one volume, in directories of their own.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::run::{Event, GroupOptions, ProtectOptions, protect};
use nbd::RemoteClients;
use oracle::{Client, Rng};
use receiver::{ServeOptions, serve};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::http::request;

/// Bytes of the volume: no multiple of a block.
pub(crate) const SIZE: usize = 8 * 1024 * 1024 + 512;
/// Longer than anything takes that works.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Pair {
    dir: TempDir,
    runtime: Runtime,
    listen: SocketAddr,
    receiver: Option<Process<receiver::Result<()>>>,
    /// A runtime of its own, so that it can vanish with all its tasks.
    agent: Option<(Runtime, Process<agent::Result<()>>)>,
}

struct Process<T> {
    stop: oneshot::Sender<()>,
    task: JoinHandle<T>,
}

impl Pair {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { dir, runtime: Runtime::new().unwrap(), listen: ([127, 0, 0, 1], 0).into(), receiver: None, agent: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Random content with holes.
    pub(crate) fn fill_source(&self, rng: &mut Rng) -> Vec<u8> {
        let mut content = vec![0; SIZE];
        let file = fs::File::create(self.path("source.img")).unwrap();
        file.set_len(u64::try_from(SIZE).unwrap()).unwrap();
        for (at, block) in content.chunks_mut(65536).enumerate() {
            if rng.below(3) > 0 {
                block.fill_with(|| u8::try_from(rng.below(256)).unwrap());
                file.write_all_at(block, u64::try_from(at * 65536).unwrap()).unwrap();
            }
        }
        content
    }

    pub(crate) fn change_source(&self, at: usize, data: &[u8]) {
        let file = fs::File::options().write(true).open(self.path("source.img")).unwrap();
        file.write_all_at(data, u64::try_from(at).unwrap()).unwrap();
    }

    pub(crate) fn start_receiver(&mut self) {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let options = ServeOptions {
            dir: self.path("store"),
            listen: self.listen,
            control_socket: None,
            images: false,
            retention: receiver::Retention::default(),
        };
        let on_ready = move |told: receiver::Ready| ready.send(told.listen).unwrap();
        let task = self.runtime.spawn(serve(options, on_ready, async { drop(stopped.await) }));
        match is_ready.recv_timeout(PATIENCE) {
            Ok(listen) => self.listen = listen,
            Err(_) => panic!("{:?}", self.runtime.block_on(task)),
        }
        self.receiver = Some(Process { stop, task });
    }

    pub(crate) fn stop_receiver(&mut self) {
        let Process { stop, task } = self.receiver.take().unwrap();
        drop(stop);
        self.runtime.block_on(task).unwrap().unwrap();
    }

    pub(crate) fn join(&self, agent: &str) {
        let asked = json!({"agent": agent, "address": self.listen.to_string()});
        let invitation = self.ask("POST", "/v1/invite", &asked.to_string())["invitation"].as_str().unwrap().to_owned();
        let joined = self.runtime.block_on(agent::join::join(&self.path("state"), &invitation)).unwrap();
        assert_eq!(joined.agent, agent);
    }

    fn options(&self) -> ProtectOptions {
        ProtectOptions {
            state_dir: self.path("state"),
            groups: vec![GroupOptions {
                name: "db".to_owned(),
                volumes: vec![("db".to_owned(), self.path("source.img"))],
                spool_limit_bytes: 1 << 30,
                terms: agent::capture::Terms::default(),
                limit_bytes_per_second: None,
                rpo: agent::run::Rpo::default(),
                take_over: false,
                replaced: false,
            }],
            nbd: BTreeMap::new(),
            remote: RemoteClients::Refused,
            socket: None,
        }
    }

    pub(crate) fn start_agent(&mut self) {
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let events = move |event| {
            if let Event::Ready { .. } = event {
                ready.send(()).unwrap();
            }
        };
        let task = runtime.spawn(protect(self.options(), events, async { drop(stopped.await) }));
        if is_ready.recv_timeout(PATIENCE).is_err() {
            panic!("{:?}", runtime.block_on(task));
        }
        self.agent = Some((runtime, Process { stop, task }));
    }

    pub(crate) fn stop_agent(&mut self) {
        let (runtime, Process { stop, task }) = self.agent.take().unwrap();
        drop(stop);
        runtime.block_on(task).unwrap().unwrap();
    }

    /// Its tasks vanish where they are; nothing is said, proven or remembered.
    pub(crate) fn kill_agent(&mut self) {
        let (runtime, Process { task, .. }) = self.agent.take().unwrap();
        task.abort();
        drop(runtime);
    }

    /// The error that keeps it from running.
    pub(crate) fn agent_fails(&self) -> agent::Error {
        self.runtime
            .block_on(protect(self.options(), |_| {}, async { tokio::time::sleep(PATIENCE).await }))
            .unwrap_err()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&format!("unix:{}", self.path("state/db.sock").display()), "").unwrap()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, answer) = request(&self.path("store/control.sock"), method, path, body).unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        serde_json::from_slice(&answer).unwrap()
    }

    pub(crate) fn read(&self, at: &str) -> Vec<u8> {
        let path = format!("/v1/read?group=db&at={at}");
        let (status, answer) = request(&self.path("store/control.sock"), "GET", &path, "").unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
        answer
    }

    pub(crate) fn mark(&self, name: &str) {
        let asked = json!({"group": "db", "name": name}).to_string();
        let (status, answer) = request(&self.path("state/agent.sock"), "POST", "/v1/mark", &asked).unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&answer));
    }

    /// Until what was written up to now is durable: a mark says so.
    pub(crate) fn wait_durable(&self) {
        let asked = json!({"group": "db", "name": "now"}).to_string();
        self.wait("durable", || {
            let answer = request(&self.path("state/agent.sock"), "POST", "/v1/mark", &asked);
            answer.is_ok_and(|(status, _)| status == 200)
        });
    }

    /// Until what had to be read is sealed. An agent that was killed counts as live for a second: after a restart, wait
    /// for something durable first.
    pub(crate) fn wait_live(&self) {
        self.wait("live", || self.ask("GET", "/v1/status", "")["groups"][0]["state"] == "live");
    }

    pub(crate) fn gaps(&self) -> u64 {
        self.ask("GET", "/v1/status", "")["groups"][0]["gaps_total"].as_u64().unwrap()
    }

    pub(crate) fn store_bytes(&self) -> u64 {
        self.ask("GET", "/v1/status", "")["groups"][0]["store_bytes"].as_u64().unwrap()
    }

    pub(crate) fn groups(&self) -> usize {
        self.ask("GET", "/v1/status", "")["groups"].as_array().unwrap().len()
    }

    fn wait(&self, what: &str, reached: impl Fn() -> bool) {
        let start = Instant::now();
        while !reached() {
            assert!(start.elapsed() < PATIENCE, "never {what}: {}", self.ask("GET", "/v1/status", ""));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn keep_state(&self) {
        copy(&self.path("state"), &self.path("state-kept"));
    }

    /// In place: the directories stay what they are, and so it is not taken for a copy.
    pub(crate) fn set_state_back(&self) {
        empty(&self.path("state"));
        copy(&self.path("state-kept"), &self.path("state"));
    }

    pub(crate) fn keep_store(&self) {
        copy(&self.path("store"), &self.path("store-kept"));
    }

    pub(crate) fn restore_store(&self) {
        fs::remove_dir_all(self.path("store")).unwrap();
        copy(&self.path("store-kept"), &self.path("store"));
    }

    pub(crate) fn replace_receiver(&self) {
        fs::remove_dir_all(self.path("store")).unwrap();
    }

    pub(crate) fn forget_journal(&self) {
        fs::remove_dir_all(self.path("store/groups")).unwrap();
    }

    pub(crate) fn forget_spool(&self) {
        for group in fs::read_dir(self.path("state/groups")).unwrap() {
            fs::remove_dir_all(group.unwrap().path().join("spool")).unwrap();
        }
    }

    pub(crate) fn forget_identity(&self) {
        fs::remove_dir_all(self.path("state/identity")).unwrap();
    }

    pub(crate) fn forget_state(&self) {
        fs::remove_dir_all(self.path("state")).unwrap();
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // Before the directories are gone.
        if self.agent.is_some() {
            self.kill_agent();
        }
        if let Some(Process { task, .. }) = self.receiver.take() {
            task.abort();
        }
    }
}

/// Removes what is no directory.
fn empty(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            empty(&entry.path());
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            copy(&path, &to.join(entry.file_name()));
        } else if kind.is_file() {
            fs::copy(&path, to.join(entry.file_name())).unwrap();
        }
    }
}
