//! The past as files: a directory in which every instant has a name, and one writable view as a regular file.
//!
//! ```text
//!  DIR/latest.img   DIR/marks/NAME.img   DIR/WHEN.img      (DIR/VOLUME/… of groups of several volumes)
//!       │ looked up: WHEN ─▶ point ─▶ inode (volume, Seq)
//!       └ opened: a view, held until it is closed
//! ```
//!
//! The kernel talks to threads of the receiver, which read the store themselves.
//!
//! **Invariant:** an inode is one volume as of one place in the order, so that nobody's loop device ever mixes two times.
//! **Invariant:** a name is resolved each time it is looked up, and nothing is remembered of it.

mod handles;
mod history;
mod names;
mod node;
mod past;
mod reply;
mod session;
#[cfg(test)]
mod tests;
mod writable;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::tz::TimeZone;

pub(crate) use session::take_off;
pub use session::{Mounted, SOURCE};

use crate::error::{Code, Error, Result};
use crate::export::{Served, Views};
use crate::group::Group;
use history::History;
use past::Past;
use writable::Writable;

/// A group's past, mounted.
pub struct MountedPast {
    /// Where, and until when.
    pub mounted: Mounted,
    /// Which views are open.
    pub views: Arc<dyn Views>,
    /// What it shows.
    pub volumes: Vec<String>,
}

/// Mounts the past of `group` on an empty directory; times without a zone are in `zone`.
pub fn mount_past(group: &Group, dir: &Path, zone: TimeZone) -> Result<MountedPast> {
    let history = History::new(group.clone(), zone)?;
    if history.volumes().is_empty() {
        let message = format!("{} has no volume yet", group.name());
        return Err(Error::new(Code::NO_VOLUME, message).hint(format!("backspool status {}", group.name())));
    }
    let volumes = history.volumes().to_vec();
    let past = Past::new(history);
    let views = past.views();
    let mounted = Mounted::start(past, dir, group.name().as_str(), false)?;
    Ok(MountedPast { mounted, views, volumes })
}

/// Mounts one view, which may be writable, as a regular file in an empty directory. Returns the file's path.
pub fn mount_file(served: &Arc<Served>, dir: &Path) -> Result<(Mounted, PathBuf)> {
    let volume = &served.volume().name;
    let name = format!("{volume}.img");
    let tree = Writable::new(Arc::clone(served), name.clone());
    let mounted = Mounted::start(tree, dir, volume, served.is_writable())?;
    let path = mounted.dir().join(name);
    Ok((mounted, path))
}

impl std::fmt::Debug for MountedPast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MountedPast")
            .field("mounted", &self.mounted)
            .field("volumes", &self.volumes)
            .finish_non_exhaustive()
    }
}
