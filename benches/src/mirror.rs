//! The rival that does the same job without history, encryption or checksums: QEMU's storage daemon, which serves a file over
//! NBD and mirrors it in the background to another NBD server.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::process::{Process, nbdkit, until};

/// Its processes.
#[derive(Debug)]
pub struct Mirror {
    socket: PathBuf,
    monitor: RefCell<Monitor>,
    _daemon: Process,
    _target: Process,
}

impl Mirror {
    /// Mirrors `source` to `target`, both files of the same size, with sockets in `dir`; returns once they are equal.
    pub fn start(dir: &Path, source: &Path, target: &Path) -> Result<Self> {
        let (socket, control, behind) = (dir.join("mirror.sock"), dir.join("qmp.sock"), dir.join("target.sock"));
        let target = nbdkit(target, &behind)?;
        let mut command = Command::new("qemu-storage-daemon");
        command.arg("--chardev").arg(format!("socket,id=c,path={},server=on,wait=off", control.display()));
        command.args(["--monitor", "chardev=c", "--blockdev"]);
        command.arg(format!("driver=file,node-name=file,filename={},cache.direct=on,aio=io_uring", source.display()));
        command.args(["--blockdev", "driver=raw,node-name=source,file=file", "--nbd-server"]);
        command.arg(format!("addr.type=unix,addr.path={}", socket.display()));
        command.args(["--export", "type=nbd,id=e,node-name=source,name=,writable=on"]);
        let mut daemon = Process::start(&mut command, &dir.join("mirror.log"))?;
        daemon.listens(&socket)?;
        let mut monitor = Monitor::connect(&control)?;
        let server = json!({"type": "unix", "path": behind});
        monitor.execute("blockdev-add", json!({"driver": "nbd", "node-name": "target", "server": server}))?;
        let job = json!({"job-id": "mirror", "device": "source", "target": "target", "sync": "full",
            "copy-mode": "background", "granularity": 65536});
        monitor.execute("blockdev-mirror", job)?;
        until(|| Ok(monitor.execute("query-block-jobs", json!({}))?[0]["ready"] == true))?;
        Ok(Self { socket, monitor: RefCell::new(monitor), _daemon: daemon, _target: target })
    }

    /// Waits until the target is equal again.
    pub fn settle(&self) -> Result<()> {
        until(|| {
            let jobs = self.monitor.borrow_mut().execute("query-block-jobs", json!({}))?;
            Ok(jobs[0]["len"] == jobs[0]["offset"])
        })
    }

    /// Where clients reach it.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// The daemon's control socket.
#[derive(Debug)]
struct Monitor(BufReader<UnixStream>);

impl Monitor {
    fn connect(socket: &Path) -> Result<Self> {
        let mut monitor = Self(BufReader::new(UnixStream::connect(socket)?));
        monitor.line()?;
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        writeln!(self.0.get_mut(), "{}", json!({"execute": command, "arguments": arguments}))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            // Events come in between.
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
        }
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        serde_json::from_str(&line).context("the storage daemon is gone")
    }
}
