//! Real file systems on loop devices that the power can be cut of. Needs root; without it tests say why they skip, and fail where
//! `BACKSPOOL_NO_SKIP` is set.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use tempfile::TempDir;

/// Why `test` cannot run here; panics with it where nothing may be skipped.
pub(super) fn skipped(test: &str, tools: &[&str]) -> bool {
    let missing =
        |tool: &&&str| !["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().any(|d| Path::new(d).join(tool).exists());
    let why = if !rustix::process::geteuid().is_root() {
        "not root".to_owned()
    } else if !Path::new("/dev/loop-control").exists() {
        "no loop devices".to_owned()
    } else if let Some(tool) = tools.iter().find(missing) {
        format!("no {tool}")
    } else {
        return false;
    };
    assert!(std::env::var_os("BACKSPOOL_NO_SKIP").is_none(), "{test} may not be skipped: {why}");
    println!("skipped: {test}: {why}");
    true
}

/// A directory that is not in memory: what is durable in it is durable.
pub(super) fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("backspool-test-").tempdir_in("/var/tmp").unwrap()
}

/// Runs a tool; panics with what it said if it fails.
#[track_caller]
pub(super) fn run(tool: &str, args: &[&str]) -> String {
    let Output { status, stdout, stderr } = Command::new(tool).args(args).output().unwrap();
    assert!(status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().trim().to_owned()
}

/// A file system of its own, mounted from a file through a loop device. Gone when it is dropped, also in a panic.
pub(super) struct Machine {
    device: String,
    mount: PathBuf,
    options: &'static str,
}

impl Machine {
    /// Makes a file system `fs` in `image` and mounts it in a new directory under `dir`.
    pub(super) fn new(fs: &str, image: &Path, dir: &Path, options: &'static str) -> Self {
        let mount = dir.join(format!("{fs}-mount"));
        std::fs::create_dir(&mount).unwrap();
        let device = run("losetup", &["-f", "--show", image.to_str().unwrap()]);
        let machine = Self { device, mount, options };
        run(&format!("mkfs.{fs}"), &["-q", if fs == "xfs" { "-f" } else { "-F" }, &machine.device]);
        machine.mount();
        machine
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power: nothing that the file system holds in memory gets out any more, its own log only with `log`.
    pub(super) fn cut_power(&self, log: bool) {
        let how = if log { "shutdown -f" } else { "shutdown" };
        run("xfs_io", &["-x", "-c", how, self.mount.to_str().unwrap()]);
    }

    /// Switches it on again: mounts what is on the disk.
    pub(super) fn boot(&self) {
        // The kernel closes the files of an io_uring some time after the thread is gone.
        let unmounted = || Command::new("umount").arg(&self.mount).output().unwrap().status.success();
        let tries = (0..2000).find(|_| {
            unmounted() || {
                std::thread::sleep(Duration::from_millis(5));
                false
            }
        });
        assert!(tries.is_some(), "{} stays busy", self.mount.display());
        self.mount();
    }

    fn mount(&self) {
        run("mount", &["-o", self.options, &self.device, self.mount.to_str().unwrap()]);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Lazily: after a failed test something may still be open in it.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).output();
        let _ = Command::new("losetup").args(["-d", &self.device]).output();
    }
}
