//! Where a source has data: holes are not worth reading.

use std::ops::Range;
use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// The first range of data at or after `offset`, in bytes; `None` if only a hole, or nothing, follows.
///
/// Where holes are not known everything up to the end is data: some file systems say so themselves, block devices refuse the
/// question. A file that changes meanwhile gives some answer of the time in between. Moves the position of the descriptor.
pub fn next_data(file: impl AsFd, offset: u64) -> Result<Option<Range<u64>>> {
    let file = file.as_fd();
    let start = match seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => {
            let end = seek(file, SeekFrom::End(0)).map_err(failed)?;
            return Ok((offset < end).then_some(offset..end));
        }
        Err(errno) => return Err(failed(errno)),
    };
    match seek(file, SeekFrom::Hole(start)) {
        Ok(end) => Ok(Some(start..end)),
        // Cut off since.
        Err(Errno::NXIO) => Ok(None),
        Err(errno) => Err(failed(errno)),
    }
}

fn failed(errno: Errno) -> Error {
    Error::from(errno).context("cannot find the data")
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn data_is_found_between_holes() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = File::create_new(dir.path().join("sparse")).unwrap();
        assert_eq!(next_data(&file, 0).unwrap(), None);
        file.set_len(64 << 20).unwrap();
        assert_eq!(next_data(&file, 0).unwrap(), None);
        file.write_all_at(&[1; 65536], 16 << 20).unwrap();
        file.write_all_at(&[1; 65536], (64 << 20) - 65536).unwrap();
        assert_eq!(next_data(&file, 0).unwrap(), Some(16 << 20..(16 << 20) + 65536));
        assert_eq!(next_data(&file, (16 << 20) + 5).unwrap(), Some((16 << 20) + 5..(16 << 20) + 65536));
        assert_eq!(next_data(&file, 17 << 20).unwrap(), Some((64 << 20) - 65536..64 << 20));
        assert_eq!(next_data(&file, 64 << 20).unwrap(), None);
        assert_eq!(next_data(&file, u64::from(u32::MAX) << 20).unwrap(), None);
    }

    #[test]
    fn a_device_is_all_data() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let image = dir.path().join("image");
        File::create_new(&image).unwrap().set_len(1 << 20).unwrap();
        let attached = Command::new("losetup").args(["--find", "--show"]).arg(&image).output();
        let Some(attached) = attached.ok().filter(|attached| attached.status.success()) else {
            assert!(std::env::var_os("BACKSPOOL_NO_SKIP").is_none(), "no loop device can be attached");
            return println!("skipped: no loop device can be attached");
        };
        let name = String::from_utf8(attached.stdout).unwrap();
        let device = File::open(name.trim()).unwrap();
        let found = [0, 4096, 1 << 20].map(|offset| next_data(&device, offset).unwrap());
        drop(device);
        assert!(Command::new("losetup").args(["--detach", name.trim()]).status().unwrap().success());
        assert_eq!(found, [Some(0..1 << 20), Some(4096..1 << 20), None]);
    }
}
