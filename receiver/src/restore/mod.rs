//! Writes a view to a new file, an existing one or a device; or takes an image of it to another point.

mod copy;
mod existing;
mod hash;
mod target;
#[cfg(test)]
mod tests;
mod update;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use journal::store::{View, VolumeInfo};

use crate::catalog::Name;
use crate::error::{Code, Error, Result};
use crate::rollback::plan::BLOCK_BYTES;
use target::Target;
pub use update::{Update, Verified};

/// Zeroes at least this long are not written where nothing is.
const HOLE_BYTES: usize = 64 * 1024;

/// What to write, and where to.
#[derive(Debug)]
pub struct Restore {
    view: View,
    /// Each with its target.
    volumes: Vec<(VolumeInfo, PathBuf)>,
    /// To be made first, if it is not there.
    directory: Option<PathBuf>,
    force: bool,
    /// The store, where nothing is restored to.
    store: PathBuf,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Bytes; zeroes that could be left out are not among them.
    pub bytes: u64,
    /// The same in blocks of 4096 bytes.
    pub blocks: u64,
    /// BLAKE3 of each volume, by name, in hexadecimal.
    pub hashes: Vec<(String, String)>,
}

impl Restore {
    /// One volume to `to`, or all of them, each to `VOLUME.img` in the directory `to`. Nothing is changed, only checked.
    pub fn plan(view: View, volume: Option<VolumeInfo>, to: &Path, force: bool, store: &Path) -> Result<Self> {
        let (volumes, directory) = match volume {
            Some(volume) => (vec![(volume, to.to_owned())], None),
            None => {
                let each = view.volumes().iter().map(|volume| (volume.clone(), to.join(file_name(volume))));
                (each.collect(), Some(to.to_owned()))
            }
        };
        let restore = Self { view, volumes, directory, force, store: store.to_owned() };
        let is_dir = match &restore.directory {
            None => true,
            Some(dir) if dir.exists() && !dir.is_dir() => {
                let message = format!("{} exists and is not a directory", dir.display());
                return Err(Error::new(Code::TARGET_EXISTS, message).hint("several volumes go to a directory"));
            }
            Some(dir) if !dir.is_absolute() => return Err(Error::usage("the directory must be an absolute path")),
            Some(dir) => dir.is_dir(),
        };
        for (volume, path) in restore.volumes.iter().filter(|_| is_dir) {
            target::check(path, volume.size, force, store)?;
        }
        Ok(restore)
    }

    /// Bytes of all volumes.
    pub fn bytes(&self) -> u64 {
        self.volumes.iter().map(|(volume, _)| volume.size.bytes()).sum()
    }

    /// Writes it all; when this returns it is durable. `tick` hears of the bytes dealt with and may stop it: then
    /// nothing new is left under the target's name.
    pub fn run(&self, tick: &(dyn Fn(u64) -> ControlFlow<()> + Sync)) -> Result<Restored> {
        if let Some(dir) = self.directory.as_ref().filter(|dir| !dir.exists()) {
            let failed = |error: std::io::Error| Error::from(error).context(format!("cannot create {}", dir.display()));
            fs::create_dir(dir).map_err(failed)?;
            fs::File::open(dir.parent().unwrap_or_else(|| Path::new("/")))
                .and_then(|dir| dir.sync_all())
                .map_err(failed)?;
        }
        let mut restored = Restored { bytes: 0, blocks: 0, hashes: Vec::new() };
        for (volume, path) in &self.volumes {
            let target = Target::create(path, volume.size, self.force, &self.store)?;
            let copied = copy::copy(&self.view, volume, &target, tick)?;
            target.commit()?;
            restored.bytes += copied.bytes;
            restored.blocks += copied.bytes.div_ceil(BLOCK_BYTES);
            restored.hashes.push((volume.name.clone(), copied.hash.to_string()));
        }
        Ok(restored)
    }
}

/// A name that an agent chose is a file's name only if it is one of ours; else the volume's identity is.
fn file_name(volume: &VolumeInfo) -> String {
    match Name::parse(&volume.name) {
        Ok(name) => format!("{name}.img"),
        Err(_) => format!("{}.img", volume.uuid),
    }
}
