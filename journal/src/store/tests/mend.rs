//! One flipped bit anywhere: what can be proven is served, nothing wrong is, and mending brings the journal back without removing anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::crash::go_on;
use super::faults::views_are_right;
use super::history::{GROUP, History};
use super::model::{Promised, SEGMENT_BYTES, entropy, open, play};
use crate::codec::MANIFEST_ENTRY_BYTES;
use crate::disk::sim::{CrashMode, Rng};
use crate::disk::{Disk, Open, SimDisk};
use crate::log::Finding;
use crate::store::Store;
use crate::types::*;

/// A stopped store of some segments, the history in it, and where its order stood after each frame.
fn stopped(seed: u64) -> (SimDisk, History) {
    let history = History::random(seed, 40);
    let disk = SimDisk::new(seed);
    let mut store = play(&disk, &history.steps, &mut Promised::default()).unwrap();
    store.stop(WallTime(9)).unwrap();
    (disk, history)
}

fn copy(disk: &SimDisk) -> SimDisk {
    disk.crash(CrashMode::KeepAll, &mut Rng::new(1))
}

fn mend(disk: &SimDisk) -> Vec<Finding> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Store::mend(disk, GROUP, SEGMENT_BYTES, entropy).unwrap()
}

fn files(disk: &SimDisk) -> BTreeMap<String, Vec<u8>> {
    let read = |name: String| {
        let file = disk.open(&name, Open::ReadOnly).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        (name, bytes)
    };
    disk.list().unwrap().into_iter().map(read).collect()
}

/// Every byte of every segment is still somewhere, where it was in its file.
fn nothing_is_removed(disk: &SimDisk, before: &BTreeMap<String, Vec<u8>>, case: &str) {
    let after = files(disk);
    for (name, bytes) in before.iter().filter(|(name, _)| name.ends_with(".seg")) {
        let kept = after.get(name).or_else(|| after.get(&format!("{name}.damaged")));
        assert!(kept.is_some_and(|kept| kept.starts_with(bytes)), "{case}: {name} is not what it was");
    }
}

/// What became of a flip.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    harmless: u64,
    data: u64,
    closed: u64,
}

fn flip(disk: &SimDisk, history: &History, name: &str, bit: u64, counts: &mut Counts) {
    let case = format!("bit {bit} of {name}");
    disk.flip_bit(name, bit).unwrap();
    let before = files(disk);
    let (store, findings) = open(disk).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    let head = store.head();
    let right = head.is_none_or(|head| views_are_right(&store, history, head.seq, &case));
    let closed = store.closed().is_some();
    assert!(!closed || findings.iter().any(|finding| !finding.mended), "{case}: closed without a word");
    drop(store);
    assert_eq!(
        closed,
        head.map(|head| head.seq) < Some(history.last()) || closed,
        "{case}: shorter, and nobody said so"
    );
    match (closed, right) {
        (true, _) => counts.closed += 1,
        (false, false) => counts.data += 1,
        (false, true) => counts.harmless += 1,
    }
    if closed {
        assert_eq!(files(disk), before, "{case}: opened, and something was changed");
    }
    let mended = mend(disk);
    assert_eq!(mended.is_empty(), !closed, "{case}: {mended:?}");
    nothing_is_removed(disk, &before, &case);
    let (mut store, findings) = open(disk).unwrap();
    assert_eq!(store.closed(), None, "{case}: mended, {findings:?}");
    assert!(store.head().map(|head| head.seq) >= head.map(|head| head.seq), "{case}: mended, and points are gone");
    if let Some(head) = store.head() {
        views_are_right(&store, history, head.seq, &case);
    }
    // Whoever has sent it sends it again.
    go_on(&mut store, history, &case);
    assert_eq!(store.head().map(|head| head.seq), Some(history.last()), "{case}");
    assert!(views_are_right(&store, history, history.last(), &case) || !closed || !right, "{case}");
    drop(store);
    let (again, findings) = open(disk).unwrap();
    assert_eq!(again.closed(), None, "{case}: opened again, {findings:?}");
    views_are_right(&again, history, history.last(), &case);
}

#[test]
fn a_flipped_bit_anywhere_is_survived_and_mended() {
    let mut counts = Counts::default();
    for seed in 700..704 {
        let (disk, history) = stopped(seed);
        let mut rng = Rng::new(seed);
        for (name, bytes) in files(&disk) {
            let step = if name == "manifest" { 61 } else { 1009 };
            let mut at = rng.below(step);
            while at < bytes.len() as u64 {
                flip(&copy(&disk), &history, &name, 8 * at + rng.below(8), &mut counts);
                at += 1 + rng.below(2 * step);
            }
        }
    }
    println!("{counts:?}");
    assert!(counts.harmless > 10 && counts.data > 50 && counts.closed > 50, "{counts:?}");
}

/// Damaged data of a frame hides nothing: every point is there, and only what needs it is refused.
#[test]
fn damaged_data_in_the_segment_being_written_hides_nothing() {
    let mut history = History::new(4);
    let frames = history.frames(4);
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk).unwrap();
    for frame in &frames {
        store.append(std::slice::from_ref(frame), SessionId(1), WallTime(1)).unwrap();
        store.sync().unwrap();
    }
    let place = store.log().locate(frames[2].last_seq().unwrap()).unwrap().unwrap();
    store.stop(WallTime(9)).unwrap();
    drop(store);
    let payload = place.read().unwrap().payload().to_vec();
    assert!(!payload.is_empty());
    let (name, bytes) = files(&disk).into_iter().rfind(|(name, _)| name.ends_with(".seg")).unwrap();
    let at = bytes.windows(payload.len()).position(|window| window == payload).expect("in the one being written");
    disk.flip_bit(&name, 8 * at as u64 + 3).unwrap();
    let (mut store, findings) = open(&disk).unwrap();
    assert_eq!((store.closed(), store.head().map(|head| head.seq)), (None, Some(history.last())));
    assert!(!findings[0].mended && findings[0].place == name && findings[0].what.contains("checksum"), "{findings:?}");
    let before = frames[1].last_seq().unwrap();
    assert!(views_are_right(&store, &history, before, "before"));
    assert!(!views_are_right(&store, &history, frames[2].last_seq().unwrap(), "at the damage"));
    let verified = store.library().now().verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(verified.findings.len(), 1, "what is behind it is whole: {:?}", verified.findings);
    assert_eq!(mend(&disk), [], "there is nothing to go on without");
    let more = history.frames_more(2);
    store.append(&more, SessionId(1), WallTime(1)).unwrap();
    store.sync().unwrap();
    assert_eq!(open(&disk).unwrap().0.head().map(|head| head.seq), Some(history.last()));
}

/// The same bytes where nothing promised them are a torn frame.
#[test]
fn torn_data_that_was_not_promised_is_cut() {
    let mut history = History::new(4);
    let frames = history.frames(5);
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk).unwrap();
    store.append(&frames[..3], SessionId(1), WallTime(1)).unwrap();
    store.sync().unwrap();
    store.append(&frames[3..], SessionId(1), WallTime(1)).unwrap();
    store.sync().unwrap();
    drop(store);
    let payload = frames[4].payload();
    let (name, bytes) = files(&disk).into_iter().find(|(name, _)| name.ends_with(".seg")).unwrap();
    let at = bytes.windows(payload.len()).position(|window| window == payload).unwrap();
    disk.flip_bit(&name, 8 * at as u64).unwrap();
    let (store, findings) = open(&disk).unwrap();
    assert_eq!((store.closed(), store.head().map(|head| head.chain)), (None, Some(frames[3].head())));
    assert!(findings[0].mended && findings[0].what.contains("torn tail"), "{findings:?}");
}

/// Power cuts at every operation of a mending: it is as before, or mended; mended once more it always goes on.
#[test]
fn a_power_cut_while_mending_leaves_it_to_be_mended_again() {
    let (mut states, mut half) = (0, 0);
    for seed in 720..723 {
        let (disk, history) = stopped(seed);
        let (manifest, last) =
            (MANIFEST_ENTRY_BYTES as u64, files(&disk).into_keys().rfind(|name| name.ends_with(".seg")));
        let first = SegmentNo(1).file_name();
        for (name, byte) in [("manifest".to_owned(), 2 * manifest + 30), (last.unwrap(), 4096 + 70), (first, 4096 + 70)]
        {
            let damaged = copy(&disk);
            damaged.flip_bit(&name, 8 * byte).unwrap();
            let whole = copy(&damaged);
            let from = whole.ops();
            mend(&whole);
            for op in from..whole.ops() {
                for mode in [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random] {
                    let case = format!("seed {seed}, {name} damaged, {mode:?} at operation {op}");
                    let cut = copy(&damaged);
                    cut.stop_at(op);
                    let store: Arc<dyn Disk> = Arc::new(cut.clone());
                    // That it ends with an error where the power goes is the point.
                    let _ = Store::mend(store, GROUP, SEGMENT_BYTES, entropy);
                    let after = cut.crash(mode, &mut Rng::new(op));
                    half += u64::from(open(&after).is_ok_and(|(store, _)| store.closed().is_some()));
                    mend(&after);
                    let (mut store, findings) = open(&after).unwrap();
                    assert_eq!(store.closed(), None, "{case}: {findings:?}");
                    go_on(&mut store, &history, &case);
                    assert!(views_are_right(&store, &history, history.last(), &case), "{case}");
                    states += 1;
                }
            }
        }
    }
    println!("{states} power cuts while mending, {half} of them had to be mended again");
    assert!(states > 50 && half > 10, "{states} {half}");
}
