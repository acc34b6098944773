//! Views that clients use while they last: over NBD, and as files of a mount.
//!
//! ```text
//!   WHEN ─▶ point ─▶ View ──▶ Served ──▶ NBD server, FUSE
//!                              └ Scratch (writable): what clients changed, gone with the view
//! ```
//!
//! **Invariant:** what is served ends with whoever asked for it: a request on the control socket that is gone, a release, a stop.
//! **Invariant:** a served view holds its version, and so the files it stands on; nothing else keeps it.

pub mod blocks;
pub mod holdings;
mod nbd;
pub mod scratch;
mod served;
mod server;

pub use holdings::{HeldView, Holding, Holdings, Kind, Place, Views};
pub use scratch::Scratch;
pub use served::{Run, Served};
pub use server::NbdExport;

use std::path::{Path, PathBuf};

/// Where scratches are made in a store.
pub fn scratch_dir(store: &Path) -> PathBuf {
    store.join("scratch")
}
