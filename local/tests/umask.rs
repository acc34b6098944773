//! Whatever the umask is, and at every moment. Alone in its process, whose umask it changes.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::Mode;
use rustix::process::umask;

#[test]
fn nobody_else_ever_could_connect_and_whoever_sees_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let ended = AtomicBool::new(false);
    let mut seen = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for mask in [0, 0o777, 0o022, 0o177].into_iter().cycle().take(2000) {
                umask(Mode::from_raw_mode(mask));
                let (listener, file) = local::listen(&path).unwrap();
                // What was there to be seen stays so: its owner goes without a clean stop every other time.
                if mask == 0 {
                    std::mem::forget(file);
                } else {
                    drop(file);
                }
                drop(listener);
            }
            ended.store(true, Ordering::Release);
        });
        while !ended.load(Ordering::Acquire) {
            match fs::symlink_metadata(&path) {
                Ok(found) => {
                    assert_eq!(found.permissions().mode() & 0o777, 0o600);
                    seen += 1;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
            }
        }
    });
    assert!(seen > 0, "it was never looked at in time");
    umask(Mode::from_raw_mode(0o777));
    let (listener, _file) = local::listen(&path).unwrap();
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let _client = UnixStream::connect(&path).unwrap();
    listener.accept().unwrap();
}
