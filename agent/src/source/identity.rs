//! What tells a file, directory or device from every other one, whatever it is called, also after a reboot.

use std::fmt;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, StatxFlags, major, minor, statx};
use serde::{Deserialize, Serialize};

use crate::Result;

/// What `/sys` has of a device that stays with it: the first of these that is there counts.
const DEVICE: [&str; 6] = ["dm/uuid", "md/uuid", "wwid", "device/wwid", "serial", "device/serial"];

/// As text, for a person to compare and a file to keep.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Identity(String);

impl Identity {
    /// Of a file or directory: its inode and when that was made, to the nanosecond. A name, a size and a modification time can be
    /// given to another one; these cannot. Where the file system keeps no time of birth, the inode has to do.
    pub fn of_file(file: impl AsFd) -> Result<Self> {
        let stat = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME)?;
        let born = (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then_some(stat.stx_btime);
        Ok(Self(match born {
            Some(born) => format!("inode {} of {}.{:09}", stat.stx_ino, born.tv_sec, born.tv_nsec),
            None => format!("inode {}", stat.stx_ino),
        }))
    }

    /// Of a block device, as it says itself; `None`: nothing tells it from another.
    pub(super) fn of_device(device: &fs::Metadata) -> Option<Self> {
        let number = device.rdev();
        let sys = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number))).canonicalize().ok()?;
        if let Some(partition) = text(&sys.join("partition")) {
            let disk = known(sys.parent()?)?;
            return Some(Self(format!("{disk}, partition {partition} from {}", text(&sys.join("start"))?)));
        }
        known(&sys).map(Self)
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn known(sys: &Path) -> Option<String> {
    if let Some(behind) = text(&sys.join("loop/backing_file")) {
        return fs::File::open(behind)
            .ok()
            .and_then(|file| Identity::of_file(file).ok())
            .map(|file| format!("loop, {file}"));
    }
    DEVICE.iter().find_map(|name| text(&sys.join(name)).map(|value| format!("{name} {value}")))
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Whether `path` leads to the open file or device, by its numbers of now; `None`: it leads nowhere.
pub(super) fn leads_to(path: &Path, file: &fs::File) -> Option<bool> {
    let (there, here) = (fs::metadata(path).ok()?, file.metadata().ok()?);
    Some(match there.rdev() {
        0 => (there.dev(), there.ino(), 0) == (here.dev(), here.ino(), here.rdev()),
        device => device == here.rdev(),
    })
}
