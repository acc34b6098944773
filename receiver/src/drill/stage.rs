//! A writable view as a drill's command finds it: a regular file, and an NBD server beside it, over one scratch.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::types::{Hash, WallTime};
use nbd::RemoteClients;

use crate::error::{Error, Result};
use crate::export::{NbdExport, Served};
use crate::mount::{Mounted, mount_file, take_off};

/// What a drill stands on. Dropped, all of it is gone, whoever uses it.
#[derive(Debug)]
pub struct Stage {
    dir: PathBuf,
    image: PathBuf,
    // In this order: clients, then the file, then the directory they are in.
    export: Arc<NbdExport>,
    mounted: Option<Mounted>,
}

impl Stage {
    /// Makes a directory of its own in `stages` and serves the view there.
    pub fn set(served: &Arc<Served>, stages: &Path, since: WallTime) -> Result<Self> {
        let name = Hash::of(&link::random::<16>()).to_string();
        let dir = stages.join(format!("{name:.8}"));
        make(&dir).map_err(|error| Error::from(error).context(format!("cannot make {}", dir.display())))?;
        let set = Self::set_in(served, &dir, since);
        if set.is_err() {
            remove(&dir);
        }
        set
    }

    fn set_in(served: &Arc<Served>, dir: &Path, since: WallTime) -> Result<Self> {
        let mount = dir.join("mnt");
        make(&mount)?;
        let address = format!("unix:{}", dir.join("nbd.sock").display());
        let export = NbdExport::start(Arc::clone(served), &address, RemoteClients::Refused, since)?;
        let (mounted, image) = mount_file(served, &mount)?;
        Ok(Self { dir: dir.to_owned(), image, export: Arc::new(export), mounted: Some(mounted) })
    }

    /// The file.
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The NBD server.
    pub fn export(&self) -> &Arc<NbdExport> {
        &self.export
    }

    /// Removes what a receiver that was killed left behind.
    pub fn clear(stages: &Path) {
        let left = fs::read_dir(stages).into_iter().flatten().flatten();
        left.for_each(|entry| {
            // What is not mounted any more cannot be taken off.
            let _ = take_off(&entry.path().join("mnt"));
            remove(&entry.path());
        });
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.export.end();
        drop(self.mounted.take());
        remove(&self.dir);
    }
}

fn make(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Nothing but what was made: never what is mounted there still.
fn remove(dir: &Path) {
    let socket = dir.join("nbd.sock");
    let removed = match fs::remove_file(&socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => fs::remove_dir(dir.join("mnt")).and_then(|()| fs::remove_dir(dir)),
    };
    if let Err(error) = removed {
        tracing::warn!(dir = %dir.display(), %error, "what a drill needed cannot be removed");
    }
}
