//! A receiver and an agent as real processes, protecting a volume through the tap.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Process, run, until};
use crate::table::{Aim, Row};

const AGENT_LOG: &str = "agent.log";
/// In the header of a segment: which kind it is, and the number of bases.
const KIND_AT: usize = 14;
const BASE: u8 = 2;
/// Name of the only group.
const GROUP: &str = "bench";

/// Both processes. Dropped, the agent stops first.
#[derive(Debug)]
pub struct Stage {
    agent: Process,
    receiver: Process,
    dir: PathBuf,
    /// What the agent is started with.
    call: Vec<OsString>,
    started: Instant,
}

impl Stage {
    /// Starts both, of `program`, in `dir`; returns as soon as the tap accepts, when the first copy of `source` has just begun.
    pub fn set(program: &Path, dir: &Path, source: &Path) -> Result<Self> {
        Self::set_with(program, dir, source, &[])
    }

    /// As [`set`](Self::set), with more words for `protect`.
    pub fn set_with(program: &Path, dir: &Path, source: &Path, more: &[&str]) -> Result<Self> {
        let command = |args: &[&str]| {
            let mut command = Command::new(program);
            command.arg("--config").arg(dir.join("empty.toml")).args(args);
            command
        };
        std::fs::write(dir.join("empty.toml"), "")?;
        let (store, state) = (dir.join("store"), dir.join("state"));
        let mut serve = command(&["serve", "--listen", "127.0.0.1:0"]);
        let mut receiver = Process::start(serve.arg(&store), &dir.join("receiver.log"))?;
        let mut line = String::new();
        BufReader::new(receiver.stdout()?).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).context("the receiver did not come up")?;
        let address = ready["listen"].as_str().context("the receiver names no address")?;
        let control = store.join("control.sock");
        let invitation = run(command(&["invite", GROUP, "--address", address, "--socket"]).arg(&control))?;
        run(command(&["join", invitation.trim(), "--state"]).arg(&state))?;
        let volume = format!("{GROUP}={}", source.display());
        let tap = format!("unix:{}", tap(dir).display());
        let mut protect = command(&["protect", &volume, "--tracker", "tap", "--nbd", &tap, "--state"]);
        protect.arg(&state).args(more);
        let call = std::iter::once(protect.get_program()).chain(protect.get_args()).map(ToOwned::to_owned).collect();
        let (agent, started) = agent(dir, &call)?;
        Ok(Self { agent, receiver, dir: dir.to_owned(), call, started })
    }

    /// Stops the agent as one does, or kills it, and starts it again; what is done in between is done by `meanwhile`.
    pub fn restart_agent(&mut self, kill: bool, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
        if kill {
            self.agent.signal(Signal::KILL)?;
        }
        self.agent.stop()?;
        meanwhile()?;
        (self.agent, self.started) = agent(&self.dir, &self.call)?;
        Ok(())
    }

    /// What the agent that runs has said.
    pub fn agent_log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.join(AGENT_LOG))?)
    }

    /// Bytes that the agent which runs has read from disks.
    pub fn agent_read_bytes(&self) -> Result<u64> {
        self.agent.read_bytes()
    }

    /// Bytes of all that the receiver keeps of first copies, comparisons and resyncs, indexes included.
    pub fn base_bytes(&self) -> Result<u64> {
        base_bytes(&self.store())
    }

    /// How long ago the agent was started.
    pub fn since_start(&self) -> Duration {
        self.started.elapsed()
    }

    /// Where clients reach the volume.
    pub fn tap(&self) -> PathBuf {
        tap(&self.dir)
    }

    /// What `status` says of the group; null before the receiver knows it.
    ///
    /// Asked over the socket, not with the program: to start one for each question would cost more than what is measured.
    pub fn status(&self) -> Result<Value> {
        self.ask("store/control.sock")
    }

    /// The same, of the agent.
    pub fn agent_status(&self) -> Result<Value> {
        self.ask("state/agent.sock")
    }

    /// Where the receiver keeps what it has.
    pub fn store(&self) -> PathBuf {
        self.dir.join("store")
    }

    /// Stops the receiver in its tracks, or lets it go on.
    pub fn hold_receiver(&self, hold: bool) -> Result<()> {
        self.receiver.signal(if hold { Signal::STOP } else { Signal::CONT })
    }

    fn ask(&self, socket: &str) -> Result<Value> {
        let mut socket = UnixStream::connect(self.dir.join(socket))?;
        socket.write_all(b"GET /v1/status HTTP/1.1\r\nhost: backspool\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let mut document: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
        Ok(document.pointer_mut("/groups/0").map_or(Value::Null, Value::take))
    }

    /// Waits until the first copy is durable and everything since.
    pub fn live(&self) -> Result<()> {
        until(|| {
            let group = self.status()?;
            Ok(group["state"] == "live" && group["rpo_seconds"].as_f64() == Some(0.0))
        })
    }

    /// Waits until the replica image has followed all of it as well.
    pub fn applied(&self) -> Result<()> {
        until(|| {
            let receiver = &self.status()?["receivers"][0];
            Ok(!receiver["applied"].is_null() && receiver["applied"] == receiver["durable"])
        })
    }

    /// What both have taken of the memory so far.
    pub fn memory(&self, after: &str) -> Result<Vec<Row>> {
        let row = |who: &str, process: &Process| {
            let what = format!("{who}, most resident memory, after {after}");
            let ours = [process.peak_mebibytes()?].into_iter().collect();
            anyhow::Ok(Row { what, unit: "MiB", ours, floor: None, aim: Aim::AtMost(256.0) })
        };
        Ok(vec![row("agent", &self.agent)?, row("receiver", &self.receiver)?])
    }
}

/// Starts an agent; returns as soon as its tap accepts.
fn agent(dir: &Path, call: &Vec<OsString>) -> Result<(Process, Instant)> {
    let [program, args @ ..] = call.as_slice() else { anyhow::bail!("nothing to call") };
    let started = Instant::now();
    let mut agent = Process::start(Command::new(program).args(args), &dir.join(AGENT_LOG))?;
    agent.listens(&tap(dir))?;
    Ok((agent, started))
}

/// Bytes of all segments of bases below `dir`.
fn base_bytes(dir: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            sum += base_bytes(&path)?;
        } else if path.extension().is_some_and(|end| end == "seg") {
            let mut header = [0; 64];
            let mut file = File::open(&path)?;
            file.read_exact(&mut header)?;
            if header.get(KIND_AT) == Some(&BASE) {
                sum += file.metadata()?.len();
            }
        }
    }
    Ok(sum)
}

fn tap(dir: &Path) -> PathBuf {
    dir.join("tap.sock")
}
