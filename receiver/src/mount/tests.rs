//! One writable view, as a file and over NBD at once, against a vector of bytes.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use journal::disk::sim::Rng;
use journal::store::When;
use nbd::Export;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::*;
use crate::export::Scratch;
use crate::testing::History;

/// Whether nothing can be mounted here, which is then said.
fn no_fuse() -> bool {
    if geteuid().is_root() && Path::new("/dev/fuse").exists() {
        return false;
    }
    assert!(std::env::var_os("BACKSPOOL_NO_SKIP").is_none(), "not root, or no FUSE");
    println!("skipped: not root, or no FUSE");
    true
}

/// A writable view of some history, and what it holds.
fn writable(dir: &Path, limit_bytes: u64) -> (Arc<Served>, Vec<u8>) {
    // No multiple of a block.
    let mut history = History::new(7, &[2003]);
    history.run(60);
    let seq = history.any_point();
    let version = history.version();
    let point = version.find(&When::Seq(seq)).unwrap().unwrap();
    let view = version.view(seq).unwrap();
    let volume = view.volumes()[0].clone();
    let content = history.points[&seq][0].clone();
    let scratch = Scratch::new(&dir.join("scratch"), limit_bytes).unwrap();
    (Served::new("db", view, volume, point, Some(scratch)), content)
}

#[test]
fn one_scratch_is_a_file_and_an_nbd_export() {
    if no_fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (served, mut model) = writable(dir.path(), 1 << 30);
    let before = model.clone();
    let place = dir.path().join("mounted");
    fs::create_dir(&place).unwrap();
    let (mounted, path) = mount_file(&served, &place).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().size(), model.len() as u64);
    let export: &dyn Export = &*served;
    let mut rng = Rng::new(3);
    for _ in 0..500 {
        let start = rng.below_len(model.len());
        let length = 1 + rng.below_len((model.len() - start).min(20_000));
        let part = start..start + length;
        match rng.below(3) {
            0 => {
                let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fallocate(&file, punch, start as u64, length as u64).unwrap();
                model[part.clone()].fill(0);
            }
            _ => {
                let mut data = vec![0; length];
                rng.fill(&mut data);
                file.write_all_at(&data, start as u64).unwrap();
                model[part.clone()].copy_from_slice(&data);
            }
        }
        let mut found = vec![0; length];
        file.read_exact_at(&mut found, start as u64).unwrap();
        assert!(found == model[part.clone()]);
        export.read(start as u64, &mut found).unwrap();
        assert!(found == model[part], "NBD clients see what was written to the file");
    }
    file.sync_all().unwrap();
    // The other way round: whoever opens the file after a write over NBD sees it.
    export.write(512, &[9; 1024], true).unwrap();
    model[512..1536].fill(9);
    drop(file);
    assert!(fs::read(&path).unwrap() == model);
    let file = File::options().write(true).open(&path).unwrap();
    let refused = file.write_all_at(&[1], model.len() as u64).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    assert_eq!(file.set_len(10).unwrap_err().raw_os_error(), Some(Errno::PERM.raw_os_error()));
    assert!(File::create(place.join("other")).is_err());
    drop(file);
    drop(mounted);
    assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "it is unmounted");
    let mut below = vec![0; before.len()];
    Served::new("db", again(&served), served.volume().clone(), served.point().clone(), None)
        .read(0, &mut below)
        .unwrap();
    assert!(below == before, "what lies below stays as it was");
}

/// The same view without its scratch.
fn again(served: &Served) -> journal::store::View {
    let mut history = History::new(7, &[2003]);
    history.run(60);
    history.version().view(served.point().seq).unwrap()
}

#[test]
fn a_full_scratch_is_told_to_the_writer() {
    if no_fuse() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (served, model) = writable(dir.path(), 64 << 10);
    let place = dir.path().join("mounted");
    fs::create_dir(&place).unwrap();
    let (_mounted, path) = mount_file(&served, &place).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.write_all_at(&[1; 64 << 10], 0).unwrap();
    let refused = file.write_all_at(&[2; 4096], 128 << 10).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    let mut found = [0; 4096];
    file.read_exact_at(&mut found, 256 << 10).unwrap();
    assert!(found == model[256 << 10..(256 << 10) + 4096]);
}
