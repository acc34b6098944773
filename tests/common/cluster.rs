//! A receiver and an agent as real processes, with one group `db` of one volume, in a directory on a real disk.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use oracle::{Client, Rng};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::http::request;
use super::process::{Call, Process, call, words};
use super::wait_for;

/// Where everything is may be changed before it is started.
pub(crate) struct Cluster {
    /// The protected file or device.
    pub(crate) source: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) state: PathBuf,
    /// More words for `protect`.
    pub(crate) protect: Vec<OsString>,
    pub(crate) receiver: Option<Process>,
    pub(crate) agent: Option<Process>,
    /// The most memory of any receiver and any agent so far, in KiB.
    pub(crate) memory_max_kib: (u64, u64),
    listen: String,
    /// Where an invitation says that the receiver is, if not where it listens.
    pub(crate) address: Option<String>,
    /// Failpoints of the receiver that is started next, and of the agent.
    pub(crate) failpoints: (Option<String>, Option<String>),
    // Last: the processes are gone before their files are.
    dir: TempDir,
}

/// A stretch without points: strictly between these instants, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: u64,
    /// `None` while it goes on.
    pub(crate) to: Option<u64>,
}

impl Cluster {
    /// Nothing is started yet, and there is no source.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = |name: &str| dir.path().join(name);
        // So that this machine's own is not read.
        fs::write(path("none.toml"), "").unwrap();
        Self {
            source: path("source.img"),
            store: path("store"),
            state: path("state"),
            protect: Vec::new(),
            receiver: None,
            agent: None,
            memory_max_kib: (0, 0),
            listen: "127.0.0.1:0".to_owned(),
            address: None,
            failpoints: (None, None),
            dir,
        }
    }

    /// All of it runs, and what the source held is protected.
    pub(crate) fn live(content: &[u8]) -> Self {
        let mut cluster = Self::new();
        fs::write(&cluster.source, content).unwrap();
        cluster.begin();
        cluster.settle();
        cluster
    }

    /// Starts all of it, with an agent that has just joined.
    pub(crate) fn begin(&mut self) {
        self.start_receiver();
        self.join();
        self.start_agent();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the tap is, for NBD clients.
    pub(crate) fn tap(&self) -> String {
        format!("unix:{}", self.path("tap.sock").display())
    }

    /// Writes to the volume of another group.
    #[track_caller]
    pub(crate) fn write_to(&self, volume: &str, offset: u64, data: &[u8]) {
        Client::connect(&self.tap(), volume).unwrap().write(offset, data, true).unwrap();
    }

    /// Writes through the tap, durably on the source.
    #[track_caller]
    pub(crate) fn write(&self, offset: u64, data: &[u8]) {
        self.write_to("db", offset, data);
    }

    /// As somebody who does not know of the tap.
    pub(crate) fn write_behind(&self, offset: u64, data: &[u8]) {
        fs::File::options().write(true).open(&self.source).unwrap().write_all_at(data, offset).unwrap();
    }

    /// Starts a receiver without waiting for it.
    pub(crate) fn spawn_receiver(&mut self) {
        let args =
            self.args(&words(&["serve".as_ref(), self.store.as_os_str(), "--listen".as_ref(), self.listen.as_ref()]));
        let armed = self.failpoints.0.take();
        self.receiver = Some(start(&self.path("receiver.log"), &args, armed));
    }

    pub(crate) fn start_receiver(&mut self) {
        self.spawn_receiver();
        let ready = self.receiver.as_mut().unwrap().event();
        self.listen = ready["listen"].as_str().unwrap().to_owned();
    }

    /// Where the receiver is, once it was started.
    pub(crate) fn listens(&self) -> &str {
        &self.listen
    }

    /// Starts an agent without waiting for it.
    pub(crate) fn spawn_agent(&mut self) {
        let armed = self.failpoints.1.take();
        self.agent = Some(start(&self.path("agent.log"), &self.protect_args(), armed));
    }

    /// As [`start_agent`](Self::start_agent), by whoever starts processes in another way.
    pub(crate) fn start_agent_with(&mut self, start: impl FnOnce(&Path, &[OsString]) -> Process) {
        self.agent = Some(start(&self.path("agent.log"), &self.protect_args()));
        let ready = self.agent.as_mut().unwrap().event();
        assert_eq!(ready["event"], "ready");
    }

    pub(crate) fn start_agent(&mut self) {
        self.spawn_agent();
        let ready = self.agent.as_mut().unwrap().event();
        assert_eq!(ready["event"], "ready");
    }

    /// An agent that does not come up.
    #[track_caller]
    pub(crate) fn agent_fails(&self) -> Call {
        call(&self.protect_args())
    }

    /// A receiver that does not come up.
    #[track_caller]
    pub(crate) fn receiver_fails(&self, store: &Path) -> Call {
        call(&self.args(&words(&["serve".as_ref(), store.as_os_str(), "--listen".as_ref(), "127.0.0.1:0".as_ref()])))
    }

    /// Another agent that does not come up, with everything of its own.
    #[track_caller]
    pub(crate) fn beside(&self, state: &Path, source: &Path, tap: &Path) -> Call {
        call(&self.protect_with(state, source, &format!("unix:{}", tap.display())))
    }

    /// Another agent of the volume, with everything of its own, that says when it is ready.
    pub(crate) fn start_beside(&self, state: &Path, source: &Path, tap: &Path) -> Process {
        let args = self.protect_with(state, source, &format!("unix:{}", tap.display()));
        let mut agent = Process::start(&self.path("beside.log"), &args);
        assert_eq!(agent.event()["event"], "ready");
        agent
    }

    /// What the agent with this state says by itself of the group.
    pub(crate) fn status_of(&self, state: &Path) -> Value {
        try_status(state).expect("the agent answers")
    }

    /// What the agent says by itself of the group; `None` while it does not answer.
    pub(crate) fn look_at_agent(&self) -> Option<Value> {
        try_status(&self.state)
    }

    fn protect_args(&self) -> Vec<OsString> {
        self.protect_with(&self.state, &self.source, &self.tap())
    }

    fn protect_with(&self, state: &Path, source: &Path, tap: &str) -> Vec<OsString> {
        let mut volume = OsString::from("db=");
        volume.push(source);
        let mut args = words(&["protect", "--tracker", "tap", "--nbd", tap]);
        args.extend([volume, "--state".into(), state.into()]);
        args.extend(self.protect.iter().cloned());
        self.args(&args)
    }

    /// A receiver that does not come up, answering elsewhere.
    #[track_caller]
    pub(crate) fn serve_at(&self, store: &Path, socket: &Path) -> Call {
        let serve = ["serve".as_ref(), store.as_os_str(), "--listen".as_ref(), "127.0.0.1:0".as_ref()];
        call(&self.args(&[words(&serve), words(&["--socket".as_ref(), socket.as_os_str()])].concat()))
    }

    pub(crate) fn kill_receiver(&mut self) {
        self.note_memory();
        self.receiver.take().unwrap().kill();
    }

    pub(crate) fn kill_agent(&mut self) {
        self.note_memory();
        self.agent.take().unwrap().kill();
    }

    /// Until it has ended itself.
    #[track_caller]
    pub(crate) fn wait_receiver_killed(&mut self) {
        self.receiver.take().unwrap().wait_killed();
    }

    /// Until it has ended itself.
    #[track_caller]
    pub(crate) fn wait_agent_killed(&mut self) {
        self.agent.take().unwrap().wait_killed();
    }

    #[track_caller]
    pub(crate) fn stop_receiver(&mut self) {
        self.note_memory();
        self.receiver.take().unwrap().stop();
    }

    #[track_caller]
    pub(crate) fn stop_agent(&mut self) {
        self.note_memory();
        self.agent.take().unwrap().stop();
    }

    pub(crate) fn note_memory(&mut self) {
        let of = |process: &Option<Process>| process.as_ref().map_or(0, Process::memory_max_kib);
        let (receiver, agent) = self.memory_max_kib;
        self.memory_max_kib = (receiver.max(of(&self.receiver)), agent.max(of(&self.agent)));
    }

    /// A string that lets this agent in.
    pub(crate) fn invitation(&self, agent: &str, more: &[&str]) -> String {
        let address = self.address.as_ref().unwrap_or(&self.listen);
        let args = [&["invite", agent, "--address", address], more].concat();
        self.ask(&args).document()["invitation"].as_str().unwrap().to_owned()
    }

    pub(crate) fn join(&self) {
        self.join_with(&self.invitation("host", &[]), &self.state).document();
    }

    pub(crate) fn join_with(&self, invitation: &str, state: &Path) -> Call {
        let args = words(&["join".as_ref(), invitation.as_ref(), "--state".as_ref(), state.as_os_str()]);
        call(&self.args(&args))
    }

    /// Calls a verb that the receiver answers.
    #[track_caller]
    pub(crate) fn ask(&self, args: &[&str]) -> Call {
        let socket = self.socket();
        let args = [words(args), words(&["--socket".as_ref(), socket.as_os_str()])].concat();
        call(&self.args(&args))
    }

    /// Starts a verb that the receiver serves until it is stopped; what it says of itself is in `serving.log`.
    pub(crate) fn serve(&self, args: &[&str]) -> Process {
        let socket = self.socket();
        let args = [words(args), words(&["--socket".as_ref(), socket.as_os_str()])].concat();
        Process::start(&self.path("serving.log"), &self.args(&args))
    }

    /// What the agent says by itself of a group.
    pub(crate) fn agent_status(&self) -> Value {
        self.status_of(&self.state)
    }

    /// Restores the volume as of `at` to a file or device.
    #[track_caller]
    pub(crate) fn restore(&self, at: &str, to: &Path, more: &[&str]) -> Call {
        let to = to.to_str().unwrap();
        self.ask(&[&["restore", "db", "--at", at, "--to", to], more].concat())
    }

    /// Words that come after a config file with nothing in it.
    pub(crate) fn args(&self, args: &[OsString]) -> Vec<OsString> {
        let config = [OsString::from("--config"), self.path("none.toml").into()];
        config.into_iter().chain(args.iter().cloned()).collect()
    }

    fn socket(&self) -> PathBuf {
        self.store.join("control.sock")
    }

    /// How the group is; `None` while no receiver answers, or it does not know the group.
    pub(crate) fn look(&self) -> Option<Value> {
        look(&self.socket(), "db")
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        self.look().expect("the receiver answers")
    }

    pub(crate) fn state(&self) -> String {
        self.status()["state"].as_str().unwrap().to_owned()
    }

    /// The state of another group.
    pub(crate) fn state_of(&self, group: &str) -> Option<String> {
        look(&self.socket(), group)?["state"].as_str().map(str::to_owned)
    }

    /// Bytes of the view as of `at`, or the document that says why not. An answer that is cut off is an error.
    pub(crate) fn read(&self, at: &str, offset: u64, length: u64) -> std::io::Result<Result<Vec<u8>, Value>> {
        let path = format!("/v1/read?group=db&at={at}&offset={offset}&length={length}");
        let (status, body) = request(&self.socket(), "GET", &path, "")?;
        Ok(if status == 200 { Ok(body) } else { Err(serde_json::from_slice(&body).unwrap()) })
    }

    /// The whole volume as of `at`.
    #[track_caller]
    pub(crate) fn image(&self, at: &str) -> Vec<u8> {
        let path = format!("/v1/read?group=db&at={at}");
        let (status, body) = request(&self.socket(), "GET", &path, "").unwrap();
        assert_eq!(status, 200, "at {at}: {}\n{}", String::from_utf8_lossy(&body), self.words());
        body
    }

    /// The newest point is what the source holds.
    #[track_caller]
    pub(crate) fn assert_same(&self) {
        assert_equal(&self.image("latest"), &fs::read(&self.source).unwrap());
    }

    /// The replica image is the newest point, once it has caught up; nobody writes meanwhile.
    #[track_caller]
    pub(crate) fn assert_image(&mut self) {
        self.settle();
        let durable = || self.look().filter(|status| status["rpo_seconds"].as_f64() == Some(0.0));
        let durable = wait_for("all durable", durable, || self.words())["receivers"][0]["durable"].as_u64();
        let applied = || self.look().filter(|status| status["receivers"][0]["applied"].as_u64() >= durable);
        let status = wait_for("applied", applied, || self.words());
        let image = fs::read(status["volumes"][0]["image"].as_str().unwrap()).unwrap();
        assert_equal(&image, &self.image("latest"));
    }

    /// Oldest and newest covered instant.
    #[track_caller]
    pub(crate) fn window(&self) -> (u64, u64) {
        let status = self.status();
        window(&status).unwrap_or_else(|| panic!("nothing is covered: {status}"))
    }

    #[track_caller]
    pub(crate) fn gaps(&self) -> Vec<Gap> {
        let (status, body) = request(&self.socket(), "GET", "/v1/points?group=db&limit=1", "").unwrap();
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
        let points: Value = serde_json::from_slice(&body).unwrap();
        let gap = |gap: &Value| Gap { from: micros(&gap["from"]).unwrap(), to: micros(&gap["to"]) };
        points["gaps"].as_array().unwrap().iter().map(gap).collect()
    }

    /// As [`gaps`](Self::gaps), once none is open: with a small spool one may open again at any time.
    #[track_caller]
    pub(crate) fn closed_gaps(&self) -> Vec<Gap> {
        let closed = || Some(self.gaps()).filter(|gaps| gaps.iter().all(|gap| gap.to.is_some()));
        wait_for("no gap", closed, || self.words())
    }

    /// Until what was written up to now is durable: a mark says so. The agent that runs now is then the one that the receiver
    /// talks to.
    #[track_caller]
    pub(crate) fn wait_durable(&mut self) {
        self.mark("now");
    }

    /// Names this instant, as soon as that can be done.
    #[track_caller]
    pub(crate) fn mark(&self, name: &str) {
        self.mark_of("db", name);
    }

    /// Names this instant of another group.
    #[track_caller]
    pub(crate) fn mark_of(&self, group: &str, name: &str) {
        let socket = self.state.join("agent.sock");
        let asked = json!({"group": group, "name": name}).to_string();
        let marked = || request(&socket, "POST", "/v1/mark", &asked).is_ok_and(|(status, _)| status == 200);
        wait_for("durable", || marked().then_some(()), || self.words());
    }

    /// Until the group is in this state.
    #[track_caller]
    pub(crate) fn wait_state(&self, state: &str) -> Value {
        let reached = || self.look().filter(|status| status["state"] == state);
        wait_for(state, reached, || self.words())
    }

    /// Until the first copy or the comparison is over, and all up to now is durable.
    #[track_caller]
    pub(crate) fn settle(&mut self) {
        self.wait_durable();
        self.wait_state("live");
    }

    /// All that there is to be said when something went wrong.
    pub(crate) fn words(&self) -> String {
        let last = |process: &Option<Process>| process.as_ref().map_or(String::new(), Process::last_words);
        let status = self.look().unwrap_or_default();
        format!("{status}\nreceiver: {}\nagent: {}", last(&self.receiver), last(&self.agent))
    }

    #[track_caller]
    pub(crate) fn assert_runs(&mut self) {
        self.receiver.as_mut().unwrap().assert_runs();
        self.agent.as_mut().unwrap().assert_runs();
    }
}

fn start(log: &Path, args: &[OsString], failpoints: Option<String>) -> Process {
    match failpoints {
        Some(failpoints) => Process::start_armed(log, args, &failpoints),
        None => Process::start(log, args),
    }
}

/// Says where they differ, if they do.
#[track_caller]
pub(crate) fn assert_equal(found: &[u8], expect: &[u8]) {
    assert_eq!(found.len(), expect.len());
    let differs = found.chunks(512).zip(expect.chunks(512)).position(|(found, expect)| found != expect);
    assert_eq!(differs, None, "the first sector that differs");
}

/// Bytes that cannot be compressed, other ones for each seed.
pub(crate) fn random(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let words = std::iter::repeat_with(move || rng.next_u64().to_le_bytes());
    words.flatten().take(length).collect()
}

fn try_status(state: &Path) -> Option<Value> {
    let (_, body) = request(&state.join("agent.sock"), "GET", "/v1/status", "").ok()?;
    Some(serde_json::from_slice::<Value>(&body).ok()?["groups"][0].clone())
}

/// A group's status as the receiver at this socket has it.
pub(crate) fn look(socket: &Path, group: &str) -> Option<Value> {
    let (_, body) = request(socket, "GET", "/v1/status", "").ok()?;
    let status: Value = serde_json::from_slice(&body).ok()?;
    status["groups"].as_array()?.iter().find(|known| known["name"] == group).cloned()
}

/// What a status says is covered.
pub(crate) fn window(status: &Value) -> Option<(u64, u64)> {
    Some((micros(&status["window"]["from"])?, micros(&status["window"]["to"])?))
}

fn micros(time: &Value) -> Option<u64> {
    let time: jiff::Timestamp = time.as_str()?.parse().unwrap();
    Some(u64::try_from(time.as_microsecond()).unwrap())
}

/// An instant as the control API takes it.
pub(crate) fn at(micros: u64) -> String {
    format!("@{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
