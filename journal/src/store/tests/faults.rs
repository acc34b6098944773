//! Disks that fail, lie and put things elsewhere, at every operation and every read of scripted runs.
//!
//! What is asked of the store: an error is reported and ends all promises until it is opened again; nothing promised is missing then
//! unless the disk lied, and if it lied, that is found wherever anything that survived tells; wrong data is never served.

use super::crash::{check, dropped, go_on};
use super::history::{History, SECTORS, Step, VOLUME};
use super::model::{Promised, open, perform, play};
use crate::codec::{ENVELOPE_BYTES, Envelope, MANIFEST_ENTRY_BYTES, ManifestEntry, ManifestLine, SegmentKind};
use crate::codec::{SEGMENT_HEADER_BYTES, SegmentHeader};
use crate::disk::sim::{CrashMode, Fault, ReadFault, Rng};
use crate::disk::{Disk, Open, SimDisk};
use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;
use crate::types::*;

/// Histories that each test goes through.
const SEEDS: std::ops::Range<u64> = 500..506;

/// Plays the steps until one fails; the store that it failed on, which step it was, and the error.
fn play_until_error(
    disk: &SimDisk,
    steps: &[Step],
    promised: &mut Promised,
) -> (Option<Store>, Option<(usize, Error)>) {
    let reopen = || match open(disk)?.0 {
        // Opened for reading only.
        store if store.closed().is_some() => Err(Error::new(ErrorKind::NoSpace, "closed when it was opened")),
        store => Ok(store),
    };
    let mut store = match reopen() {
        Ok(store) => store,
        Err(error) => return (None, Some((0, error))),
    };
    for (i, step) in steps.iter().enumerate() {
        if let Err(error) = perform(&mut store, step, promised, &reopen) {
            return (Some(store), Some((i, error)));
        }
    }
    (Some(store), None)
}

fn operations(history: &History) -> u64 {
    let whole = SimDisk::new(0);
    play(&whole, &history.steps, &mut Promised::default()).unwrap();
    whole.ops()
}

#[test]
fn an_error_at_any_operation_ends_all_promises_and_loses_none() {
    let (mut cases, mut closed) = (0, 0);
    for seed in SEEDS {
        let history = History::random(seed, 22);
        for op in 1..=operations(&history) {
            for fault in [Fault::Io, Fault::NoSpace] {
                let case = format!("seed {seed}, {fault:?} at operation {op}");
                let disk = SimDisk::new(seed);
                disk.fail_nth(op, fault);
                let mut promised = Promised::default();
                let (store, failed) = play_until_error(&disk, &history.steps, &mut promised);
                let Some((step, error)) = failed else { panic!("{case}: nobody heard of it") };
                let kind = if fault == Fault::Io { ErrorKind::Io } else { ErrorKind::NoSpace };
                assert_eq!(error.kind(), kind, "{case}: {error:?}");
                if let Some(mut store) = store {
                    // Where it was opening that failed, the store from before is still in our hands, and whole.
                    let opening = matches!(history.steps[step], Step::Reopen | Step::Stop);
                    assert!(store.closed().is_some() || opening, "{case}: still open after {error:?}");
                    closed += u64::from(store.closed().is_some());
                    if store.closed().is_some() {
                        promises_nothing(&mut store, &history, &case);
                    }
                    check_readers(&store, &history, &promised, &case);
                }
                goes_on(&disk, &history, &promised, &mut Rng::new(seed * 10_000 + op), &case);
                cases += 1;
            }
        }
    }
    println!("{cases} failed operations, {closed} of them closed a store");
    assert!(cases > 1000 && closed > 500, "{cases} {closed}");
}

/// A closed store takes nothing and promises nothing, however often it is asked.
fn promises_nothing(store: &mut Store, history: &History, case: &str) {
    let poisoned = |result: Result<()>, what: &str| {
        let error = result.expect_err(&format!("{case}: a closed store did {what}"));
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{case}: {what}: {error:?}");
    };
    for _ in 0..2 {
        poisoned(store.sync().map(drop), "sync");
        poisoned(store.stop(WallTime(1)), "stop");
        for step in &history.steps {
            if let Step::Append(frames) = step {
                let result = store.append(frames, SessionId(1), WallTime(1));
                assert!(result.is_err(), "{case}: a closed store took frames");
            }
        }
        for resync in store.log().bases().collect::<Vec<_>>() {
            poisoned(store.sync_base(resync).map(drop), "sync_base");
        }
    }
}

/// Readers see what was promised before, and nothing else.
fn check_readers(store: &Store, history: &History, promised: &Promised, case: &str) {
    let version = store.library().now();
    let seen = version.head().map(|head| head.seq);
    assert!(seen <= promised.durable, "{case}: readers see {seen:?}, {promised:?}");
    if let Some(seq) = seen.filter(|seq| seq.number() > 1) {
        super::model::check_view(store, history, seq);
    }
}

/// After the error: opened again on the same machine, and again after a power cut; and after a power cut at once.
fn goes_on(disk: &SimDisk, history: &History, promised: &Promised, rng: &mut Rng, case: &str) {
    for mode in [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random] {
        check(&disk.crash(mode, rng), history, promised, rng, &format!("{case}, then {mode:?}"));
    }
    let mut promised = promised.clone();
    let mut store = match open(disk) {
        Ok((store, _)) => store,
        // The directory's fsync failed: this simulated machine never opens it again.
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Poisoned, "{case}: {error:?}");
            return;
        }
    };
    promised.by(&store);
    check(&disk.crash(CrashMode::LoseAll, rng), history, &promised, rng, &format!("{case}, opened again, power cut"));
    go_on(&mut store, history, case);
    promised.by(&store);
    check(&disk.crash(CrashMode::LoseAll, rng), history, &promised, rng, &format!("{case}, gone on, power cut"));
}

/// What became of a disk that lied.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// All that was promised is there.
    Whole,
    /// Something is not, and opening says so.
    Reported,
    /// Frames of a base that nobody has sealed are not: whoever sends it goes on from what is there.
    Resent,
    /// Something is not, and nothing that survived tells of it: only a peer can.
    Unknowable,
}

/// Opens what a lying disk left. Wrong data, invented records and silence where something tells are failures.
fn judge(disk: &SimDisk, history: &History, promised: &Promised, case: &str) -> Outcome {
    let told = evidence(disk);
    let (store, findings) = match open(disk) {
        Ok(opened) => opened,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}: {error:?}");
            return Outcome::Reported;
        }
    };
    let version = store.library().now();
    let head = version.head();
    let known = |head: Head| history.heads.contains(&(head.seq, head.chain));
    assert!(head.is_none_or(known), "{case}: invented {head:?}");
    let unreadable = head.is_some_and(|head| !views_are_right(&store, history, head.seq, case));
    let seq = head.map(|head| head.seq);
    let base_is_there = |&(id, frame): &(ResyncId, FrameNo)| {
        dropped(history, id) || store.base_head(id).is_some_and(|head| head.frame >= frame)
    };
    if store.closed().is_some() || unreadable {
        let verified = version.verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
        assert!(!findings.is_empty() || !verified.findings.is_empty(), "{case}: damage without a finding");
        return Outcome::Reported;
    }
    if seq >= promised.durable {
        let sealed = |&(id, _): &(ResyncId, FrameNo)| version.timeline().sealed(id).is_some();
        let missing = promised.bases.iter().filter(|base| !base_is_there(base)).inspect(|base| {
            assert!(!sealed(base), "{case}: base {} is sealed and not whole", base.0);
        });
        return if missing.count() == 0 { Outcome::Whole } else { Outcome::Resent };
    }
    assert!(Seq::encode(seq) >= told, "{case}: {told} was promised on disk, readable up to {seq:?}: {findings:?}");
    Outcome::Unknowable
}

/// Whether the views read; what they read has to be right.
pub(super) fn views_are_right(store: &Store, history: &History, head: Seq, case: &str) -> bool {
    let mut all = true;
    for n in (2..=head.number()).step_by(5).chain([head.number()]).filter(|&n| n > 1) {
        let seq = Seq::new(n).unwrap();
        let mut got = vec![0xaa; usize::try_from(SECTORS * 512).unwrap()];
        match store.library().now().view(seq).and_then(|view| view.read(VOLUME, 0, &mut got)) {
            Ok(()) => assert!(got == history.image(seq), "{case}: wrong data as of {seq}"),
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Invalid), "{case}: {error:?}");
                all = false;
            }
        }
    }
    all
}

/// The highest `Seq` that anything readable on the disk says was durable: looked for without the journal's own recovery.
fn evidence(disk: &SimDisk) -> u64 {
    let mut highest = 0;
    for name in disk.list().unwrap() {
        let file = disk.open(&name, Open::ReadOnly).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read_at(0, &mut bytes).unwrap();
        if name == "manifest" {
            for line in bytes.chunks(MANIFEST_ENTRY_BYTES).filter_map(|line| line.first_chunk()) {
                let seq = match ManifestLine::decode(line).map(|line| line.entry) {
                    Ok(ManifestEntry::Stopped(stopped)) => Seq::encode(stopped.seq),
                    Ok(ManifestEntry::Sealed(sealed)) => Seq::encode(sealed.end.and_then(Seq::before)),
                    _ => 0,
                };
                highest = highest.max(seq);
            }
        }
        let header = bytes.first_chunk::<SEGMENT_HEADER_BYTES>().and_then(|bytes| SegmentHeader::decode(bytes).ok());
        let Some(header) = header.filter(|header| matches!(header.kind, SegmentKind::Live { .. })) else { continue };
        for (i, sector) in bytes.chunks(512).enumerate() {
            let envelope = sector.first_chunk::<ENVELOPE_BYTES>().and_then(|bytes| Envelope::decode(bytes).ok());
            let ours = |e: &Envelope| e.salt == header.salt && e.offset == i as u64 * 512;
            highest = highest.max(envelope.filter(ours).map_or(0, |e| e.durable));
        }
    }
    highest
}

#[test]
fn a_lying_flush_is_found_where_anything_tells() {
    let (mut cases, mut lost, mut reported) = (0, 0, 0);
    for seed in SEEDS {
        let history = History::random(seed, 22);
        let ops = operations(&history);
        for op in 1..=ops {
            for later in [1, 2, 4, 8, 16, 32, ops] {
                let disk = SimDisk::new(seed);
                disk.fail_nth(op, Fault::IgnoreFlush);
                disk.stop_at(op + later);
                let mut promised = Promised::default();
                drop(play_until_error(&disk, &history.steps, &mut promised));
                let mut rng = Rng::new(seed * 10_000 + op * 10 + later);
                for mode in [CrashMode::LoseAll, CrashMode::Random, CrashMode::Random] {
                    let case = format!("seed {seed}, flush {op} ignored, power off {later} later, {mode:?}");
                    match judge(&disk.crash(mode, &mut rng), &history, &promised, &case) {
                        Outcome::Whole | Outcome::Resent => {}
                        Outcome::Reported => reported += 1,
                        Outcome::Unknowable => lost += 1,
                    }
                    cases += 1;
                }
            }
        }
    }
    println!(
        "{cases} power cuts after an ignored flush: {reported} reported as damage, {lost} lost what nothing told of"
    );
    assert!(cases > 5000 && reported > 100, "{cases} {reported}");
}

#[test]
fn a_misdirected_write_is_found() {
    let (mut cases, mut reported, mut told_by_peer) = (0, 0, 0);
    for seed in SEEDS {
        let history = History::random(seed, 22);
        for op in 1..=operations(&history) {
            let mut rng = Rng::new(seed * 10_000 + op);
            let inside = rng.below(48) * 512;
            for place in [0, 100, 512, 4096, inside, 1 << 20] {
                let case = format!("seed {seed}, write {op} went to {place}");
                let disk = SimDisk::new(seed);
                disk.fail_nth(op, Fault::Misdirect(place));
                let mut promised = Promised::default();
                let (store, failed) = play_until_error(&disk, &history.steps, &mut promised);
                if let (Some(mut store), None) = (store, &failed) {
                    // From here on everything is promised, and the manifest tells.
                    store.stop(WallTime(9)).unwrap();
                }
                let outcome = judge(&disk, &history, &promised, &case);
                // The only copy of what told was lost, the store was opened again, and then what came next did not continue it.
                let refused = failed.is_some_and(|(_, error)| error.kind() == ErrorKind::Invalid);
                assert!(outcome != Outcome::Unknowable || refused, "{case}: nobody noticed");
                told_by_peer += u64::from(outcome == Outcome::Unknowable);
                reported += u64::from(outcome == Outcome::Reported);
                cases += 1;
            }
        }
    }
    println!(
        "{cases} misdirected writes: {reported} reported as damage, {told_by_peer} noticed by the peer, the rest did no harm"
    );
    assert!(cases > 3000 && reported > 1000, "{cases} {reported}");
}

#[test]
fn a_failed_or_short_read_never_makes_wrong_data_and_destroys_nothing() {
    let (mut cases, mut errors) = (0, 0);
    for seed in SEEDS.take(3) {
        let history = History::random(seed, 30);
        for stopped in [false, true] {
            let disk = SimDisk::new(seed);
            let mut store = play(&disk, &history.steps, &mut Promised::default()).unwrap();
            if stopped {
                store.stop(WallTime(9)).unwrap();
            }
            drop(store);
            let copy = || disk.crash(CrashMode::KeepAll, &mut Rng::new(1));
            let clean = copy();
            assert!(views_are_right(&open(&clean).unwrap().0, &history, history.last(), "no fault"));
            for read in 1..=clean.reads() {
                for fault in [ReadFault::Io, ReadFault::Short] {
                    let case = format!("seed {seed}, {fault:?} at read {read}");
                    let disk = copy();
                    disk.fail_nth_read(read, fault);
                    errors += u64::from(!reads_right_or_not_at_all(&disk, &history, &case));
                    // The fault is over: all is there.
                    let (store, findings) = open(&disk).unwrap_or_else(|error| panic!("{case}: {error:?}"));
                    assert_eq!((store.closed(), findings.as_slice()), (None, [].as_slice()), "{case}: afterwards");
                    assert_eq!(store.head().map(|head| head.seq), Some(history.last()), "{case}: afterwards");
                    super::model::check_view(&store, &history, history.last());
                    cases += 1;
                }
            }
        }
    }
    println!("{cases} faulty reads, {errors} of them seen as errors");
    assert!(cases > 1000 && errors > 500, "{cases} {errors}");
}

/// Opens and reads while one read goes wrong. Whether all went as if nothing had happened.
fn reads_right_or_not_at_all(disk: &SimDisk, history: &History, case: &str) -> bool {
    let store = match open(disk) {
        Ok((store, _)) => store,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Io | ErrorKind::Corrupt), "{case}: {error:?}");
            return false;
        }
    };
    let Some(head) = store.library().now().head() else { return false };
    let mut all = store.closed().is_none();
    for n in (2..=head.seq.number()).step_by(5).chain([head.seq.number()]) {
        let seq = Seq::new(n).unwrap();
        let mut got = vec![0xaa; usize::try_from(SECTORS * 512).unwrap()];
        match store.library().now().view(seq).and_then(|view| view.read(VOLUME, 0, &mut got)) {
            Ok(()) => assert!(got == history.image(seq), "{case}: wrong data as of {seq}"),
            Err(_) => all = false,
        }
    }
    all
}

/// The end of the manifest is lost, or an old one is put back: whatever it still names is right, the rest is reported.
#[test]
fn a_manifest_that_lost_its_end_never_makes_wrong_data() {
    let (mut cases, mut reported) = (0, 0);
    for seed in SEEDS {
        let history = History::random(seed, 22);
        let disk = SimDisk::new(seed);
        drop(play(&disk, &history.steps, &mut Promised::default()).unwrap());
        let len = disk.open("manifest", Open::ReadOnly).unwrap().len().unwrap();
        for kept in 1..len / MANIFEST_ENTRY_BYTES as u64 {
            let case = format!("seed {seed}, {kept} entries kept");
            let copy = disk.crash(CrashMode::KeepAll, &mut Rng::new(1));
            let manifest = copy.open("manifest", Open::Existing).unwrap();
            manifest.set_len(kept * MANIFEST_ENTRY_BYTES as u64).unwrap();
            let promised = Promised { durable: Some(history.last()), bases: Vec::new() };
            let outcome = judge(&copy, &history, &promised, &case);
            assert_ne!(outcome, Outcome::Unknowable, "{case}");
            reported += u64::from(outcome == Outcome::Reported);
            cases += 1;
        }
    }
    println!("{cases} manifests without their end: {reported} reported as damage, the rest did no harm");
    assert!(reported > 10, "{reported}");
}
