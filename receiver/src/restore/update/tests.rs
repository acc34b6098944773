use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use journal::disk::sim::Rng;
use journal::types::Seq;

use super::*;
use crate::testing::History;

fn go(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

struct Case {
    dir: tempfile::TempDir,
    history: History,
    rng: Rng,
}

impl Case {
    fn new(seed: u64, sizes: &[u64]) -> Self {
        let mut history = History::new(seed, sizes);
        history.run(40);
        Self { dir: tempfile::tempdir().unwrap(), history, rng: Rng::new(seed) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn any_two(&mut self) -> (Seq, Seq) {
        (self.history.any_point(), self.history.any_point())
    }

    /// Two points that hold something else.
    fn two_that_differ(&mut self) -> (Seq, Seq) {
        loop {
            let (since, at) = self.any_two();
            if self.held(since)[0] != self.held(at)[0] && self.held(since)[0].len() == self.held(at)[0].len() {
                return (since, at);
            }
        }
    }

    /// The same, one right behind the other: most of the volume was not touched between them.
    fn neighbours_that_differ(&mut self) -> (Seq, Seq) {
        loop {
            let since = self.history.any_point();
            let Some((&at, now)) = self.history.points.range(since..).nth(1) else { continue };
            if self.held(since)[0] != now[0] && self.held(since)[0].len() == now[0].len() {
                return (since, at);
            }
        }
    }

    fn held(&self, seq: Seq) -> &Vec<Vec<u8>> {
        &self.history.points[&seq]
    }

    fn open(&self, since: Seq, at: Seq, all: bool, to: &Path) -> Result<Update> {
        let version = self.history.version();
        let (since, at) = (version.view(since).unwrap(), version.view(at).unwrap());
        let volume = (!all).then(|| at.volumes()[0].clone());
        Update::open(since, at, volume, to, &self.path("store"))
    }

    fn update(&self, since: Seq, at: Seq, to: &Path) -> Result<Restored> {
        let update = self.open(since, at, false, to)?;
        let verified = update.verify(&go)?;
        update.write(&verified, &go)
    }

    /// Some sectors of the one and some of the other, at either length.
    fn mixed(&mut self, since: Seq, at: Seq) -> Vec<u8> {
        let (since, at) = (self.held(since)[0].clone(), self.held(at)[0].clone());
        let sector = |of: &[u8], place: usize| {
            let mut sector = [0; 512];
            let held = of.get(place..place + 512).unwrap_or(&[0; 512]);
            sector.copy_from_slice(held);
            sector
        };
        let long = self.rng.chance(1, 2);
        let length = if long { since.len().max(at.len()) } else { since.len() };
        let places = (0..length).step_by(512);
        // What is cut off in the end stays what it was until then.
        let choose = |place| if place < at.len() && self.rng.chance(1, 2) { &at } else { &since };
        places.map(choose).zip((0..length).step_by(512)).flat_map(|(of, place)| sector(of, place)).collect()
    }
}

#[test]
fn any_image_becomes_that_of_any_other_point() {
    for seed in 0..3 {
        let mut case = Case::new(seed, &[2600]);
        let to = case.path("image");
        for _ in 0..40 {
            let (since, at) = case.any_two();
            fs::write(&to, &case.held(since)[0]).unwrap();
            let restored = case.update(since, at, &to).unwrap();
            let expect = &case.held(at)[0];
            assert!(fs::read(&to).unwrap() == *expect, "seed {seed}: from {since} to {at}");
            assert_eq!(restored.hashes, [("vol0".to_owned(), blake3::hash(expect).to_string())]);
            let differ = case.held(since)[0].chunks(4096).zip(expect.chunks(4096)).filter(|(a, b)| a != b).count();
            if case.held(since)[0].len() == expect.len() {
                assert_eq!(restored.blocks, differ as u64, "what is the same is not written");
            }
            let again = case.update(since, at, &to).unwrap();
            assert_eq!((again.bytes, again.hashes), (0, restored.hashes), "it is there already");
        }
    }
}

#[test]
fn what_an_interrupted_one_left_behind_is_carried_on() {
    for seed in 10..13 {
        let mut case = Case::new(seed, &[2600]);
        let to = case.path("image");
        for _ in 0..40 {
            let (since, at) = case.any_two();
            fs::write(&to, case.mixed(since, at)).unwrap();
            case.update(since, at, &to).unwrap();
            assert!(fs::read(&to).unwrap() == case.held(at)[0], "seed {seed}: from {since} to {at}");
        }
    }
}

#[test]
fn stopped_anywhere_it_is_carried_on() {
    let mut case = Case::new(20, &[2600]);
    let to = case.path("image");
    for stop_after in 0..20 {
        let (since, at) = case.two_that_differ();
        fs::write(&to, &case.held(since)[0]).unwrap();
        let update = case.open(since, at, false, &to).unwrap();
        let verified = update.verify(&go).unwrap();
        let pieces = AtomicUsize::new(0);
        let stop = |_| match pieces.fetch_add(1, Ordering::Relaxed) < stop_after {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        _ = update.write(&verified, &stop);
        drop(update);
        case.update(since, at, &to).unwrap();
        assert!(fs::read(&to).unwrap() == case.held(at)[0]);
    }
}

#[test]
fn another_image_is_refused_by_its_first_wrong_sector_and_left_alone() {
    let mut case = Case::new(30, &[2600]);
    let to = case.path("image");
    for round in 0..60 {
        let (since, at) = if round % 2 == 0 { case.two_that_differ() } else { case.neighbours_that_differ() };
        let mut image = case.held(since)[0].clone();
        let places: Vec<usize> = (0..3).map(|_| case.rng.below_len(image.len())).collect();
        for &place in &places {
            image[place] = !image[place];
        }
        // An inverted byte of the one is hardly ever that of the other.
        let first = places.iter().copied().filter(|&place| image[place] != case.held(at)[0][place]).min();
        let first = first.filter(|&place| image[place] != case.held(since)[0][place]);
        fs::write(&to, &image).unwrap();
        let refused = case.update(since, at, &to);
        let Some(first) = first else { continue };
        let error = refused.unwrap_err();
        assert_eq!((error.code(), error.code().exit()), (Code::OTHER_IMAGE, 14));
        let named = format!("byte {} is neither", first / 512 * 512);
        assert!(error.to_string().contains(&named), "{error}, not {named}");
        assert!(fs::read(&to).unwrap() == image, "nothing was written");
    }
}

#[test]
fn targets_that_cannot_be_that_image_are_refused() {
    let mut case = Case::new(40, &[2600]);
    let (since, at) = case.two_that_differ();
    let image = case.held(since)[0].clone();
    let to = case.path("image");
    let refused = |to: &Path, code: Code| {
        let error = case.update(since, at, to).unwrap_err();
        assert_eq!(error.code(), code, "{}: {error}", to.display());
    };
    refused(Path::new("relative"), Code::USAGE);
    refused(&to, Code::FAILED);
    refused(case.dir.path(), Code::USAGE);
    refused(Path::new("/dev/null"), Code::USAGE);
    for length in [0, image.len() - 512, image.len() + 512, image.len() + 1] {
        let mut other = image.clone();
        other.resize(length, 0);
        fs::write(&to, other).unwrap();
        refused(&to, Code::OTHER_IMAGE);
    }
    fs::write(&to, &image).unwrap();
    let held = fs::File::open(&to).unwrap();
    held.lock_shared().unwrap();
    refused(&to, Code::TARGET_IN_USE);
    drop(held);
    let first = case.open(since, at, false, &to).unwrap();
    refused(&to, Code::TARGET_IN_USE);
    drop(first);
    fs::create_dir_all(case.path("store/images")).unwrap();
    let own = case.path("store/images/own.img");
    fs::write(&own, &image).unwrap();
    refused(&own, Code::USAGE);
    symlink(&own, case.path("link")).unwrap();
    refused(&case.path("link"), Code::USAGE);
    assert!(fs::read(&own).unwrap() == image && fs::read(&to).unwrap() == image);
    fs::remove_file(case.path("link")).unwrap();
    symlink(&to, case.path("link")).unwrap();
    case.update(since, at, &case.path("link")).unwrap();
    assert!(fs::symlink_metadata(case.path("link")).unwrap().is_symlink(), "it leads where it did");
    assert!(fs::read(&to).unwrap() == case.held(at)[0]);
}

#[test]
fn of_several_images_none_is_written_if_one_is_wrong() {
    let mut case = Case::new(50, &[800, 90]);
    let (since, at) = case.two_that_differ();
    let to = case.path("group");
    fs::create_dir(&to).unwrap();
    let names = ["vol0.img", "vol1.img"];
    let run = || {
        let update = case.open(since, at, true, &to)?;
        let verified = update.verify(&go)?;
        update.write(&verified, &go)
    };
    let put = |wrong: bool| {
        for (name, held) in names.iter().zip(case.held(since)) {
            fs::write(to.join(name), held).unwrap();
        }
        if wrong {
            fs::write(to.join(names[1]), vec![0x5a; case.held(since)[1].len()]).unwrap();
        }
    };
    put(true);
    assert_eq!(run().unwrap_err().code(), Code::OTHER_IMAGE);
    assert!(fs::read(to.join(names[0])).unwrap() == case.held(since)[0]);
    put(false);
    run().unwrap();
    for (name, held) in names.iter().zip(case.held(at)) {
        assert!(fs::read(to.join(name)).unwrap() == *held, "{name}");
    }
    fs::remove_file(to.join(names[1])).unwrap();
    assert_eq!(run().unwrap_err().code(), Code::FAILED);
}

/// A loop device with these bytes behind it; `None` without root or loop devices.
fn loop_device(file: &Path, bytes: &[u8]) -> Option<String> {
    fs::write(file, bytes).unwrap();
    let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output().ok()?;
    let name = String::from_utf8(made.stdout).ok()?.trim().to_owned();
    (made.status.success() && !name.is_empty()).then_some(name)
}

#[test]
fn a_device_may_be_larger_and_is_not_written_beyond() {
    let mut case = Case::new(60, &[2600]);
    let backing = case.path("backing");
    let size = case.history.points.values().map(|held| held[0].len()).max().unwrap() + 8192;
    for _ in 0..6 {
        let (since, at) = case.any_two();
        let mut bytes = case.held(since)[0].clone();
        bytes.resize(size / 4096 * 4096, 0xee);
        let Some(device) = loop_device(&backing, &bytes) else {
            eprintln!("skipped: no loop devices here");
            return;
        };
        let busy = case.update(since, at, &backing).unwrap_err().code();
        let updated = case.update(since, at, Path::new(&device));
        let detached = Command::new("losetup").args(["--detach", &device]).output().unwrap();
        assert!(detached.status.success());
        updated.unwrap();
        let (expect, found) = (&case.held(at)[0], fs::read(&backing).unwrap());
        assert!(found[..expect.len()] == expect[..] && found[expect.len()..] == bytes[expect.len()..]);
        // The file behind it has another length, or a device on it.
        assert!(matches!(busy, Code::TARGET_IN_USE), "{busy}");
    }
}
