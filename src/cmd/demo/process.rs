//! A child process of this same binary: started, watched, killed, stopped.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::error::Failure;

/// One that runs until it is stopped. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// Its stderr.
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says on stderr goes to `NAME.log` in `dir`.
    pub(super) fn start(dir: &Path, name: &'static str, args: &[OsString]) -> Result<Self, Failure> {
        let log = dir.join(format!("{name}.log"));
        let refused = |error: std::io::Error| Failure::caused(format!("cannot start the {name}"), &error);
        let file = File::create(&log).map_err(refused)?;
        let mut child =
            command(dir, args).map_err(refused)?.stdout(Stdio::piped()).stderr(file).spawn().map_err(refused)?;
        let stdout =
            child.stdout.take().ok_or_else(|| Failure::new("E0101", "a pipe that was asked for is missing"))?;
        Ok(Self { name, child, stdout: BufReader::new(stdout), log })
    }

    /// The next line of its stdout, a document.
    pub(super) async fn event(&mut self) -> Result<Value, Failure> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.stdout.read_line(&mut line)).await;
        match read {
            Ok(Ok(length)) if length > 0 => serde_json::from_str(&line)
                .map_err(|_| Failure::new("E0103", format!("the {} says {line:?}", self.name))),
            _ => Err(self.died("did not come up").await),
        }
    }

    /// An error once it has ended.
    pub(super) async fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(self.died("ended").await),
        }
    }

    /// SIGKILL: it gets no chance to put anything in order.
    pub(super) async fn kill(mut self) -> Result<(), Failure> {
        self.child.kill().await.map_err(|error| Failure::caused(format!("cannot kill the {}", self.name), &error))
    }

    /// SIGTERM: a clean stop, which is a promise of every long-running verb.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)
                .map_err(|error| Failure::caused(format!("cannot stop the {}", self.name), &error))?;
        }
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            _ => Err(self.died("did not stop cleanly").await),
        }
    }

    async fn died(&mut self, how: &str) -> Failure {
        _ = self.child.kill().await;
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        Failure::new("E0101", format!("the {} {how}: {}", self.name, last.join("; ")))
    }
}

/// Calls a verb that ends by itself.
pub(super) async fn call(dir: &Path, args: &[OsString]) -> Result<(), Failure> {
    let refused = |error: std::io::Error| Failure::caused("cannot call ourselves", &error);
    let output = command(dir, args).map_err(refused)?.output().await.map_err(refused)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(serde_json::from_slice(&output.stderr)
            .ok()
            .as_ref()
            .and_then(Failure::from_document)
            .unwrap_or_else(|| Failure::new("E0101", String::from_utf8_lossy(&output.stderr).into_owned()))),
    }
}

/// `dir` holds an empty config file, so that this machine's own is not read.
fn command(dir: &Path, args: &[OsString]) -> std::io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--json").arg("--config").arg(dir.join(CONFIG)).args(args).stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// Name of the empty config file.
pub(super) const CONFIG: &str = "demo.toml";

/// Longer than the 10 seconds in which a clean stop is promised.
const PATIENCE: Duration = Duration::from_secs(12);
