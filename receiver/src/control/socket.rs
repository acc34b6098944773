//! The control socket: for its owner only, there once somebody answers, gone after a clean stop.

use std::path::Path;

use local::{ListenError, SocketFile};
use tokio::net::UnixListener;

use crate::error::{Code, Error, Result};

/// Listens on `path`. A file that nobody answers on is replaced, one that somebody answers on is not.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let (listener, file) = local::listen(path).map_err(refused)?;
    Ok((UnixListener::from_std(listener)?, file))
}

fn refused(error: ListenError) -> Error {
    let message = error.to_string();
    match error {
        ListenError::InUse(_) => {
            Error::new(Code::LOCKED, message).hint("stop that process, or choose another socket: --socket PATH")
        }
        ListenError::NotASocket(_) => {
            Error::new(Code::TARGET_EXISTS, message).hint("choose another socket: --socket PATH")
        }
        ListenError::Io { source, .. } => Error::from(source).context(message),
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
        let (listener, file) = bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().code().exit(), 11);
        drop((file, listener));
        assert!(!path.exists(), "a clean stop removes it");
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(bind(&path).unwrap_err().code(), Code::TARGET_EXISTS);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    }
}
