//! A directory on a disk of its own, of which the power can be cut: a file system on a loop device, and its shutdown.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::tools::{Loop, Mounted, run, status};
use super::wait_for;

/// Dropped, it is gone; whoever has files open in it is to end before.
pub(crate) struct Disk {
    fs: &'static str,
    mounted: Option<Mounted>,
    looped: Loop,
    dir: PathBuf,
}

/// What its file takes, as far as it is written to. The smallest that XFS takes is 300 MiB.
const BYTES: u64 = 1 << 30;

impl Disk {
    /// A new file system in a file beside `dir`, where it is mounted. None without root.
    pub(crate) fn new(fs: &'static str, dir: PathBuf) -> Option<Self> {
        let image = dir.with_extension("img");
        File::create_new(&image).unwrap().set_len(BYTES).unwrap();
        let looped = Loop::on(&image)?;
        let device = looped.device.to_str().unwrap();
        run(&[&format!("mkfs.{fs}"), "-q", if fs == "xfs" { "-f" } else { "-F" }, device]);
        let mounted = Some(Mounted::of(fs, &looped.device, dir.clone()));
        Some(Self { fs, mounted, looped, dir })
    }

    /// What it is.
    pub(crate) fn fs(&self) -> &'static str {
        self.fs
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Cuts the power: nothing that the file system holds in memory gets out any more, its own log only with `log`.
    pub(crate) fn cut(&self, log: bool) {
        let how = if log { "shutdown -f" } else { "shutdown" };
        run(&["xfs_io", "-x", "-c", how, self.dir.to_str().unwrap()]);
    }

    /// Switches it on again: mounts what is on it. Nobody has anything open in it any more.
    pub(crate) fn boot(&mut self) {
        let dir = self.dir.to_str().unwrap();
        let unmounted = || (status(&["umount", dir]).0 == 0).then_some(());
        let is_on = || {
            // The kernel closes the files of an io_uring some time after the process is gone.
            wait_for("unmounted", unmounted, || format!("{dir} stays busy"));
            std::mem::forget(self.mounted.take());
            self.mounted = Some(Mounted::of(self.fs, &self.looped.device, self.dir.clone()));
            // A mount namespace that somebody else made meanwhile has the old one still: then it is that which is mounted again.
            File::create(self.dir.join("on")).ok()
        };
        wait_for("switched on", is_on, || format!("{dir} stays off"));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Before its device.
        self.mounted = None;
    }
}
