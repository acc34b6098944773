//! Finding points by time, name and number, and never serving what is corrupt.

use super::super::{NotCovered, When};
use super::history::{History, SECTORS, Step, VOLUME};
use super::model::{Promised, open, play};
use crate::disk::SimDisk;
use crate::error::ErrorKind;
use crate::types::*;

/// A history with a base, so that there are points.
fn with_points(seed: u64) -> (History, super::super::Store) {
    for seed in seed.. {
        let history = History::random(seed, 60);
        let store = play(&SimDisk::new(1), &history.steps, &mut Promised::default()).unwrap();
        if store.library().now().timeline().covered().is_some_and(|stretch| stretch.from.number() < 60) {
            return (history, store);
        }
    }
    unreachable!()
}

#[test]
fn an_instant_is_the_newest_record_not_after_it() {
    let (history, store) = with_points(100);
    let version = store.library().now();
    let times: Vec<WallTime> =
        (1..=history.last().number()).map(|n| version.time_of(Seq::new(n).unwrap()).unwrap().unwrap()).collect();
    assert!(times.is_sorted());
    let from = version.timeline().stretches()[0].from.number();
    for t in times[0].0 - 2..times[times.len() - 1].0 + 3 {
        let newest = times.partition_point(|time| time.0 <= t) as u64;
        let found = version.find(&When::At(WallTime(t))).unwrap();
        let covered = newest >= from && t <= times[times.len() - 1].0;
        match found {
            Ok(point) => assert_eq!((covered, point.seq.number()), (true, newest), "at {t}"),
            Err(not) => assert!(!covered && (not.before.is_some() || not.after.is_some()), "at {t}: {not:?}"),
        }
    }
    assert_eq!(version.find(&When::Latest).unwrap().unwrap().seq, history.last());
    assert!(version.find(&When::Seq(history.last().after(1))).unwrap().is_err());
    assert!(version.find(&When::Mark("nobody".into())).unwrap().is_err());
}

#[test]
fn points_come_ascending_and_the_newest_are_kept() {
    let (history, store) = with_points(200);
    let version = store.library().now();
    let (all, truncated) = version.points(None, None, 100_000).unwrap();
    let from = version.timeline().stretches()[0].from.number();
    assert!(!truncated);
    assert_eq!(
        all.iter().map(|p| p.seq.number()).collect::<Vec<_>>(),
        (from..=history.last().number()).collect::<Vec<_>>()
    );
    let (some, truncated) = version.points(None, None, 7).unwrap();
    assert!(truncated);
    assert_eq!(some, all[all.len() - 7..]);
    let (window, _) = version.points(Some(all[5].time), Some(all[20].time), 1000).unwrap();
    let expect: Vec<_> = all.iter().filter(|p| all[5].time <= p.time && p.time <= all[20].time).cloned().collect();
    assert_eq!(window, expect);
    for point in all.iter().filter(|point| point.mark.is_some()) {
        let newest = all.iter().rfind(|p| p.mark == point.mark).unwrap();
        assert_eq!(&version.find(&When::Mark(point.mark.clone().unwrap())).unwrap().unwrap(), newest);
    }
}

#[test]
fn before_the_first_base_there_is_no_point() {
    let mut history = History::new(1);
    let frames = history.frames(5);
    let store = play(&SimDisk::new(1), &[Step::Append(frames), Step::Sync], &mut Promised::default()).unwrap();
    let version = store.library().now();
    assert_eq!(version.find(&When::Latest).unwrap(), Err(NotCovered::default()));
    assert_eq!(version.points(None, None, 10).unwrap(), (vec![], false));
}

/// One flipped bit anywhere in the store: it is served as it was, or not at all, and `verify` says where.
#[test]
fn a_flipped_bit_is_never_served_and_always_found() {
    let history = History::random(11, 40);
    let mut flips = 0;
    let clean = SimDisk::new(1);
    let mut store = play(&clean, &history.steps, &mut Promised::default()).unwrap();
    store.stop(WallTime(1)).unwrap();
    let files: Vec<(String, u64)> =
        store.log().segments().map(|s| (s.header.number.file_name(), s.file.len().unwrap())).collect();
    assert_eq!(store.library().now().verify(|_| std::ops::ControlFlow::Continue(())).unwrap().findings, []);
    drop(store);
    for (name, len) in &files {
        for byte in (0..*len).step_by(211) {
            clean.flip_bit(name, byte * 8 + byte % 8).unwrap();
            let opened = open(&clean);
            if let Ok((store, findings)) = &opened {
                let version = store.library().now();
                let verified = version.verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
                if let Some(head) = version.head() {
                    let mut image = vec![0; usize::try_from(SECTORS * 512).unwrap()];
                    match version.view(head.seq).and_then(|view| view.read(VOLUME, 0, &mut image)) {
                        Ok(()) => assert!(image == history.image(head.seq), "{name} byte {byte}: {findings:?}"),
                        Err(error) => {
                            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid), "{error:?}");
                        }
                    }
                }
                let padding = findings.is_empty() && verified.findings.is_empty();
                assert!(!padding || is_padding(&clean, name, byte), "{name} byte {byte}: flipped and not noticed");
            }
            drop(opened);
            clean.flip_bit(name, byte * 8 + byte % 8).unwrap();
            flips += 1;
        }
    }
    println!("{flips} flipped bits");
    assert!(flips > 1000);
}

/// Whether nothing but the flipped bit itself is in this sector's rest: padding between frames holds nothing.
fn is_padding(disk: &SimDisk, name: &str, byte: u64) -> bool {
    let file = crate::disk::Disk::open(disk, name, crate::disk::Open::ReadOnly).unwrap();
    let mut rest = vec![0; usize::try_from(512 - byte % 512).unwrap()];
    file.read_at(byte, &mut rest).unwrap();
    rest[1..].iter().all(|&b| b == 0) && rest[0].count_ones() == 1
}

/// An agent that was killed knows nothing of the time until its next start: no instant in between is covered, not even by the record
/// that begins the new epoch.
#[test]
fn an_epoch_that_does_not_continue_ends_the_points_with_its_parent() {
    for continues in [true, false] {
        let mut history = History::new(21);
        let frames = history.interrupted(continues);
        let store = play(&SimDisk::new(1), &[Step::Append(frames), Step::Sync], &mut Promised::default()).unwrap();
        let version = store.library().now();
        let begin = history.last();
        let (before, after) = (begin.before().unwrap(), version.time_of(begin).unwrap().unwrap());
        let last = version.time_of(before).unwrap().unwrap();
        assert!(last.0 + 1000 < after.0);
        let between = version.find(&When::At(WallTime(last.0 + 500))).unwrap();
        assert_eq!(between.is_ok(), continues, "{between:?}");
        assert_eq!(version.find(&When::At(last)).unwrap().unwrap().seq, before);
        let newest = version.find(&When::Latest).unwrap().unwrap().seq;
        assert_eq!(newest, if continues { begin } else { before });
    }
}
