//! What the demo plays on: a receiver, an agent, a volume, and a workload that keeps a record of its own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oracle::{Fill, History, Hot, Micros, Recorder, SizeShare, Stats, Volume, Workload, WorkloadError, fill_initial};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::GROUP;
use super::process::{CONFIG, Process, call};
use crate::client::Client;
use crate::error::Failure;
use crate::output::{list, text};

/// Everything that runs.
#[derive(Debug)]
pub(super) struct Stage {
    dir: PathBuf,
    volume: Volume,
    receiver: Process,
    agent: Option<Process>,
    recorder: Arc<Recorder>,
    stop: Arc<AtomicBool>,
    load: Option<JoinHandle<Result<Stats, WorkloadError>>>,
    /// The first instant from which on there are points.
    covered_from: Micros,
    /// The largest age of an undurable change that was reported.
    rpo_reported: f64,
}

/// What is left afterwards.
#[derive(Debug)]
pub(super) struct Disaster {
    /// What the workload knows.
    pub(super) history: Arc<History>,
    /// Between these there are points.
    pub(super) covered: (Micros, Micros),
    /// When the agent was gone.
    pub(super) killed: Micros,
    /// The largest age of an undurable change that was reported, in seconds.
    pub(super) rpo_reported: f64,
}

impl Stage {
    /// Starts all of it in an empty directory; the workload writes from the first moment.
    pub(super) async fn set(dir: &Path, size: u64) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::caused("cannot make the volume", &error);
        std::fs::write(dir.join(CONFIG), "").map_err(failed)?;
        let volume = Volume { fill: Fill::Half, ..Volume::new(Micros::now().0, size) };
        fill_initial(&source(dir), &volume).map_err(failed)?;
        let store = dir.join("store");
        let mut receiver =
            Process::start(dir, "receiver", &words(&["serve", "--listen", "127.0.0.1:0"], &[("", &store)]))?;
        let ready = receiver.event().await?;
        let address = text(&ready, "listen").ok_or_else(|| Failure::new("E0103", "the receiver names no address"))?;
        let body = json!({"agent": GROUP, "ttl_seconds": 60, "address": address});
        let invited = Client::new(vec![store.join("control.sock")]).post("/v1/invite", &body).await?;
        let invitation = text(&invited, "invitation").unwrap_or_default();
        let state = dir.join("state");
        call(dir, &words(&["join", invitation], &[("--state", &state)])).await?;
        let protected = format!("{GROUP}={}", source(dir).display());
        let nbd = format!("unix:{}", tap(dir).display());
        let protect = ["protect", &protected, "--tracker", "tap", "--nbd", &nbd];
        let agent = Process::start(dir, "agent", &words(&protect, &[("--state", &state)]))?;
        let mut stage = Self {
            dir: dir.to_owned(),
            volume,
            receiver,
            agent: Some(agent),
            recorder: Arc::new(Recorder::in_memory(volume)),
            stop: Arc::new(AtomicBool::new(false)),
            load: None,
            covered_from: Micros(0),
            rpo_reported: 0.0,
        };
        stage.start_load().await?;
        Ok(stage)
    }

    /// A client of the receiver.
    pub(super) fn client(&self) -> Client {
        Client::new(vec![self.dir.join("store/control.sock")])
    }

    /// The volume that is protected.
    pub(super) fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Where a restored image goes.
    pub(super) fn restored(&self) -> PathBuf {
        self.dir.join("restored.img")
    }

    /// Waits until the first copy is whole: from then on every write is a point.
    pub(super) async fn first_copy(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        while self.look().await?.is_none_or(|(state, _)| state != "live") {
            if started.elapsed() > FIRST_COPY_MAX {
                return Err(Failure::new("E0101", "the first copy does not end"));
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        self.covered_from = Micros::now();
        Ok(())
    }

    /// Lets the workload write for so long; returns the mark that is set on the way.
    pub(super) async fn live(&mut self, length: Duration) -> Result<Value, Failure> {
        self.watch(length / 2).await?;
        let body = json!({"group": GROUP, "name": "before-the-disaster", "lock_seconds": null});
        let agent = Client::new(vec![self.dir.join("state/agent.sock")]);
        let marked = agent.post("/v1/mark", &body).await?;
        self.watch(length / 2).await?;
        marked.get("point").cloned().ok_or_else(|| Failure::new("E0103", "the agent's mark has no point"))
    }

    /// SIGKILL for the agent in the middle of the writes, and garbage over the whole source.
    pub(super) async fn disaster(&mut self) -> Result<Disaster, Failure> {
        if let Some(agent) = self.agent.take() {
            agent.kill().await?;
        }
        let killed = Micros::now();
        self.stop.store(true, Ordering::Relaxed);
        if let Some(load) = self.load.take() {
            load.await
                .map_err(|error| Failure::caused("the workload", &error))?
                .map_err(|error| Failure::new("E0101", format!("the workload: {error}")))?;
        }
        let failed = |error: std::io::Error| Failure::caused("cannot overwrite the source", &error);
        overwrite(&source(&self.dir), self.volume.size_bytes).map_err(failed)?;
        let covered_to = self.settled().await?;
        let history = Arc::new(self.recorder.history());
        let covered = (self.covered_from, covered_to);
        Ok(Disaster { history, covered, killed, rpo_reported: self.rpo_reported })
    }

    /// Stops the receiver; the agent is gone already.
    pub(super) async fn close(self) -> Result<(), Failure> {
        self.receiver.stop().await
    }

    async fn start_load(&mut self) -> Result<(), Failure> {
        let started = Instant::now();
        while tokio::net::UnixStream::connect(tap(&self.dir)).await.is_err() {
            self.check().await?;
            if started.elapsed() > FIRST_COPY_MAX {
                return Err(Failure::new("E0101", "the tap does not come up"));
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        let load = Workload {
            connections: 4,
            sizes: [(4096, 8), (16_384, 2), (65_536, 1)].map(|(bytes, weight)| SizeShare { bytes, weight }).to_vec(),
            hot: Some(Hot { bytes: self.volume.size_bytes / 16, percent: 50 }),
            seed: self.volume.seed,
            rate: Some(2000),
            flush_every: Some(64),
            fua_percent: 5,
            zero_percent: 3,
            trim_percent: 3,
            ..Workload::new(&format!("unix:{}", tap(&self.dir).display()), "")
        };
        let (recorder, stop) = (Arc::clone(&self.recorder), Arc::clone(&self.stop));
        self.load = Some(tokio::task::spawn_blocking(move || load.run(&recorder, &stop)));
        Ok(())
    }

    async fn watch(&mut self, length: Duration) -> Result<(), Failure> {
        let end = Instant::now() + length;
        while Instant::now() < end {
            self.check().await?;
            if let Some((_, Some(rpo))) = self.look().await? {
                self.rpo_reported = self.rpo_reported.max(rpo);
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        Ok(())
    }

    /// State and RPO as the receiver reports them; none before it knows the group.
    async fn look(&mut self) -> Result<Option<(String, Option<f64>)>, Failure> {
        self.check().await?;
        let status = self.client().get("/v1/status", &[]).await?;
        let group = list(&status, "groups").iter().find(|group| text(group, "name") == Some(GROUP));
        Ok(group.map(|group| {
            let rpo = group.get("rpo_seconds").and_then(Value::as_f64);
            (text(group, "state").unwrap_or_default().to_owned(), rpo)
        }))
    }

    /// The newest covered instant, once it does not move any more: what was under way has arrived.
    async fn settled(&self) -> Result<Micros, Failure> {
        let mut last = None;
        loop {
            let status = self.client().get("/v1/status", &[("group", GROUP.to_owned())]).await?;
            let window = list(&status, "groups").first().and_then(|group| group.get("window"));
            let to = window.and_then(|window| text(window, "to")).and_then(micros);
            match to {
                Some(to) if last == Some(to) => return Ok(to),
                Some(_) => last = to,
                None => return Err(Failure::new("E0103", "the receiver says that nothing is covered")),
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
    }

    async fn check(&mut self) -> Result<(), Failure> {
        self.receiver.check().await?;
        match &mut self.agent {
            Some(agent) => agent.check().await,
            None => Ok(()),
        }
    }
}

/// The instant of a document's time.
pub(super) fn micros(time: &str) -> Option<Micros> {
    time.parse::<jiff::Timestamp>().ok().and_then(|time| u64::try_from(time.as_microsecond()).ok()).map(Micros)
}

fn source(dir: &Path) -> PathBuf {
    dir.join("volume.img")
}

fn tap(dir: &Path) -> PathBuf {
    dir.join("tap.sock")
}

/// A verb's words, and then flags with paths; a flag without a name is a plain argument.
fn words(words: &[&str], paths: &[(&str, &Path)]) -> Vec<OsString> {
    let mut all: Vec<OsString> = words.iter().map(OsString::from).collect();
    for (flag, path) in paths {
        all.extend(Some(OsString::from(flag)).filter(|flag| !flag.is_empty()));
        all.push(path.into());
    }
    all
}

/// What a disaster leaves: nothing of what was there.
fn overwrite(path: &Path, size: u64) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::options().write(true).open(path)?;
    let garbage = [0xdb; 1 << 16];
    for _ in 0..size / (1 << 16) {
        file.write_all(&garbage)?;
    }
    // Not synced: what the agent had in flight when it was killed may still land, and an fsync would report that race.
    Ok(())
}

const BETWEEN_LOOKS: Duration = Duration::from_millis(100);
const FIRST_COPY_MAX: Duration = Duration::from_secs(120);
