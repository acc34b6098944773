//! Power cuts at every operation of scripted runs: nothing promised is missing, nothing is invented, writing goes on.
//!
//! Each run is stopped at each of its operations; what was not synced is lost, kept, torn or reordered, many times over. `BACKSPOOL_CRASH_STATES`
//! asks for more than the usual 10^5.

use super::history::{GROUP, History, Step};
use super::model::{Promised, check_view, open, perform, play};
use crate::disk::SimDisk;
use crate::disk::sim::{CrashMode, Rng};
use crate::error::Result;
use crate::log::Finding;
use crate::store::Store;
use crate::types::*;

fn states_wanted() -> u64 {
    std::env::var("BACKSPOOL_CRASH_STATES").ok().and_then(|n| n.parse().ok()).unwrap_or(100_000)
}

#[test]
fn power_cuts_at_every_operation_lose_nothing_promised() {
    let (wanted, mut states, mut cut, mut seed) = (states_wanted(), 0, 0, 0);
    while states < wanted {
        seed += 1;
        let history = History::random(seed, 22);
        let whole = SimDisk::new(seed);
        play(&whole, &history.steps, &mut Promised::default()).unwrap();
        for op in 0..whole.ops() {
            let disk = SimDisk::new(seed);
            disk.stop_at(op);
            let mut promised = Promised::default();
            // The run ends with an error where the power goes; that it does is the point.
            let _ = play(&disk, &history.steps, &mut promised);
            let mut rng = Rng::new(seed * 1000 + op);
            for n in 0..24 {
                let mode = [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random][if n < 2 { n } else { 2 }];
                let after = disk.crash(mode, &mut rng);
                cut += check(&after, &history, &promised, &mut rng, &format!("seed {seed}, operation {op}, crash {n}"));
                states += 1;
            }
        }
    }
    println!("{states} crash states of {seed} runs, {cut} of them with something to cut");
}

/// Opens what a crash left and judges it. Returns 1 if recovery had something to cut.
pub(super) fn check(disk: &SimDisk, history: &History, promised: &Promised, rng: &mut Rng, case: &str) -> u64 {
    check_opened(&|| open(disk), history, promised, rng, case)
}

/// The same, of whatever `open` opens.
pub(super) fn check_opened(
    open: &dyn Fn() -> Result<(Store, Vec<Finding>)>,
    history: &History,
    promised: &Promised,
    rng: &mut Rng,
    case: &str,
) -> u64 {
    let (mut store, findings) = open().unwrap_or_else(|error| panic!("{case}: {error:?}"));
    assert_eq!(store.closed(), None, "{case}");
    assert!(findings.iter().all(|finding| finding.mended), "{case}: {findings:?}");
    let head = store.head();
    assert!(head.map(|head| head.seq) >= promised.durable, "{case}: {head:?}, promised {promised:?}");
    let known = |head: Head| history.heads.contains(&(head.seq, head.chain));
    assert!(head.is_none_or(known), "{case}: invented {head:?}");
    let sealed = |id| store.library().now().timeline().sealed(id).is_some();
    for &(resync, frame) in &promised.bases {
        let kept = store.base_head(resync).is_some_and(|head| head.frame >= frame);
        assert!(kept || dropped(history, resync), "{case}: base {resync} lost (sealed: {})", sealed(resync));
    }
    if let Some(head) = head {
        let seq = Seq::new(2 + rng.below(head.seq.number() - 1)).unwrap();
        check_view(&store, history, seq);
        check_view(&store, history, head.seq);
    }
    if rng.chance(1, 16) {
        go_on(&mut store, history, case);
        check_view(&store, history, history.last());
        let (again, findings) = open().unwrap();
        assert_eq!((again.closed(), findings.as_slice()), (None, [].as_slice()), "{case}: after going on");
        check_view(&again, history, history.last());
    }
    u64::from(!findings.is_empty())
}

/// Whether the history drops this base later.
pub(super) fn dropped(history: &History, resync: ResyncId) -> bool {
    let mut made = false;
    history.steps.iter().any(|step| {
        made |= matches!(step, Step::Base(id, _) if *id == resync);
        made && matches!(step, Step::DropUnsealed(_))
    })
}

/// Does all steps again: what is there is passed over, what is missing comes in.
pub(super) fn go_on(store: &mut Store, history: &History, case: &str) {
    for step in &history.steps {
        let step = if matches!(step, Step::Reopen | Step::Stop) { &Step::Sync } else { step };
        let done = perform(store, step, &mut Promised::default(), &|| unreachable!("not reopened"));
        done.unwrap_or_else(|error| panic!("{case}: going on with {step:?}: {error:?}"));
    }
}

/// A later unsynced frame survives, an earlier one does not: a hole, cut at its start; the later one never comes back.
#[test]
fn a_frame_behind_a_lost_one_is_not_believed() {
    let history = History::random(3, 12);
    let frames: Vec<_> = history
        .steps
        .iter()
        .filter_map(|step| if let Step::Append(f) = step { Some(f) } else { None })
        .flatten()
        .collect();
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk).unwrap();
    let mut places = Vec::new();
    for frame in &frames[..4] {
        store.append(&[(*frame).clone()], SessionId(1), WallTime(1)).unwrap();
        store.sync().unwrap();
        places.push(store.library().now().bytes());
    }
    drop(store);
    // As if nothing had been promised after the second: the third is lost, the fourth is whole.
    let file = crate::disk::Disk::open(&disk, &SegmentNo(1).file_name(), crate::disk::Open::Existing).unwrap();
    let hole = places[1];
    file.write_at(hole, &[std::io::IoSlice::new(&[0; 512])]).unwrap();
    file.sync().unwrap();
    let (store, findings) = open(&disk).unwrap();
    // The fourth frame's envelope says that the third was durable: this is damage, and nothing is cut.
    assert!(store.closed().is_some(), "{findings:?}");
    assert_eq!(store.head().map(|head| head.chain), Some(frames[1].head()));
    assert!(!findings[0].mended && findings[0].what.contains("damaged at byte"), "{findings:?}");
}

/// A clean stop promises the last frame too: flipped bits in it are damage, not a torn tail.
#[test]
fn after_a_clean_stop_no_flipped_bit_passes_for_a_torn_tail() {
    let history = History::random(9, 10);
    let mut steps = history.steps.clone();
    steps.push(Step::Sync);
    for byte in (0..2000).step_by(37) {
        let disk = SimDisk::new(1);
        let mut store = play(&disk, &steps, &mut Promised::default()).unwrap();
        store.stop(WallTime(9)).unwrap();
        let last = store.log().segments().last().unwrap().clone();
        let end = last.file.len().unwrap();
        drop(store);
        if last.sealed.is_some() || byte >= end - 4096 {
            continue;
        }
        disk.flip_bit(&last.header.number.file_name(), (end - 1 - byte) * 8).unwrap();
        let opened = open(&disk);
        let (store, findings) = opened.unwrap();
        let silent = findings.is_empty() && store.closed().is_none();
        let same = store.head().map(|head| head.chain) == history.heads.last().map(|head| head.1);
        assert!(!silent || same, "byte {byte} from the end: {findings:?}");
        assert!(findings.iter().all(|finding| !finding.mended), "byte {byte} from the end was cut: {findings:?}");
    }
}

/// A segment cut off at every byte of its last, promised frame is damage; of an unpromised one, a torn tail.
#[test]
fn truncation_at_every_byte_of_the_last_frame() {
    let mut history = History::new(4);
    let frames = history.frames(3);
    let disk = SimDisk::new(1);
    let (mut store, _) = open(&disk).unwrap();
    store.append(&frames[..2], SessionId(1), WallTime(1)).unwrap();
    store.sync().unwrap();
    let start = store.library().now().bytes();
    store.append(&frames[2..], SessionId(1), WallTime(1)).unwrap();
    store.sync().unwrap();
    drop(store);
    let file = crate::disk::Disk::open(&disk, &SegmentNo(1).file_name(), crate::disk::Open::Existing).unwrap();
    let content = start + 64 + frames[2].bytes().len() as u64;
    for len in (start..content).rev() {
        file.set_len(len).unwrap();
        let (store, findings) = open(&disk).unwrap();
        assert_eq!(store.closed(), None);
        assert_eq!(store.head().map(|head| head.chain), Some(frames[1].head()), "{len} bytes");
        assert_eq!(findings.len(), usize::from(len > start), "{len} bytes: {findings:?}");
        // Put it back for the next length: opening cut it.
        drop(store);
        let (mut store, _) = open(&disk).unwrap();
        store.append(&frames[2..], SessionId(1), WallTime(1)).unwrap();
        store.sync().unwrap();
    }
}

#[test]
fn another_groups_directory_is_refused() {
    let disk = SimDisk::new(1);
    drop(open(&disk).unwrap());
    let other = GroupId([8; 16]);
    assert_ne!(other, GROUP);
    let disk: std::sync::Arc<dyn crate::disk::Disk> = std::sync::Arc::new(disk);
    let refused = Store::open(disk, other, 1 << 20, super::model::entropy);
    assert_eq!(refused.unwrap_err().kind(), crate::error::ErrorKind::Corrupt);
}
