//! The real binary as a child: a verb in the foreground, or one that ends by itself.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use journal::failpoint::VARIABLE;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, wait_for};

/// A verb that runs until it is stopped. Dropped, it is killed.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    /// Its stderr, and that of those before it.
    log: PathBuf,
}

/// What a call left behind.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Process {
    /// Starts it; its stderr is added to `log`.
    pub(crate) fn start(log: &Path, args: &[OsString]) -> Self {
        Self::spawn(log, command(args))
    }

    /// The same, with failpoints.
    pub(crate) fn start_armed(log: &Path, args: &[OsString], failpoints: &str) -> Self {
        let mut command = command(args);
        command.env(VARIABLE, failpoints);
        Self::spawn(log, command)
    }

    /// The same in a network namespace. The process is ours all the same: `ip` becomes it.
    pub(crate) fn start_in(namespace: &str, log: &Path, args: &[OsString]) -> Self {
        let inner = command(args);
        let mut outer = Command::new("ip");
        outer.args(["netns", "exec", namespace]).arg(inner.get_program()).args(inner.get_args());
        Self::spawn(log, outer)
    }

    /// The same as in another boot of the machine, which has just begun; the file is the boot's id.
    pub(crate) fn start_booted(id: &Path, log: &Path, args: &[OsString]) -> Self {
        let uptime = fs::read_to_string("/proc/uptime").unwrap();
        let (seconds, _) = uptime.split_once('.').unwrap();
        let inner = command(args);
        let mut outer = Command::new("unshare");
        outer.args(["--mount", "--time", &format!("--boottime=-{seconds}")]);
        let become_it = r#"mount --bind "$1" /proc/sys/kernel/random/boot_id && shift && exec "$@""#;
        outer.args(["sh", "-c", become_it, "sh"]).arg(id).arg(inner.get_program()).args(inner.get_args());
        Self::spawn(log, outer)
    }

    fn spawn(log: &Path, mut command: Command) -> Self {
        let stderr = File::options().create(true).append(true).open(log).unwrap();
        command.env("TZ", "UTC").stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(stderr).spawn().unwrap();
        let (sender, lines) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, log: log.to_owned() }
    }

    /// The next line of its stdout.
    #[track_caller]
    pub(crate) fn event(&mut self) -> Value {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => serde_json::from_str(&line).unwrap(),
            Err(_) => panic!("it says nothing: {:?}\n{}", self.child.try_wait(), self.last_words()),
        }
    }

    /// SIGKILL, and until it is gone.
    pub(crate) fn kill(mut self) {
        self.end();
    }

    /// For one thing: SIGSTOP, and it stands still until SIGCONT.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// SIGTERM, which must be a clean stop.
    #[track_caller]
    pub(crate) fn stop(mut self) {
        assert_eq!(self.terminate(), 0, "{}", self.last_words());
    }

    /// SIGTERM; its exit status.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> i32 {
        kill_process(self.pid(), Signal::TERM).unwrap();
        let Self { child, log, .. } = self;
        let exit = wait_for("stopped", || child.try_wait().unwrap(), || last_words(log));
        exit.code().unwrap_or(-1)
    }

    /// Its exit status, once it has ended by itself.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> i32 {
        let Self { child, log, .. } = self;
        let exit = wait_for("ended", || child.try_wait().unwrap(), || last_words(log));
        exit.code().unwrap_or(-1)
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Until it has ended itself by SIGKILL.
    #[track_caller]
    pub(crate) fn wait_killed(mut self) {
        let Self { child, log, .. } = &mut self;
        let ended = wait_for("killed", || child.try_wait().unwrap(), || last_words(log));
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{ended:?}\n{}", self.last_words());
    }

    /// Whether it stands still.
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    #[track_caller]
    pub(crate) fn assert_runs(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "it ended: {ended:?}\n{}", self.last_words());
    }

    /// The most memory it ever had, in KiB.
    pub(crate) fn memory_max_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn last_words(&self) -> String {
        last_words(&self.log)
    }

    fn end(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Call {
    /// The one line of JSON on stdout.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        assert_eq!(self.exit, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Exit status and message of a verb that failed.
    #[track_caller]
    pub(crate) fn failure(&self) -> (i32, String) {
        let last = self.stderr.lines().last().unwrap_or_default();
        let error: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        assert_eq!(error["exit"].as_i64(), Some(self.exit.into()), "{self:?}");
        (self.exit, error["message"].as_str().unwrap().to_owned())
    }

    /// It failed with this exit status and says this.
    #[track_caller]
    pub(crate) fn refused(&self, exit: i32, says: &str) {
        let (found, message) = self.failure();
        assert!(found == exit && message.contains(says), "not {exit} and {says:?}: {self:?}");
    }
}

/// Calls a verb that ends by itself.
#[track_caller]
pub(crate) fn call(args: &[OsString]) -> Call {
    let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_child(&child);
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let out = std::thread::spawn(move || std::io::read_to_string(&mut out).unwrap());
    let err = std::thread::spawn(move || std::io::read_to_string(&mut err).unwrap());
    let start = Instant::now();
    let exit = loop {
        if let Some(exit) = child.try_wait().unwrap() {
            break exit;
        }
        if start.elapsed() > PATIENCE {
            _ = kill_process(pid, Signal::KILL);
            panic!("{args:?} does not end: {} {}", out.join().unwrap(), err.join().unwrap());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    Call { exit: exit.code().unwrap_or(-1), stdout: out.join().unwrap(), stderr: err.join().unwrap() }
}

fn last_words(log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Text and paths as arguments.
pub(crate) fn words<'a>(words: impl IntoIterator<Item = &'a (impl AsRef<OsStr> + ?Sized + 'a)>) -> Vec<OsString> {
    words.into_iter().map(|word| word.as_ref().to_owned()).collect()
}

fn command(args: &[OsString]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backspool"));
    command.arg("--json").args(args).stdin(Stdio::null()).env("TZ", "UTC");
    command
}
