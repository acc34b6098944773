//! A start on a disk without room: what the spool has is kept and sent.

use std::io::IoSlice;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use journal::disk::{Disk, File, FileDisk, Open};
use journal::log::LogOptions;

use super::*;
use crate::capture::SystemClock;
use crate::testing::{GROUP, VOLUME, entropy, epoch, extent, frames};

/// No space left on device.
const ENOSPC: i32 = 28;

/// A directory on a disk that may be full.
#[derive(Clone, Debug)]
struct Place {
    dir: PathBuf,
    is_full: Arc<AtomicBool>,
    put_aside: Arc<AtomicU32>,
}

#[derive(Debug)]
struct Full(FileDisk, Arc<AtomicBool>);

#[derive(Debug)]
struct FullFile(Arc<dyn File>, Arc<AtomicBool>);

fn room(is_full: &AtomicBool) -> Result<()> {
    match is_full.load(Ordering::Relaxed) {
        true => Err(std::io::Error::from_raw_os_error(ENOSPC).into()),
        false => Ok(()),
    }
}

impl Place {
    fn open_spool(&self) -> Result<Found> {
        let options = LogOptions { group: GROUP, segment_bytes: journal::limits::SEGMENT_BYTES, entries: false };
        Found::open_at(Arc::new(self.clone()), options, u64::MAX, entropy)
    }

    fn begin(&self) -> (Spool, Arc<Capture>) {
        let found = self.open_spool().unwrap();
        let epoch = epoch(found.head);
        Spool::begin(found, &epoch, Arc::new(SystemClock), Box::new(|| {})).unwrap()
    }
}

impl Home for Place {
    fn open(&self) -> Result<Arc<dyn Disk>> {
        Ok(Arc::new(Full(FileDisk::create(&self.dir)?, Arc::clone(&self.is_full))))
    }

    fn put_aside(&self) -> Result<()> {
        self.put_aside.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

impl Disk for Full {
    fn open(&self, name: &str, mode: Open) -> Result<Arc<dyn File>> {
        if mode == Open::CreateNew {
            room(&self.1)?;
        }
        Ok(Arc::new(FullFile(self.0.open(name, mode)?, Arc::clone(&self.1))))
    }

    fn list(&self) -> Result<Vec<String>> {
        self.0.list()
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.0.rename(from, to)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.0.remove(name)
    }

    fn sync_dir(&self) -> Result<()> {
        self.0.sync_dir()
    }
}

impl File for FullFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> Result<()> {
        room(&self.1)?;
        self.0.write_at(offset, bufs)
    }

    fn sync(&self) -> Result<()> {
        self.0.sync()
    }

    fn len(&self) -> Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.0.set_len(len)
    }
}

/// The story: an agent is killed with frames that nobody has, and its disk is full when it starts again.
#[test]
fn a_spool_whose_disk_is_full_at_a_start_is_kept_and_sent() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { dir: dir.path().join("spool"), is_full: Arc::default(), put_aside: Arc::default() };
    let (spool, capture) = place.begin();
    (0..50).for_each(|n| _ = capture.record_write(VOLUME, extent(n * 8, 8), &[7; 4096]).unwrap());
    let before = frames(&spool, &capture);
    drop(spool);
    place.is_full.store(true, Ordering::Relaxed);

    // What is captured from here on is tracked; what was before, and that there is a gap now, is there for a receiver.
    let (spool, capture) = place.begin();
    while !capture.is_tracking() {
        std::thread::yield_now();
    }
    let CaptureState::Tracking { why, .. } = capture.state() else { panic!("it tracks") };
    assert!(why.contains("no room"), "{why}");
    assert_eq!(capture.record_write(VOLUME, extent(0, 8), &[8; 4096]), None);
    let all = frames(&spool, &capture);
    let same = all.iter().zip(&before).take_while(|(one, other)| one.bytes() == other.bytes()).count();
    assert!(same == before.len() && all.len() > same, "{same} of {} frames are left", before.len());
    assert!(spool.broken().is_some(), "a new spool begins once a receiver has what is in this one");
    assert!(!spool.stop().unwrap().complete);

    // With room again it is as it was.
    place.is_full.store(false, Ordering::Relaxed);
    let found = place.open_spool().unwrap();
    assert_eq!(found.head, before.last().and_then(Frame::end));
    assert_eq!(place.put_aside.load(Ordering::Relaxed), 0);
}

/// Nothing is there, and there is no room for anything: that is said, and nothing is thrown away.
#[test]
fn without_room_for_an_empty_one_there_is_no_spool() {
    let dir = tempfile::tempdir().unwrap();
    let place = Place { dir: dir.path().join("spool"), is_full: Arc::default(), put_aside: Arc::default() };
    place.is_full.store(true, Ordering::Relaxed);
    let error = place.open_spool().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("make room"), "{error}");
    assert_eq!(place.put_aside.load(Ordering::Relaxed), 0);
}
