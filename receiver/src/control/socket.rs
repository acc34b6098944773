//! The control socket: for its owner only, there once somebody answers, gone after a clean stop.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use tokio::net::{UnixListener, UnixStream};

use crate::error::{Code, Error, Result};

/// A socket file that is ours; removed when dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

/// Listens on `path`. A file that nobody answers on is replaced, one that somebody answers on is not.
pub(crate) async fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let failed = |error: io::Error| Error::from(error).context(format!("cannot listen on {}", path.display()));
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let message = format!("{} exists and is not a socket", path.display());
            return Err(Error::new(Code::TARGET_EXISTS, message));
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            let message = format!("somebody answers on {} already", path.display());
            return Err(Error::new(Code::LOCKED, message).hint("stop that process, or choose another socket"));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Under another name first: at no time others may connect, and the name changes hands in one step.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let _ = fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(failed)?;
    let inode = fs::symlink_metadata(&fresh).map_err(failed)?.ino();
    rustix::fs::renameat(CWD, &fresh, CWD, path).map_err(|errno| failed(errno.into()))?;
    Ok((listener, SocketFile { path: path.to_owned(), inode }))
}

impl SocketFile {
    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody else's by now, perhaps.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stale_one_is_replaced_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let (listener, file) = bind(&path).await.unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = bind(&path).await.unwrap_err();
        assert_eq!(error.code().exit(), 11);
        drop((listener, file));
        assert!(!path.exists(), "a clean stop removes it");
        fs::write(&path, "mine").unwrap();
        assert_eq!(bind(&path).await.unwrap_err().code(), Code::TARGET_EXISTS);
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }
}
