//! Thinning and cleaning against a model that knows every point: what is kept equals it, what is not is refused, whatever is held
//! meanwhile goes on reading, and none of it depends on where a crash or a mistake of the disk came.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use super::super::{Cleaner, Output, Store, View, When};
use super::history::{GROUP, History, SECTORS, Step, VOLUME};
use super::model::{Promised, check_view, entropy, open, perform};
use super::runs::merge;
use crate::codec::{Body, ClockKind, EpochBegin, KeptPoint};
use crate::disk::sim::{CrashMode, Rng};
use crate::disk::{Disk, SimDisk};
use crate::error::Result;
use crate::frame::Frame;
use crate::log::{PointsFile, remove_replaced};
use crate::retention::{Kept, Policy};
use crate::types::*;

/// A third of a minute between two records.
pub(super) const PACE: u64 = 40_000_000;
pub(super) const MINUTE: u64 = 60_000_000;
pub(super) const HOUR: u64 = 60 * MINUTE;

/// What is known of a history by who only looked at what was recorded.
#[derive(Debug, Default)]
pub(super) struct Points {
    /// Times of all records, each as late as the one before.
    times: BTreeMap<u64, u64>,
    /// Points that are offered.
    pub(super) offered: BTreeSet<u64>,
    /// Marks, and until when they are locked.
    pub(super) marks: BTreeMap<u64, (String, u64)>,
    is_covered: bool,
    /// Records that were points once.
    covered: BTreeSet<u64>,
}

impl Points {
    pub(super) fn hear(&mut self, frames: &[Frame]) {
        for frame in frames {
            let first = frame.first_seq().unwrap().number();
            for (seq, record) in (first..).zip(frame.records()) {
                let last = self.times.last_key_value().map_or(0, |(_, time)| *time);
                self.times.insert(seq, record.time.0.max(last));
                match record.body {
                    Body::Sealed(_) => self.is_covered = true,
                    Body::Gap(_) | Body::EpochBegin(EpochBegin { continues: false, .. }) => self.is_covered = false,
                    Body::Mark(mark) if self.is_covered => {
                        self.marks.insert(seq, (mark.name, mark.locked_until.map_or(0, |until| until.0)));
                    }
                    _ => {}
                }
                if self.is_covered {
                    self.offered.insert(seq);
                    self.covered.insert(seq);
                }
            }
        }
    }

    /// The rule, said once more: from the definition, a point at a time.
    fn thin(&mut self, upto: u64, policy: &Policy, now: u64, pins: &[Seq]) {
        let all: Vec<u64> = self.offered.iter().copied().collect();
        self.offered.retain(|&seq| {
            if seq >= upto {
                return true;
            }
            let time = self.times[&seq];
            let age = now.saturating_sub(time);
            let later = || all.iter().filter(|other| **other > seq).map(|other| self.times[other]);
            let is_last_of = |length: u64| later().all(|other| other / length != time / length);
            let mark = self.marks.get(&seq);
            age <= policy.every_write.0
                || age <= policy.every_minute.0 && is_last_of(MINUTE)
                || age <= policy.hourly.0 && is_last_of(HOUR)
                || mark.is_some_and(|(_, until)| age <= policy.marks.0 || now < *until)
                || pins.contains(&Seq::new(seq).unwrap())
        });
        self.marks.retain(|seq, _| self.offered.contains(seq));
    }
}

pub(super) fn policy(rng: &mut Rng) -> Policy {
    let [a, b, c] = [HOUR / 6, HOUR, 4 * HOUR].map(|most| Micros(rng.below(most)));
    Policy { every_write: a, every_minute: b, hourly: c, marks: Micros(rng.below(2 * HOUR)) }
}

pub(super) fn go_on(_: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// One step of thinning; what is left, if that is news.
pub(super) fn thin(
    store: &mut Store,
    disk: &SimDisk,
    policy: &Policy,
    now: WallTime,
    pins: &[Seq],
) -> Result<Option<Kept>> {
    let Some(kept) = Cleaner::new(store.library().now()).thinning(policy, now, pins)? else { return Ok(None) };
    let list = PointsFile::write(disk, GROUP, store.take_number(SegmentNo(0)), kept.clone())?;
    store.thin(&list)?;
    Ok(Some(kept))
}

/// Cleans everything that may be, worth it or not, in runs of any length. Now and then indexes are merged before, or after.
pub(super) fn clean(store: &mut Store, disk: &SimDisk, rng: &mut Rng) -> Result<usize> {
    if rng.chance(1, 3) {
        merge(disk, store, 2)?;
    }
    let cleaner = Cleaner::new(store.library().now());
    let mut plans = cleaner.everything(|| 1 + rng.below_len(4));
    plans.retain(|_| rng.chance(3, 4));
    let most = if rng.chance(1, 2) { 1 + rng.below_len(40) } else { 1000 };
    let examined = cleaner.examine_in(most, &plans, &mut go_on)?.unwrap();
    for one in &examined {
        let output = Output { disk, number: store.take_number(SegmentNo(0)), salt: entropy(), now: WallTime(1) };
        let new = cleaner.compact(one, output, &mut go_on)?.unwrap();
        let old = store.replace(new)?;
        remove_replaced(disk, &old)?;
    }
    if rng.chance(1, 3) {
        merge(disk, store, 2)?;
    }
    Ok(examined.len())
}

#[track_caller]
pub(super) fn check_offered(store: &Store, history: &History, points: &Points) {
    let version = store.library().now();
    let head = version.head().unwrap().seq.number();
    let kept = version.timeline().kept().map(|kept| kept.upto.number());
    for seq in 2..=head {
        let place = Seq::new(seq).unwrap();
        let found = version.find(&When::Seq(place)).unwrap();
        let is_offered = points.offered.contains(&seq);
        assert_eq!(found.is_ok(), is_offered, "seq:{seq}, thinned up to {kept:?}");
        if is_offered {
            check_view(store, history, place);
            let point = found.unwrap();
            assert_eq!(point.time.0, points.times[&seq]);
            assert_eq!(point.mark.as_ref(), points.marks.get(&seq).map(|(name, _)| name));
        } else {
            let around = found.unwrap_err();
            let before = points.offered.range(..seq).next_back().copied();
            let after = points.offered.range(seq..).next().copied();
            assert_eq!(around.before.map(|(seq, _)| seq.number()), before, "before {seq}");
            assert_eq!(around.after.map(|(seq, _)| seq.number()), after, "behind {seq}");
            if kept.is_some_and(|upto| seq < upto) {
                assert!(version.view(place).is_err(), "{seq} was thinned");
            }
        }
    }
    let covered = version.covered().unwrap().map(|(from, to)| (from.0, to.0));
    let ends = points.offered.first().zip(points.offered.last());
    assert_eq!(covered, ends.map(|(first, last)| (points.times[first], points.times[last])));
    let (listed, more) = version.points(None, None, usize::MAX - 1).unwrap();
    assert!(!more && listed.iter().map(|point| point.seq.number()).eq(points.offered.iter().copied()));
    let marks: Vec<u64> =
        version.timeline().marks().map(|(seq, ..)| seq.number()).filter(|seq| points.offered.contains(seq)).collect();
    assert!(marks.iter().eq(points.marks.keys()));
}

/// A time names the newest point that is left and not after it; in a gap, none.
pub(super) fn check_times(store: &Store, points: &Points, rng: &mut Rng) {
    let version = store.library().now();
    let last = version.head_time().unwrap().0;
    let records: Vec<u64> = points.times.values().copied().filter(|_| rng.chance(1, 4)).collect();
    let others: Vec<u64> = (0..20).map(|_| rng.below(last + PACE)).collect();
    for time in records.into_iter().chain(others) {
        let newest = points.offered.iter().rev().find(|seq| points.times[seq] <= time).copied();
        let record = points.times.iter().rev().find(|(_, at)| **at <= time).map(|(seq, _)| *seq);
        let is_gap = record.is_none_or(|seq| !points.covered.contains(&seq));
        // It begins behind the last point, which only is known where that is left.
        let may_be_gap = is_gap || record.is_some_and(|seq| !points.covered.contains(&(seq + 1)));
        match version.find(&When::At(WallTime(time))).unwrap() {
            Ok(point) => assert_eq!((Some(point.seq.number()), is_gap), (newest, false), "at {time}"),
            Err(around) => {
                assert!(may_be_gap || newest.is_none() || last < time, "at {time} there is no gap");
                assert_eq!(around.before.map(|(seq, _)| seq.number()), newest, "at {time}");
            }
        }
    }
}

#[test]
fn what_is_kept_equals_the_model_and_nothing_else_is_offered() {
    let (mut replaced, mut thinned, mut gone) = (0, 0, 0);
    for seed in 0..25 {
        let history = History::slow(seed, 60, PACE);
        let disk = SimDisk::new(seed);
        let mut rng = Rng::new(seed);
        let mut store = open(&disk).unwrap().0;
        let mut points = Points::default();
        let mut held: Vec<(View, Vec<u8>)> = Vec::new();
        let mut pins: Vec<Seq> = Vec::new();
        let mut last = WallTime(0);
        for step in &history.steps {
            perform(&mut store, step, &mut Promised::default(), &|| Ok(open(&disk)?.0)).unwrap();
            if let Step::Append(frames) = step {
                points.hear(frames);
            }
            if !matches!(step, Step::Sync | Step::Reopen | Step::Stop) || rng.chance(1, 2) {
                continue;
            }
            let version = store.library().now();
            let Some(head) = version.head_time() else { continue };
            if rng.chance(1, 3)
                && let Some(&pin) = points.offered.iter().nth(rng.below_len(points.offered.len().max(1)))
            {
                let seq = Seq::new(pin).unwrap();
                pins.push(seq);
                held.push((version.view(seq).unwrap(), history.image(seq)));
            }
            if rng.chance(1, 3) {
                pins.clear();
            }
            last = last.max(WallTime(head.0 + rng.below(HOUR)));
            let policy = policy(&mut rng);
            if let Some(kept) = thin(&mut store, &disk, &policy, last, &pins).unwrap() {
                let before = points.offered.len();
                let window = policy.window_start(last);
                assert!(points.times.range(..kept.upto.number()).all(|(_, time)| *time < window.0 || thinned > 0));
                points.thin(kept.upto.number(), &policy, last.0, &pins);
                (thinned, gone) = (thinned + 1, gone + before - points.offered.len());
            }
            replaced += clean(&mut store, &disk, &mut rng).unwrap();
            check_offered(&store, &history, &points);
            check_times(&store, &points, &mut rng);
        }
        check_offered(&store, &history, &points);
        drop(store);
        let (store, findings) = open(&disk).unwrap();
        assert_eq!((findings.as_slice(), store.closed()), ([].as_slice(), None));
        check_offered(&store, &history, &points);
        let verified = store.library().now().verify(go_on).unwrap();
        assert_eq!(verified.findings, []);
        for (view, image) in &held {
            let mut got = vec![0; usize::try_from(SECTORS * 512).unwrap()];
            view.read(VOLUME, 0, &mut got).unwrap();
            assert!(got == *image, "a view that was held over all that, as of {}", view.seq());
        }
        let sealed =
            store.log().segments().filter_map(|segment| segment.sealed).map(|sealed| sealed.number.file_name());
        let mut named: Vec<String> = sealed.collect();
        named.sort_unstable();
        let files = disk.list().unwrap();
        let files: Vec<_> = files.into_iter().filter(|name| name.ends_with(".seg")).collect();
        assert!(files.len() <= named.len() + 2, "files are left over: {files:?}, {named:?}");
    }
    assert!(replaced > 100 && thinned > 50 && gone > 1000, "{replaced} {thinned} {gone}");
}

/// What changed between two points is never told too small, whatever was cleaned between them.
#[test]
fn what_changed_is_never_missed_after_cleaning() {
    let mut rng = Rng::new(9);
    for seed in 0..6 {
        let history = History::slow(seed, 60, PACE);
        let disk = SimDisk::new(seed);
        let mut store = super::model::play(&disk, &history.steps, &mut Promised::default()).unwrap();
        let now = WallTime(store.library().now().head_time().unwrap().0 + 1);
        let policy =
            Policy { every_write: Micros(1), every_minute: Micros(HOUR), hourly: Micros(9 * HOUR), marks: Micros(0) };
        thin(&mut store, &disk, &policy, now, &[]).unwrap().expect("there is something to thin");
        clean(&mut store, &disk, &mut rng).unwrap();
        let version = store.library().now();
        let upto = version.timeline().kept().unwrap().upto;
        let all: Vec<Seq> = version.points(None, None, 10_000).unwrap().0.iter().map(|point| point.seq).collect();
        for _ in 0..100 {
            let b = all[rng.below_len(all.len())];
            // A peer may name any place that it remembers, if what it is compared with is not thinned.
            let a = if b >= upto {
                Seq::new(1 + rng.below(b.number())).unwrap()
            } else {
                all[rng.below_len(all.len())].min(b)
            };
            let view = version.view(b).unwrap();
            let changed = view.changed_since(Some(a), VOLUME, view.whole(VOLUME).unwrap()).unwrap();
            let (old, new) = (history.image(a), history.image(b));
            for sector in 0..SECTORS {
                let at = usize::try_from(sector * 512).unwrap();
                let told = changed.iter().any(|e| (e.start().index()..e.end().index()).contains(&sector));
                assert!(told || old[at..at + 512] == new[at..at + 512], "sector {sector} changed between {a} and {b}");
            }
        }
    }
}

pub(super) fn rule() -> Policy {
    Policy { every_write: Micros(1), every_minute: Micros(HOUR / 2), hourly: Micros(9 * HOUR), marks: Micros(HOUR) }
}

/// Thins and cleans twice, as far as the disk lets it. What was told to be thinned is kept up to date even then.
pub(super) fn run(disk: &SimDisk, seed: u64, told: &mut Vec<Kept>) -> Result<()> {
    let mut store = open(disk)?.0;
    let mut rng = Rng::new(seed);
    let head = store.library().now().head_time().unwrap();
    for round in 1..3 {
        let now = WallTime(head.0 + round * HOUR / 4);
        if let Some(kept) = Cleaner::new(store.library().now()).thinning(&rule(), now, &[])? {
            told.push(kept.clone());
            let list = PointsFile::write(disk, GROUP, store.take_number(SegmentNo(0)), kept)?;
            store.thin(&list)?;
        }
        clean(&mut store, disk, &mut rng)?;
    }
    store.stop(WallTime(7))
}

/// Surveys, and does what is worth it.
pub(super) fn clean_up(store: &mut Store, disk: &SimDisk) {
    let cleaner = Cleaner::new(store.library().now());
    let plans = cleaner.survey(1 << 20, &mut go_on).unwrap().unwrap().plans;
    let mut rest = plans.as_slice();
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(Cleaner::batch(rest));
        rest = later;
        for one in &cleaner.examine(batch, &mut go_on).unwrap().unwrap() {
            let output = Output { disk, number: store.take_number(SegmentNo(0)), salt: entropy(), now: WallTime(1) };
            let new = cleaner.compact(one, output, &mut go_on).unwrap().unwrap();
            remove_replaced(disk, &store.replace(new).unwrap()).unwrap();
        }
    }
}

/// Tens of segments of what is no data; among it, some times, a twentieth that is alive.
#[test]
fn what_is_no_data_leaves_nothing_behind() {
    let extent = |at, count| Extent::new(Sector::new(at).unwrap(), Sectors::new(count).unwrap()).unwrap();
    for (has_fills, has_data) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut history = History::new(3);
        let mut rng = Rng::new(3);
        let disk = SimDisk::new(3);
        let begin = Step::Append(history.frames(1));
        history.steps.push(begin);
        history.base();
        let frames: u64 = if has_fills { 200 } else { 1500 };
        for n in 0..frames {
            let mut bodies = vec![Body::Clock(ClockKind::Report), Body::Flush];
            if has_fills {
                let place = |rng: &mut Rng| extent(rng.below(80), 1 + rng.below(16));
                bodies.extend((0..40).map(|_| Body::Discard { volume: VOLUME, extent: place(&mut rng) }));
                let fill = n.to_le_bytes();
                bodies.extend((0..40).map(|_| Body::Pattern { volume: VOLUME, extent: place(&mut rng), fill }));
            }
            if has_data && n % (frames / 20) == 0 {
                let mut data = vec![0; 8 * 512];
                rng.fill(&mut data);
                history.write(extent(n / (frames / 20) % 12 * 8, 8), data);
            }
            let step = Step::Append(vec![history.live(bodies)]);
            history.steps.extend([step, Step::Sync]);
        }
        let mut store = super::model::play(&disk, &history.steps, &mut Promised::default()).unwrap();
        let now = WallTime(store.library().now().head_time().unwrap().0 + 20 * HOUR);
        let kept = thin(&mut store, &disk, &rule(), now, &[]).unwrap().unwrap();
        let before = store.library().now().bytes();
        clean_up(&mut store, &disk);
        let cleaned = store.library().now();
        // The newest two, and a base, are left alone.
        let most = if has_data { 200_000 } else { 140_000 };
        assert!(cleaned.bytes() < most && before > 900_000, "{has_fills} {has_data}: {} of {before}", cleaned.bytes());
        check_lists(&store, &history, &kept);
        clean_up(&mut store, &disk);
        assert_eq!(store.library().now().bytes(), cleaned.bytes(), "nothing is left to do");
    }
}

/// Power cuts at every operation of thinning and cleaning: a list that was or one that is, every point of it right, and it goes on.
#[test]
fn power_cuts_while_cleaning_lose_no_point() {
    let (mut states, mut mended) = (0, 0);
    for seed in 0..4 {
        let history = History::slow(seed, 30, PACE);
        let disk = SimDisk::new(seed);
        drop(super::model::play(&disk, &history.steps, &mut Promised::default()).unwrap());
        let (whole, before) = (disk.crash(CrashMode::KeepAll, &mut Rng::new(0)), disk);
        let first = whole.ops();
        run(&whole, seed, &mut Vec::new()).unwrap();
        for op in (first..whole.ops()).step_by(2) {
            let disk = before.crash(CrashMode::KeepAll, &mut Rng::new(0));
            disk.stop_at(disk.ops() + op - first);
            let mut told = Vec::new();
            let _ = run(&disk, seed, &mut told);
            let mut rng = Rng::new(op);
            for n in 0..4 {
                let mode = [CrashMode::LoseAll, CrashMode::KeepAll, CrashMode::Random][n.min(2)];
                let after = disk.crash(mode, &mut rng);
                let case = format!("seed {seed}, operation {op}, crash {n}");
                mended += check_crashed(&after, &history, &told, &case);
                states += 1;
                if rng.chance(1, 8) {
                    run(&after, seed, &mut told.clone()).unwrap_or_else(|error| panic!("{case}: {error:?}"));
                    check_crashed(&after, &history, &[], &case);
                }
            }
        }
    }
    println!("{states} crash states, {mended} with something to mend");
}

pub(super) fn check_crashed(disk: &SimDisk, history: &History, told: &[Kept], case: &str) -> usize {
    let (store, findings) = open(disk).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    assert!(
        store.closed().is_none() && findings.iter().all(|one| one.mended),
        "{case}: {findings:?} {:?}",
        store.closed()
    );
    let version = store.library().now();
    assert_eq!(version.head().map(|head| head.seq), Some(history.last()), "{case}");
    if let Some(kept) = version.timeline().kept() {
        assert!(told.is_empty() || told.contains(kept), "{case}: a list that nobody wrote");
        for KeptPoint { seq, .. } in &kept.points {
            check_view(&store, history, *seq);
        }
        check_view(&store, history, kept.upto);
    }
    check_view(&store, history, history.last());
    findings.len()
}

pub(super) fn check_lists(store: &Store, history: &History, kept: &Kept) {
    let version = store.library().now();
    assert_eq!(version.timeline().kept().map(|known| &**known), Some(kept));
    assert_eq!(version.head().map(|head| head.seq), Some(history.last()));
    kept.points.iter().for_each(|point| check_view(store, history, point.seq));
    check_view(store, history, kept.upto);
}
