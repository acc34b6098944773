//! The one place that knows how a file is replaced so that a crash leaves the old one or the new one, whole.

use std::io::IoSlice;

use super::{Disk, File, Open};
use crate::error::{Error, ErrorKind, Result};

/// Gives `from` the name `to`, replacing what had it, durably. The contents must have been synced before.
pub fn durable_rename(disk: &dyn Disk, from: &str, to: &str) -> Result<()> {
    disk.rename(from, to)?;
    disk.sync_dir()
}

/// Replaces the file `name`, or creates it, with `contents`.
///
/// When this returns, the new contents are durable. After a crash at any place, `name` holds the old contents or the
/// new ones, whole; `name.tmp` may be left over, and the next call removes it.
pub fn replace_file(disk: &dyn Disk, name: &str, contents: &[u8]) -> Result<()> {
    let tmp = format!("{name}.tmp");
    // 1. A left-over from a crash is of no use: its contents may be torn.
    match disk.remove(&tmp) {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        other => other?,
    }
    // 2. Write beside the old file, which stays untouched.
    let file = disk.open(&tmp, Open::CreateNew)?;
    file.write_at(0, &[IoSlice::new(contents)])?;
    // 3. Contents first: a rename that survives without them would leave an empty file under the good name.
    file.sync()?;
    // 4. Swap the names in one step, and make the swap durable.
    durable_rename(disk, &tmp, name)
}

/// The whole file `name`, or `None` if there is none. A file longer than `max_bytes` is corrupt, and is not read.
pub fn read_file(disk: &dyn Disk, name: &str, max_bytes: u64) -> Result<Option<Vec<u8>>> {
    let file = match disk.open(name, Open::ReadOnly) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let contents = read_at_most(&*file, max_bytes).map_err(|error| error.with_path(name))?;
    Ok(Some(contents))
}

fn read_at_most(file: &dyn File, max_bytes: u64) -> Result<Vec<u8>> {
    let len = file.len()?;
    if len > max_bytes {
        return Err(Error::corrupt(format!("{len} bytes long, at most {max_bytes} were expected")));
    }
    let len = usize::try_from(len).map_err(|_| Error::invalid("does not fit into memory"))?;
    let mut contents = vec![0; len];
    file.read_exact_at(0, &mut contents)?;
    Ok(contents)
}
