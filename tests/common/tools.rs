//! Programs of the system, and what they leave behind: mounts, loop devices, FUSE. Each is taken back when it is dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};

use super::{skip, wait_for};

/// Whether these tests cannot run here, which is then said.
pub(crate) fn missing(more: &[&str]) -> bool {
    let tools = ["nbdfuse", "losetup", "mkfs.ext4", "e2fsck", "mount", "umount"];
    let installed = |tool: &&str| Command::new(tool).arg("--version").stdin(Stdio::null()).output().is_ok();
    let why = if !geteuid().is_root() {
        Some("not root".to_owned())
    } else if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
        Some("no FUSE, or no loop devices".to_owned())
    } else {
        tools.iter().chain(more).find(|tool| !installed(tool)).map(|tool| format!("no {tool}"))
    };
    why.is_some_and(|why| {
        skip(&why);
        true
    })
}

/// Exit status, and all that was said.
#[track_caller]
pub(crate) fn status(words: &[&str]) -> (i32, String) {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).trim().to_owned())
}

/// What it says; it must work.
#[track_caller]
pub(crate) fn run(words: &[&str]) -> String {
    let (exit, said) = status(words);
    assert_eq!(exit, 0, "{words:?}: {said}");
    said
}

/// A file of which an NBD export is the content.
pub(crate) struct Fuse {
    child: Child,
    pid: PathBuf,
    pub(crate) file: PathBuf,
}

impl Fuse {
    /// `dir` and `pid` do not exist yet.
    pub(crate) fn mount(uri: &str, dir: &Path, pid: &Path) -> Self {
        std::fs::create_dir(dir).unwrap();
        let mut nbdfuse = Command::new("nbdfuse");
        // It says by which signal it was ended.
        nbdfuse.arg("-P").arg(pid).arg(dir).arg(uri).stdin(Stdio::null()).stderr(Stdio::null());
        let child = nbdfuse.spawn().unwrap();
        let mut fuse = Self { child, pid: pid.to_owned(), file: dir.join("nbd") };
        let mounted = || {
            assert_eq!(fuse.child.try_wait().unwrap(), None, "nbdfuse ended");
            pid.exists().then_some(())
        };
        wait_for("mounted", mounted, || "nbdfuse runs".to_owned());
        fuse
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // It fails only on a process that has ended.
        _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        _ = self.child.wait();
        // There may be another one in its place.
        _ = std::fs::remove_file(&self.pid);
        _ = self.file.parent().map(std::fs::remove_dir);
    }
}

/// A block device of which a file is the content.
pub(crate) struct Loop {
    pub(crate) device: PathBuf,
}

impl Loop {
    /// On a file or a device; none without root.
    pub(crate) fn on(file: &Path) -> Option<Self> {
        let (exit, device) = status(&["losetup", "--find", "--show", file.to_str().unwrap()]);
        if exit != 0 {
            skip(&format!("no loop device can be attached: {device}"));
            return None;
        }
        Some(Self { device: device.into() })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        _ = status(&["losetup", "--detach", self.device.to_str().unwrap()]);
    }
}

/// A file system in use.
pub(crate) struct Mounted {
    pub(crate) dir: PathBuf,
}

impl Mounted {
    /// A new ext4 of a device.
    #[track_caller]
    pub(crate) fn ext4(device: &Path, dir: PathBuf) -> Self {
        run(&["mkfs.ext4", "-q", "-F", device.to_str().unwrap()]);
        Self::of("ext4", device, dir)
    }

    /// What is on a device.
    #[track_caller]
    pub(crate) fn of(fs: &str, device: &Path, dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        run(&["mount", "-t", fs, device.to_str().unwrap(), dir.to_str().unwrap()]);
        Self { dir }
    }

    /// The same, with options.
    #[track_caller]
    pub(crate) fn with(fs: &str, device: &Path, dir: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&dir).unwrap();
        run(&["mount", "-t", fs, "-o", options, device.to_str().unwrap(), dir.to_str().unwrap()]);
        Self { dir }
    }

    /// Of a device, or with `loop` among the options of a file.
    #[track_caller]
    pub(crate) fn new(what: &Path, dir: PathBuf, options: &str) -> Self {
        Self::with("ext4", what, dir, options)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let dir = self.dir.to_str().unwrap();
        if status(&["umount", dir]).0 != 0 {
            _ = status(&["umount", "--lazy", dir]);
            // A test that fails may leave it busy.
            assert!(std::thread::panicking(), "{dir} was busy");
        }
    }
}
