use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use journal::types::Seq;

use super::*;
use crate::testing::History;

fn go(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A journal with one volume and a place to restore to.
struct Case {
    dir: tempfile::TempDir,
    history: History,
    at: Seq,
}

impl Case {
    fn new(sizes: &[u64]) -> Self {
        let mut history = History::new(11, sizes);
        history.run(60);
        let at = history.any_point();
        Self { dir: tempfile::tempdir().unwrap(), history, at }
    }

    fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    fn restore(&self, to: &Path, force: bool) -> Result<Restored> {
        let view = self.history.version().view(self.at).unwrap();
        let volume = view.volumes()[0].clone();
        Restore::plan(view, Some(volume), to, force, &self.store())?.run(&go)
    }

    #[track_caller]
    fn refused(&self, to: &Path, force: bool, code: Code) {
        let view = self.history.version().view(self.at).unwrap();
        let volume = view.volumes()[0].clone();
        let planned = Restore::plan(view, Some(volume), to, force, &self.store());
        assert_eq!(planned.unwrap_err().code(), code, "{}", to.display());
    }

    /// What is left in the directory.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[test]
fn what_is_restored_is_the_volume_and_its_hash() {
    let case = Case::new(&[9000]);
    let to = case.dir.path().join("out.img");
    let restored = case.restore(&to, false).unwrap();
    let expect = &case.history.points[&case.at][0];
    assert!(fs::read(&to).unwrap() == *expect);
    assert_eq!(restored.hashes, [("vol0".to_owned(), blake3::hash(expect).to_string())]);
    assert!(restored.bytes > 0 && restored.bytes <= expect.len() as u64);
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o600);
    assert_eq!(case.names(), ["out.img"]);
}

#[test]
fn zeroes_take_no_space() {
    let history = History::new(1, &[64 * 1024 * 2]);
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("empty.img");
    let version = history.version();
    let view = version.view(version.head().unwrap().seq).unwrap();
    let volume = view.volumes()[0].clone();
    let restored = Restore::plan(view, Some(volume), &to, false, dir.path().join("s").as_path()).unwrap().run(&go);
    assert_eq!(restored.unwrap().bytes, 0);
    let metadata = fs::metadata(&to).unwrap();
    assert_eq!((metadata.len(), metadata.blocks()), (64 * 1024 * 1024, 0));
}

#[test]
fn what_exists_is_not_overwritten_by_mistake() {
    let case = Case::new(&[800]);
    let to = case.dir.path().join("mine");
    fs::write(&to, "mine").unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o640)).unwrap();
    case.refused(&to, false, Code::TARGET_EXISTS);
    assert_eq!(fs::read(&to).unwrap(), b"mine");
    let locked = fs::File::open(&to).unwrap();
    locked.lock().unwrap();
    case.refused(&to, true, Code::TARGET_IN_USE);
    locked.unlock().unwrap();
    case.restore(&to, true).unwrap();
    assert!(fs::read(&to).unwrap() == case.history.points[&case.at][0]);
    assert_eq!(fs::metadata(&to).unwrap().mode() & 0o777, 0o640, "it stays whose it was");
}

#[test]
fn targets_that_can_never_be_are_refused_before_anything_is_written() {
    let case = Case::new(&[800]);
    let dir = case.dir.path();
    case.refused(Path::new("relative.img"), true, Code::USAGE);
    case.refused(Path::new("/"), true, Code::USAGE);
    case.refused(&dir.join("no/such/dir/x"), true, Code::FAILED);
    case.refused(dir, true, Code::USAGE);
    case.refused(Path::new("/dev/null"), true, Code::USAGE);
    symlink("nowhere", dir.join("link")).unwrap();
    case.refused(&dir.join("link"), true, Code::FAILED);
    fs::create_dir_all(case.store().join("images")).unwrap();
    case.refused(&case.store().join("images/new.img"), true, Code::USAGE);
    fs::write(case.store().join("lock"), "").unwrap();
    symlink(case.store().join("lock"), dir.join("into")).unwrap();
    case.refused(&dir.join("into"), true, Code::USAGE);
    assert_eq!(case.names(), ["into", "link", "store"]);
}

#[test]
fn one_that_is_interrupted_leaves_nothing_and_the_old_file() {
    let case = Case::new(&[9000]);
    let to = case.dir.path().join("old");
    fs::write(&to, "old").unwrap();
    let view = case.history.version().view(case.at).unwrap();
    let volume = view.volumes()[0].clone();
    let restore = Restore::plan(view, Some(volume), &to, true, &case.store()).unwrap();
    let done = AtomicU64::new(0);
    let stop = |bytes| match done.fetch_add(bytes, Ordering::Relaxed) {
        0 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    };
    assert_eq!(restore.run(&stop).unwrap_err().code(), Code::FAILED);
    assert_eq!((case.names(), fs::read(&to).unwrap()), (vec!["old".to_owned()], b"old".to_vec()));
}

#[test]
fn several_volumes_go_to_a_directory() {
    let case = Case::new(&[800, 90]);
    let to = case.dir.path().join("group");
    let plan = |force| {
        let view = case.history.version().view(case.at).unwrap();
        Restore::plan(view, None, &to, force, &case.store())
    };
    plan(false).unwrap().run(&go).unwrap();
    for (name, expect) in ["vol0.img", "vol1.img"].iter().zip(&case.history.points[&case.at]) {
        assert!(fs::read(to.join(name)).unwrap() == *expect, "{name}");
    }
    assert_eq!(plan(false).unwrap_err().code(), Code::TARGET_EXISTS);
    plan(true).unwrap().run(&go).unwrap();
    fs::remove_dir_all(&to).unwrap();
    fs::write(&to, "a file").unwrap();
    assert_eq!(plan(true).unwrap_err().code(), Code::TARGET_EXISTS);
}

/// A loop device with `bytes` behind it; `None` without root or loop devices.
fn loop_device(file: &Path, bytes: u64) -> Option<String> {
    fs::File::create(file).unwrap().set_len(bytes).unwrap();
    let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
    let name = String::from_utf8(made.stdout).ok()?.trim().to_owned();
    (made.status.success() && !name.is_empty()).then_some(name)
}

fn run(command: &str, args: &[&str]) {
    assert!(Command::new(command).args(args).output().unwrap().status.success(), "{command} {args:?}");
}

#[test]
fn a_device_is_overwritten_only_when_told_and_never_while_used() {
    let case = Case::new(&[9000]);
    let backing = case.dir.path().join("backing");
    let Some(device) = loop_device(&backing, 8 << 20) else {
        eprintln!("skipped: no loop devices here");
        return;
    };
    let path = Path::new(&device);
    case.refused(path, false, Code::TARGET_EXISTS);
    case.refused(&backing, true, Code::TARGET_IN_USE);
    run("mkfs.ext4", &["-q", &device]);
    let mount = case.dir.path().join("mnt");
    fs::create_dir(&mount).unwrap();
    run("mount", &[&device, mount.to_str().unwrap()]);
    case.refused(path, true, Code::TARGET_IN_USE);
    run("umount", &[mount.to_str().unwrap()]);
    let restored = case.restore(path, true);
    run("losetup", &["--detach", &device]);
    restored.unwrap();
    let expect = &case.history.points[&case.at][0];
    assert!(fs::read(&backing).unwrap()[..expect.len()] == **expect, "zeroes have to be written to a device");
    let small = loop_device(&case.dir.path().join("small"), 1 << 20).unwrap();
    case.refused(Path::new(&small), true, Code::TOO_SMALL);
    run("losetup", &["--detach", &small]);
}
