//! Other programs: started, waited for, measured, stopped.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long anything may take to come up or to stop.
const PATIENCE: Duration = Duration::from_secs(120);

/// One that runs until it is stopped. Dropped, it is told to stop and waited for.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
}

impl Process {
    /// Starts it; what it says on stderr goes to `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let name = command.get_program().display().to_string();
        let log = fs::File::create(log)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn();
        Ok(Self { child: child.with_context(|| format!("cannot start {name}"))?, name })
    }

    /// Its stdout; once.
    pub fn stdout(&mut self) -> Result<ChildStdout> {
        self.child.stdout.take().context("its output was taken already")
    }

    /// Most memory that was resident at a time, in MiB.
    pub fn peak_mebibytes(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kibibytes / 1024.0)
    }

    /// Bytes it has had read from disks so far.
    pub fn read_bytes(&self) -> Result<u64> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.child.id()))?;
        let line = io.lines().find_map(|line| line.strip_prefix("read_bytes:")).context("no read_bytes")?;
        Ok(line.trim().parse()?)
    }

    /// Waits until something accepts at `socket`.
    pub fn listens(&mut self, socket: &Path) -> Result<()> {
        let (name, child) = (self.name.clone(), &mut self.child);
        until(|| {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended with {status}");
            }
            Ok(std::os::unix::net::UnixStream::connect(socket).is_ok())
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id())?;
        Ok(kill_process(Pid::from_raw(id).context("no process has that id")?, signal)?)
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::TERM)?;
        }
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It has ended already, or the machine is beyond help.
        let _ = self.stop();
    }
}

/// Asks again and again until it is so.
pub fn until(mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !so()? {
        if start.elapsed() > PATIENCE {
            bail!("nothing happened for {} s", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Runs it to its end; returns what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Whether a program of that name can be run.
pub fn installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// `nbdkit file` in front of `image`, listening at `socket`.
pub fn nbdkit(image: &Path, socket: &Path) -> Result<Process> {
    let args: [&OsStr; 5] = ["-f".as_ref(), "-U".as_ref(), socket.as_ref(), "file".as_ref(), image.as_ref()];
    let mut nbdkit = Process::start(Command::new("nbdkit").args(args), &socket.with_extension("log"))?;
    nbdkit.listens(socket)?;
    Ok(nbdkit)
}

/// The URI of the only export behind `socket`.
pub fn uri(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

/// The product, built if need be.
pub fn backspool() -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let target = exe.ancestors().nth(2).context("not run by cargo")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    run(Command::new(cargo).args(["build", "--release", "--quiet", "--bin", "backspool"]).current_dir(root()))?;
    Ok(target.join("backspool"))
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
