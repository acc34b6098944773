//! fsyncgate, for real: ext4 on a disk whose writes fail. After a failed `fdatasync` the kernel shows what it could not write as if it were
//! there, and the next `fdatasync` says that all is well. A store that believed it would promise what a power cut takes.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::crash::check_opened;
use super::history::{GROUP, History, Step};
use super::machine::{Machine, scratch, skipped};
use super::model::{Promised, SEGMENT_BYTES, entropy};
use crate::disk::sim::Rng;
use crate::disk::{Disk, FileDisk};
use crate::error::{ErrorKind, Result};
use crate::frame::Frame;
use crate::log::Finding;
use crate::store::Store;
use crate::types::*;

/// A file that is a disk; writing to it fails while `switch` exists.
struct FailingDisk {
    server: Child,
    fuse: Child,
}

impl FailingDisk {
    fn new(dir: &Path, switch: &Path) -> (Self, std::path::PathBuf) {
        let (image, socket, mount) = (dir.join("image"), dir.join("socket"), dir.join("fuse"));
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir(&mount).unwrap();
        let spawn = |tool: &str, args: &[&str]| {
            Command::new(tool).args(args).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        let server = spawn(
            "nbdkit",
            &[
                "-f",
                "--exit-with-parent",
                "-U",
                socket.to_str().unwrap(),
                "--filter=error",
                "file",
                image.to_str().unwrap(),
                "error-pwrite=EIO",
                "error-pwrite-rate=100%",
                &format!("error-pwrite-file={}", switch.display()),
            ],
        );
        wait_for(&socket);
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let fuse = spawn("nbdfuse", &[mount.to_str().unwrap(), &uri]);
        let file = mount.join("nbd");
        wait_for(&file);
        (Self { server, fuse }, file)
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        for child in [&mut self.fuse, &mut self.server] {
            let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
            let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM));
            let _ = child.wait();
        }
    }
}

fn wait_for(path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_secs(30), "{} does not appear", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn open(path: &Path) -> Result<(Store, Vec<Finding>)> {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::create(path)?);
    Store::open(disk, GROUP, SEGMENT_BYTES, entropy)
}

#[test]
fn a_failed_fdatasync_is_never_followed_by_an_empty_promise() {
    if skipped("a failed fdatasync", &["nbdkit", "nbdfuse", "losetup", "mkfs.ext4", "xfs_io", "mount"]) {
        return;
    }
    let dir = scratch();
    let switch = dir.path().join("switch");
    let (_disk, file) = FailingDisk::new(dir.path(), &switch);
    // The file system's own log is not to be written while writes fail: it would stop, and hide what this is about.
    let machine = Machine::new("ext4", &file, dir.path(), "commit=300");
    let (mut lost, mut rng) = (0, Rng::new(1));
    let rounds = 12;
    for round in 0..rounds {
        let case = format!("round {round}");
        let path = machine.path().join(format!("group-{round}"));
        let mut history = History::new(round);
        let frames = history.frames(30);
        history.steps = vec![Step::Append(frames.clone()), Step::Sync];
        let mut promised = Promised::default();
        let mut store = begin(&machine, &path, &frames[..5]);
        promised.by(&store);

        fs::write(&switch, "").unwrap();
        let failed = store.append(&frames[5..8], SessionId(1), WallTime(1)).and_then(|()| store.sync());
        let error = failed.expect_err("the disk takes no writes");
        assert_eq!(error.kind(), ErrorKind::Io, "{case}: {error:?}");
        fs::remove_file(&switch).unwrap();
        for _ in 0..3 {
            assert_eq!(store.sync().unwrap_err().kind(), ErrorKind::Poisoned, "{case}");
        }
        drop(store);

        // The disk works again. Whatever this one says is durable has to be.
        if let Some((mut store, findings)) = (0..5).find_map(|_| open(&path).ok()) {
            assert_eq!(store.closed(), None, "{case}: {findings:?}");
            promised.by(&store);
            lost += u64::from(store.head().map(|head| head.chain) != Some(frames[7].head()));
            // In every second round the power goes now, in the others after more was written.
            let more = round % 2 == 1 && store.append(&frames, SessionId(1), WallTime(1)).is_ok();
            if more && let Ok(durable) = store.sync() {
                promised.durable = durable.map(|durable| durable.0);
            }
        }
        machine.cut_power(false);
        machine.boot();
        check_opened(&|| open(&path), &history, &promised, &mut rng, &case);
    }
    println!(
        "{rounds} failed fdatasyncs: in {lost} the kernel had dropped what it could not write, and the store knew"
    );
    assert!(lost > 0, "no write was lost: the disk did not fail");
}

/// A store with these frames, durable. The loop device may still report the failure of the round before, once: then the machine starts anew.
fn begin(machine: &Machine, path: &Path, frames: &[Frame]) -> Store {
    for _ in 0..5 {
        let begun = open(path).and_then(|(mut store, _)| {
            store.append(frames, SessionId(1), WallTime(1))?;
            store.sync()?;
            Ok(store)
        });
        match begun {
            Ok(store) => return store,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Io, "{error:?}"),
        }
        machine.cut_power(false);
        machine.boot();
    }
    panic!("the disk fails for no reason");
}
