//! A tree at a directory: mounted, served by threads of its own, unmounted.
//!
//! ```text
//!   mount ─▶ threads answer the kernel ─▶ unmounted by anybody, or by `end` ─▶ threads gone ─▶ tree dropped, and the views with it
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fuser::{Config, Filesystem, MountOption, Session};
use rustix::fs::{major, minor};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use tokio::sync::watch;

use crate::error::{Code, Error, Result};

/// What the name of a mount of ours begins with among all mounts: then comes what is mounted.
pub const SOURCE: &str = "backspool:";
/// Threads that answer: as many reads as can be under way. None of them is the runtime's.
const THREADS: usize = 4;
/// What the kernel reads ahead of whoever reads in order, in KiB.
const READAHEAD_KIB: u32 = 1024;
/// Threads that do not end by then are left: what they wait for is a disk that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// A tree that is mounted. Dropped, it is unmounted.
#[derive(Debug)]
pub struct Mounted {
    dir: PathBuf,
    over: watch::Receiver<bool>,
}

impl Mounted {
    /// Mounts `tree` on an empty directory; among the mounts it is called by what it is of.
    pub(super) fn start(tree: impl Filesystem, dir: &Path, of: &str, writable: bool) -> Result<Self> {
        let dir = check(dir)?;
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let access = if writable { MountOption::RW } else { MountOption::RO };
        config.mount_options = vec![
            MountOption::FSName(format!("{SOURCE}{of}")),
            MountOption::Subtype("backspool".to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::NoExec,
            MountOption::NoAtime,
            access,
        ];
        let session = Session::new(tree, &dir, &config).map_err(|error| refused(&dir, error))?;
        let (ended, over) = watch::channel(false);
        let serve = move || {
            if let Err(error) = session.run() {
                tracing::error!(%error, "a mount ended");
            }
            // Whoever waits may have gone.
            let _ = ended.send(true);
        };
        std::thread::Builder::new().name("mount".to_owned()).spawn(serve)?;
        widen_readahead(&dir);
        Ok(Self { dir, over })
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until it is unmounted, by whomever.
    pub async fn ended(&mut self) {
        // An error means that the thread is gone, too.
        let _ = self.over.wait_for(|over| *over).await;
    }

    /// Unmounts it, whoever uses it: they get errors from then on. Returns once the threads are gone.
    pub fn end(&self) {
        if !self.is_over() {
            if let Err(error) = take_off(&self.dir) {
                tracing::error!(dir = %self.dir.display(), %error, "cannot be unmounted");
            }
            let step = Duration::from_millis(5);
            let mut waited = Duration::ZERO;
            while !self.is_over() && waited < PATIENCE {
                std::thread::sleep(step);
                waited += step;
            }
        }
    }

    fn is_over(&self) -> bool {
        *self.over.borrow() || self.over.has_changed().is_err()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.end();
    }
}

/// The directory, if something can be mounted there.
fn check(dir: &Path) -> Result<PathBuf> {
    let not_there = |error: io::Error| match error.raw_os_error() {
        Some(code) if code == Errno::NOTCONN.raw_os_error() => {
            Error::new(Code::TARGET_IN_USE, format!("a mount that nobody serves any more is on {}", dir.display()))
                .hint(format!("backspool unmount {}", dir.display()))
        }
        _ => Error::from(error).context(format!("cannot mount on {}", dir.display())).hint("make the directory first"),
    };
    let found = dir.canonicalize().map_err(not_there)?;
    if !found.is_dir() {
        return Err(Error::new(Code::TARGET_EXISTS, format!("{} is not a directory", dir.display())));
    }
    if found.read_dir().map_err(not_there)?.next().is_some() {
        let message = format!("{} is not empty, and what is in it could not be reached", dir.display());
        return Err(Error::new(Code::TARGET_EXISTS, message).hint("name an empty directory"));
    }
    Ok(found)
}

fn refused(dir: &Path, error: io::Error) -> Error {
    let lacks = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied);
    let message = format!("cannot mount on {}", dir.display());
    if !lacks {
        return Error::from(error).context(message);
    }
    Error::new(Code::UNSUPPORTED, message)
        .with_source(error)
        .hint("it takes /dev/fuse, and a receiver that is root or has fusermount3 (package fuse3)")
}

/// In order if nobody uses it, else by force.
pub(crate) fn take_off(dir: &Path) -> rustix::io::Result<()> {
    match unmount(dir, UnmountFlags::empty()) {
        Err(Errno::BUSY) => unmount(dir, UnmountFlags::FORCE | UnmountFlags::DETACH),
        Err(Errno::PERM) => {
            let done = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(dir).output();
            if done.is_ok_and(|done| done.status.success()) { Ok(()) } else { Err(Errno::PERM) }
        }
        // Not mounted, or not there.
        Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        other => other,
    }
}

/// The kernel reads 128 KiB ahead of its own accord. Only root may ask for more; without it reading in order is slower.
fn widen_readahead(dir: &Path) {
    let Ok(found) = fs::metadata(dir) else { return };
    let device = found.dev();
    let place = format!("/sys/class/bdi/{}:{}/read_ahead_kb", major(device), minor(device));
    if let Err(error) = fs::write(&place, READAHEAD_KIB.to_string()) {
        tracing::debug!(place, %error, "the kernel's readahead stays as it is");
    }
}
