//! The decisions against naive models, the bytes against golden ones, the gate against itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use journal::disk::{Disk, FileDisk, SimDisk};
use journal::types::{BootId, Changed, EpochId, ExtentRun, GroupId, Sectors, Seq, VolumeUuid, WallTime};
use nbd::{Export, Transfer};

use super::codec::{Change, FILE_BYTES, NOTE_AT, Note, Run, SECTOR, TRANSACTIONS_AT, Transaction};
use super::ledger::{Job, Ledger};
use super::marks::{Generation, Marks};
use super::recover::{self, Hot as Said};
use super::*;
use crate::source::Storage;
use crate::tap::Tap;
use crate::testing::{FaultySource, Rng, TestClock, VOLUME, begin, entropy, extent};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/v1/hot.log");
pub(super) const BOOT: BootId = BootId([4; 16]);

pub(super) fn subject(extents: u64) -> Subject {
    Subject {
        group: GroupId([1; 16]),
        volume: VolumeUuid([2; 16]),
        epoch: EpochId([3; 16]),
        size: Sectors::new(extents * EXTENT_SECTORS).unwrap(),
        dev: 5,
        inode: 6,
    }
}

pub(super) fn in_extent(number: ExtentNo) -> journal::types::Extent {
    extent(u64::from(number) * EXTENT_SECTORS + 8, 8)
}

pub(super) fn place(disk: Arc<dyn Disk>, clock: Arc<TestClock>) -> Place {
    Place { disk, boot: BOOT, clock, entropy }
}

fn head() -> Head {
    Head { subject: subject(100), boot: BOOT, salt: [7; 16], is_all: false }
}

/// The disk as the jobs leave it: `None` is all.
fn apply(disk: Option<BTreeSet<ExtentNo>>, job: &Job) -> Option<BTreeSet<ExtentNo>> {
    let (mut disk, runs) = match job {
        Job::Nothing => return disk,
        Job::All => return None,
        Job::Rewrite(runs) => (BTreeSet::new(), runs),
        Job::Append(runs) => (disk?, runs),
    };
    for run in runs {
        for extent in run.first..run.first + run.count {
            if run.hot {
                disk.insert(extent)
            } else {
                disk.remove(&extent)
            };
        }
    }
    Some(disk)
}

/// Whatever was granted and not cooled since is hot on disk, before, during and after each batch, also one that fails; and the list
/// stays within its bounds. The model is a set.
#[test]
fn what_is_granted_is_said() {
    let (mut granted_ever, mut alls, mut rewrites) = (0_u64, 0, 0);
    for seed in 1..400 {
        let mut rng = Rng(seed);
        let extents = 64;
        let (hot_max, room) = (8 + usize::try_from(rng.below(40)).unwrap(), 3 + usize::try_from(rng.below(6)).unwrap());
        let mut ledger = Ledger::new(extents, hot_max, room);
        let mut disk: Option<BTreeSet<ExtentNo>> = None;
        let mut job = None;
        let mut granted: BTreeSet<ExtentNo> = BTreeSet::new();
        let mut waiting: Vec<(ExtentNo, u64)> = Vec::new();
        let mut transactions = 0;
        for _ in 0..400 {
            match rng.below(10) {
                0..=3 => {
                    let extent = u32::try_from(rng.below(extents.into())).unwrap();
                    let ticket = ledger.ask([extent]);
                    waiting.push((extent, ticket));
                }
                4 | 5 if job.is_none() => job = Some(ledger.begin()),
                6 | 7 => {
                    let Some(job) = job.take() else { continue };
                    let works = rng.below(20) > 0;
                    disk = if works { apply(disk, &job) } else { None };
                    match &job {
                        Job::Append(runs) => transactions += runs.len().div_ceil(codec::RUNS_MAX),
                        Job::Rewrite(runs) => transactions = runs.len().div_ceil(codec::RUNS_MAX),
                        Job::All => transactions += 1,
                        Job::Nothing => {}
                    }
                    assert!(transactions <= room, "seed {seed}");
                    ledger.ended(works);
                    alls += u32::from(disk.is_none());
                    rewrites += u32::from(matches!(job, Job::Rewrite(_)));
                    assert!(disk.as_ref().is_none_or(|hot| hot.len() <= hot_max), "seed {seed}");
                }
                8 => {
                    if let Some(&extent) = granted.iter().nth(usize::try_from(rng.below(8)).unwrap()) {
                        granted.remove(&extent);
                        ledger.cool(extent);
                    }
                }
                _ if ledger.is_all() && ledger.fits(granted.len()) => {
                    ledger.list(granted.iter().copied());
                }
                _ => {}
            }
            waiting.retain(|&(extent, ticket)| {
                let may_pass = ledger.is_redeemed(ticket) && ledger.is_hot(extent);
                if may_pass {
                    granted.insert(extent);
                    granted_ever += 1;
                } else if ledger.is_redeemed(ticket) {
                    // As the gate does: it is asked for again.
                    return false;
                }
                !may_pass
            });
            let during = job.as_ref().map(|job| apply(disk.clone(), job));
            for state in [Some(&disk), during.as_ref()].into_iter().flatten() {
                let is_said = state.as_ref().is_none_or(|hot| granted.is_subset(hot));
                assert!(is_said, "seed {seed}: granted {granted:?}, on disk {state:?}");
            }
        }
    }
    println!("{granted_ever} granted; all was hot after {alls} batches; {rewrites} rewrites");
    assert!(granted_ever > 10_000 && alls > 100 && rewrites > 100);
}

#[test]
fn a_list_that_is_cooled_is_empty_and_costs_little() {
    let mut ledger = Ledger::new(1000, 500, 100);
    ledger.list([]);
    assert_eq!(ledger.begin(), Job::Rewrite(vec![]));
    ledger.ended(true);
    // Many share a batch; what is asked for while it is on its way goes with the next.
    let first = ledger.ask([10, 30, 50]);
    let job = ledger.begin();
    let second = ledger.ask([30, 70]);
    let run = |first, count, hot| Run { first, count, hot };
    assert_eq!(job, Job::Append(vec![run(10, 1, true), run(30, 1, true), run(50, 1, true)]));
    assert!(!ledger.is_redeemed(first) && !ledger.is_hot(30));
    ledger.ended(true);
    assert!(ledger.is_redeemed(first) && !ledger.is_redeemed(second) && ledger.is_hot(30));
    // What was cooled and is wanted again before that was said costs nothing; a neighbour of what is hot brings those ahead of it.
    ledger.cool(10);
    ledger.cool(50);
    assert!(!ledger.is_hot(10));
    let ticket = ledger.ask([10]);
    assert!(ledger.is_redeemed(ticket) && ledger.is_hot(10));
    ledger.ask([11]);
    assert_eq!(ledger.begin(), Job::Append(vec![run(50, 1, false), run(11, 16, true), run(70, 1, true)]));
    ledger.ended(true);
    (0..100).for_each(|extent| ledger.cool(extent));
    assert!(matches!(ledger.begin(), Job::Append(_)));
    ledger.ended(true);
    assert_eq!((ledger.count(), ledger.has_more(), ledger.is_all()), (0, false, false));
}

#[test]
fn an_extent_in_use_is_not_closed() {
    let marks = Marks::new(10_000);
    assert!(!marks.enter(9_999), "nothing is open at first");
    marks.open(9_999);
    assert!(!marks.close(9_999, Generation(5)), "a change is in progress");
    marks.leave(9_999);
    let over = marks.turn();
    assert!(marks.enter(9_999));
    marks.leave(9_999);
    assert!(!marks.close(9_999, over), "a change ended in the next generation");
    assert_eq!(marks.all_open().collect::<Vec<_>>(), [9_999]);
    let over = marks.turn();
    assert!(marks.close(9_999, over) && !marks.close(9_999, over));
    assert!(!marks.enter(9_999), "it is closed");
    marks.leave(9_999);
    assert_eq!(marks.all_open().count(), 0);
}

/// Threads change extents while another tends: the last change of whatever is closed had been captured before the order was asked
/// where it stands. If that were asked before the generation is turned, a change could end in between and count as covered: so
/// changes go on while it is asked, and then move on to other extents.
fn turns_cold(hot_max: usize) {
    const WINDOW: u64 = 5;
    let clock = Arc::new(TestClock::default());
    let place = place(Arc::new(SimDisk::new(1)), clock.clone());
    let hot = Hot::begin_with(place, subject(30), &Left::Only(vec![]), WallTime(0), (hot_max, 0)).unwrap();
    let captured = AtomicU64::new(1);
    // By extent: its last change's place in the order.
    let changed: Vec<_> = (0..30).map(|_| AtomicU64::new(0)).collect();
    let (flushed, window, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let last_change = |number: ExtentNo| &changed[usize::try_from(number).unwrap()];
    let change = |seed: u64| {
        let mut rng = Rng(seed);
        while !done.load(Ordering::SeqCst) {
            let from = window.load(Ordering::SeqCst) % 6 * WINDOW;
            let number = u32::try_from(from + rng.below(WINDOW)).unwrap();
            let pass = hot.enter([in_extent(number)]);
            let seq = captured.fetch_add(1, Ordering::SeqCst) + 1;
            last_change(number).fetch_max(seq, Ordering::SeqCst);
            drop(pass);
        }
    };
    // More than may be on their way from before.
    let ten_more = || {
        let now = captured.load(Ordering::SeqCst);
        while captured.load(Ordering::SeqCst) < now + 10 {
            std::thread::yield_now();
        }
        now
    };
    let order = || {
        let now = ten_more();
        flushed.store(now, Ordering::SeqCst);
        window.fetch_add(1, Ordering::SeqCst);
        Seq::new(now)
    };
    let tend = || {
        let mut closed = 0;
        for _ in 0..300 {
            ten_more();
            clock.boottime.fetch_add(20_000_000, Ordering::SeqCst);
            let (before, through) = (hot.open_now(), flushed.load(Ordering::SeqCst));
            hot.tend(WallTime(0), || true, order, Seq::new(through));
            for number in before.difference(&hot.open_now()) {
                let last = last_change(*number).load(Ordering::SeqCst);
                // Unless it was opened again meanwhile, and changed.
                assert!(
                    last <= through || hot.open_now().contains(number),
                    "{number}: {last}, only {through} is flushed"
                );
                closed += 1;
            }
        }
        closed
    };
    let closed: usize = std::thread::scope(|scope| {
        (1..=3).for_each(|seed| drop(scope.spawn(move || change(seed))));
        // Whoever changes ends, however this does.
        let tended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(tend));
        done.store(true, Ordering::SeqCst);
        tended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    println!("{closed} extents turned cold meanwhile");
    assert!(closed > 100);
    // At rest, three turns later nothing is hot.
    for _ in 0..4 {
        clock.boottime.fetch_add(20_000_000, Ordering::SeqCst);
        let seq = Seq::new(captured.load(Ordering::SeqCst));
        hot.tend(WallTime(0), || true, || seq, seq);
    }
    assert_eq!(hot.bytes(), Some(0));
}

#[test]
fn what_turns_cold_is_captured_and_flushed() {
    turns_cold(HOT_MAX);
    // Half of them are many: what has just ended is closed.
    turns_cold(32);
}

#[test]
fn a_log_is_what_it_was_written_as() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::create(dir.path()).unwrap());
    let runs = [Run { first: 3, count: 2, hot: true }, Run { first: 90, count: 1, hot: true }];
    let mut file = file::LogFile::create(&*disk, "x.hot", &head(), &runs, WallTime(8), WallTime(7)).unwrap();
    file.append(file::changes(&[Run { first: 3, count: 1, hot: false }, Run { first: 50, count: 1, hot: true }]))
        .unwrap();
    file.note(WallTime(10), WallTime(9)).unwrap();
    let bytes = std::fs::read(dir.path().join("x.hot")).unwrap();
    let found = recover::read(&bytes).unwrap();
    assert_eq!(found.head, head());
    assert_eq!(found.note, Some(Note { durable: 2, at: WallTime(10), changed: WallTime(9) }));
    assert_eq!(found.hot, Said::Only(BTreeSet::from([4, 50, 90])));

    // The golden one has only what is not zero at its end.
    let used = &bytes[..TRANSACTIONS_AT + 2 * SECTOR];
    if std::env::var_os("BACKSPOOL_WRITE_FIXTURES").is_some() {
        std::fs::write(GOLDEN, used).unwrap();
        panic!("the fixture is written: look at what changed, and run again without BACKSPOOL_WRITE_FIXTURES");
    }
    assert!(std::fs::read(GOLDEN).unwrap() == used, "the format has changed: docs/FORMAT.md, and a version, first");
}

#[test]
fn no_flip_passes() {
    let golden = std::fs::read(GOLDEN).unwrap();
    let mut bytes = golden.clone();
    bytes.resize(FILE_BYTES, 0);
    let good = recover::read(&bytes).unwrap();
    let used = (0..SECTOR).chain(NOTE_AT..NOTE_AT + SECTOR).chain(TRANSACTIONS_AT..golden.len());
    let (mut refused, mut torn, mut all) = (0, 0, 0);
    for bit in used.flat_map(|at| at * 8..at * 8 + 8) {
        bytes[bit / 8] ^= 1 << (bit % 8);
        match recover::read(&bytes) {
            Err(_) => refused += 1,
            Ok(found) if found.note.is_none() => torn += 1,
            Ok(found) => {
                assert!(matches!(found.hot, Said::All(_)), "bit {bit} flipped and not noticed");
                all += 1;
            }
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(recover::read(&bytes).unwrap(), good);
    assert_eq!((refused, torn, all), (SECTOR * 8, SECTOR * 8, 2 * SECTOR * 8));
    for len in [0, 511, 8192, golden.len(), FILE_BYTES - 1] {
        assert!(recover::read(&bytes[..len]).is_err());
    }
}

#[test]
fn what_was_never_durable_is_ignored_and_what_was_is_missed() {
    let blank = |note: u64| {
        let mut bytes = vec![0; FILE_BYTES];
        bytes[..SECTOR].copy_from_slice(&head().encode());
        let note = Note { durable: note, at: WallTime(1), changed: WallTime(1) }.encode(&[7; 16]);
        bytes[NOTE_AT..NOTE_AT + SECTOR].copy_from_slice(&note);
        bytes
    };
    let put = |bytes: &mut Vec<u8>, number: u64, durable: u64, change: Change| {
        let at = usize::try_from(Transaction::at(number)).unwrap();
        bytes[at..at + SECTOR].copy_from_slice(&Transaction { number, durable, change }.encode(&[7; 16]));
    };
    let hot = |first| Change::Runs(vec![Run { first, count: 1, hot: true }]);
    let only = |extents: &[ExtentNo]| Said::Only(extents.iter().copied().collect());
    let read = |bytes: &[u8]| recover::read(bytes).unwrap().hot;

    let mut bytes = blank(1);
    put(&mut bytes, 1, 0, hot(1));
    put(&mut bytes, 3, 1, hot(3));
    assert_eq!(read(&bytes), only(&[1, 3]), "the second was never durable");
    put(&mut bytes, 4, 3, hot(4));
    assert!(matches!(read(&bytes), Said::All(why) if why.contains("damaged")), "the second was durable");
    put(&mut bytes, 2, 1, hot(2));
    assert_eq!(read(&bytes), only(&[1, 2, 3, 4]));
    put(&mut bytes, 5, 4, Change::All);
    assert!(matches!(read(&bytes), Said::All(why) if why.contains("more was hot")));

    assert!(matches!(read(&blank(1)), Said::All(why) if why.contains("damaged")), "the note knows of one");
    let mut bytes = blank(0);
    put(&mut bytes, 1, 0, hot(100));
    assert!(matches!(read(&bytes), Said::All(why) if why.contains("does not have")));
    // A sector in another's place says nothing.
    let mut bytes = blank(0);
    let astray = Transaction { number: 2, durable: 0, change: hot(9) }.encode(&[7; 16]);
    bytes[TRANSACTIONS_AT..TRANSACTIONS_AT + SECTOR].copy_from_slice(&astray);
    assert_eq!(read(&bytes), only(&[]));
}

/// Each row is one thing that is not as the last run left it.
#[test]
fn a_log_is_believed_only_about_what_nobody_else_touched() {
    const SECOND: u64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::create(dir.path()).unwrap());
    let subject = subject(100);
    let runs = [Run { first: 3, count: 2, hot: true }, Run { first: 99, count: 1, hot: true }];
    let at = |seconds: u64| WallTime(seconds * SECOND);
    drop(file::LogFile::create(&*disk, &subject.file_name(), &head(), &runs, at(1000), at(999)).unwrap());
    let now = Now { subject, boot: BOOT, changed: at(1003), wall: at(1010), boottime: at(500) };
    let check = |now: Now, why: Option<&str>| match (left_by(&*disk, &now).left, why) {
        (Left::Only(ranges), None) => {
            assert_eq!(ranges, [3 * EXTENT_BYTES..5 * EXTENT_BYTES, 99 * EXTENT_BYTES..100 * EXTENT_BYTES]);
        }
        (Left::All { why }, Some(part)) => assert!(why.contains(part), "{why}, not {part}"),
        (left, why) => panic!("{left:?}, expected {why:?}"),
    };
    check(now, None);
    check(Now { changed: at(999), ..now }, None);
    check(Now { changed: at(998), ..now }, Some("set back"));
    check(Now { changed: at(1006), ..now }, Some("after the agent had ended"));
    check(Now { changed: at(1011), ..now }, Some("in the future"));
    let rebooted = Now { boot: BootId([9; 16]), boottime: at(1), ..now };
    check(rebooted, None);
    check(Now { subject: Subject { dev: 77, ..subject }, ..rebooted }, None);
    check(Now { subject: Subject { inode: 77, ..subject }, ..rebooted }, Some("another file"));
    check(Now { subject: Subject { dev: 77, ..subject }, ..now }, Some("another file"));
    check(Now { changed: at(1040), wall: at(2000), ..rebooted }, None);
    check(Now { changed: at(1061), wall: at(2000), ..rebooted }, Some("after the agent had ended"));
    check(Now { changed: at(1009), boottime: at(2), ..rebooted }, Some("after the agent had ended"));
    check(Now { changed: at(930), ..rebooted }, Some("set back"));
    check(Now { subject: Subject { epoch: EpochId([8; 16]), ..subject }, ..now }, Some("not of the last run"));
    check(Now { subject: Subject { group: GroupId([8; 16]), ..subject }, ..now }, Some("another volume"));
    check(Now { subject: Subject { inode: 7, ..subject }, ..now }, Some("another file"));
    let larger = Sectors::new(subject.size.count() + 8).unwrap();
    check(Now { subject: Subject { size: larger, ..subject }, ..now }, Some("another size"));

    let path = dir.path().join(subject.file_name());
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, &good[..9000]).unwrap();
    check(now, Some("not as long"));
    std::fs::write(&path, vec![0xAB; FILE_BYTES]).unwrap();
    check(now, Some("wrong magic"));
    let mut newer = good.clone();
    newer[12] = 2;
    std::fs::write(&path, &newer).unwrap();
    check(now, Some("version"));
    std::fs::remove_file(&path).unwrap();
    check(now, Some("no record"));
    std::fs::create_dir(&path).unwrap();
    check(now, Some("cannot be read"));
}

/// Each row is one answer of a receiver that is ahead.
#[test]
fn a_log_counts_as_far_as_the_receiver_agrees_with_it() {
    const NOTED: u64 = 1_000_000_000;
    let size = subject(100).size;
    let left = Left::Only(vec![3 * EXTENT_BYTES..5 * EXTENT_BYTES, 99 * EXTENT_BYTES..size.bytes()]);
    let testimony = Testimony { left, noted: Some(WallTime(NOTED)) };
    let claim = Claim::of(VOLUME, size, &testimony).unwrap();
    for unsaid in [
        Testimony { noted: None, ..testimony.clone() },
        Testimony { left: Left::All { why: String::new() }, ..testimony },
    ] {
        assert!(Claim::of(VOLUME, size, &unsaid).is_none());
    }
    assert!([0, NOTED, NOTED + 60_000_000].iter().all(|time| claim.check_time(WallTime(*time)).is_ok()));
    assert!(claim.check_time(WallTime(NOTED + 60_000_001)).unwrap_err().contains("long after"));
    let said = |runs: &[(u32, u32)], next: Option<u32>| {
        let runs = runs.iter().map(|&(first, count)| ExtentRun { first, count }).collect();
        Changed { size: Some(size), next, runs }
    };
    assert_eq!(claim.check(0, &said(&[], None)), Ok(None));
    assert_eq!(claim.check(0, &said(&[(3, 1), (4, 1)], Some(50))), Ok(Some(50)));
    assert_eq!(claim.check(50, &said(&[(99, 1)], None)), Ok(None));
    for (first, said, why) in [
        (0, said(&[(2, 1)], None), "extent 2"),
        (0, said(&[(3, 3)], None), "extent 5"),
        (0, said(&[(3, 1), (98, 2)], Some(100)), "extent 98"),
        (0, said(&[(0, u32::MAX)], None), "extent 0"),
        (50, said(&[], Some(50)), "does not say all"),
        (0, Changed { size: Sectors::new(size.count() + 1), ..said(&[], None) }, "another size"),
        (0, Changed::default(), "another size"),
    ] {
        let found = claim.check(first, &said).unwrap_err();
        assert!(found.contains(why), "{found}, not {why}");
    }
}

/// What may differ is known to a log that began with a list, or could make one since, whatever becomes of it on the disk.
#[test]
fn what_is_left_is_known_from_a_list_on() {
    let clock = Arc::new(TestClock::default());
    let begin = |left: &Left, hot_max: usize| {
        let place = place(Arc::new(SimDisk::new(1)), clock.clone());
        Hot::begin_with(place, subject(30), left, WallTime(0), (hot_max, 0)).unwrap()
    };
    let only =
        |extents: &[u64]| Left::Only(extents.iter().map(|at| at * EXTENT_BYTES..(at + 1) * EXTENT_BYTES).collect());
    let all = Left::All { why: String::new() };
    let hot = begin(&only(&[2, 9]), 4);
    drop(hot.enter([in_extent(20)]));
    assert_eq!(hot.left(), only(&[2, 9, 20]));
    // More than it lists: that it still knows.
    [5, 7, 11].into_iter().for_each(|number| drop(hot.enter([in_extent(number)])));
    assert_eq!((hot.bytes(), hot.left()), (None, only(&[2, 5, 7, 9, 11, 20])));
    hot.retire();
    drop(hot.enter([in_extent(13)]));
    assert_eq!(hot.left(), only(&[2, 5, 7, 9, 11, 13, 20]));
    assert!(matches!(begin(&only(&[1, 3, 5, 7, 9]), 4).left(), Left::All { .. }));

    // One that began with all of it: what was changed since is hot as well when it is told what was left.
    let hot = begin(&all, 30);
    drop(hot.enter([in_extent(4)]));
    assert!(matches!(hot.left(), Left::All { .. }) && hot.bytes().is_none());
    hot.narrow(&all);
    assert!(hot.bytes().is_none());
    hot.narrow(&only(&[8, 9]));
    assert_eq!(hot.bytes(), Some(3 * EXTENT_BYTES));
    let joined = Left::Only(vec![4 * EXTENT_BYTES..5 * EXTENT_BYTES, 8 * EXTENT_BYTES..10 * EXTENT_BYTES]);
    assert_eq!(hot.left(), joined);
    // A list is not made wider that way: what is covered by then must not pass unsaid.
    hot.narrow(&only(&[17]));
    assert_eq!(hot.left(), joined);
    let hot = begin(&all, 6);
    hot.narrow(&only(&[1, 2, 3, 4]));
    assert!(hot.bytes().is_none(), "too much for a list");
}

/// A source that looks into the log, as a crash would leave it, whenever it is changed.
#[derive(Debug)]
struct Witness {
    source: FaultySource,
    log: std::path::PathBuf,
    changes: AtomicU64,
}

impl Witness {
    fn look(&self, offset: u64, length: u64) {
        let found = recover::read(&std::fs::read(&self.log).unwrap()).unwrap();
        let Said::Only(hot) = found.hot else { panic!("a list was begun") };
        for extent in offset / EXTENT_BYTES..=(offset + length - 1) / EXTENT_BYTES {
            assert!(hot.contains(&u32::try_from(extent).unwrap()), "extent {extent} is changed and not hot");
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
    }
}

impl Storage for Witness {
    fn size(&self) -> Sectors {
        self.source.size()
    }

    fn block_bytes(&self) -> u32 {
        self.source.block_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
        self.source.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.look(offset, crate::source::bytes(data.len()));
        self.source.write_at(offset, data)
    }

    fn sync(&self) -> std::io::Result<()> {
        self.source.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> std::io::Result<bool> {
        self.look(offset, length);
        self.source.discard(offset, length)
    }

    fn zero(&self, offset: u64, length: u64, keep_space: bool) -> std::io::Result<()> {
        self.look(offset, length);
        self.source.zero(offset, length, keep_space)
    }

    fn next_data(&self, offset: u64) -> std::io::Result<Option<Range<u64>>> {
        self.source.next_data(offset)
    }
}

#[test]
fn the_tap_changes_nothing_that_the_log_does_not_call_hot() {
    const EXTENTS: u64 = 16;
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::create(dir.path()).unwrap());
    let subject = subject(EXTENTS);
    let clock = Arc::new(TestClock::default());
    let hot = Arc::new(Hot::begin(place(disk, clock), subject, &Left::Only(vec![]), WallTime(0)).unwrap());
    let sectors = usize::try_from(EXTENTS * EXTENT_SECTORS).unwrap();
    let log = dir.path().join(subject.file_name());
    let source = Arc::new(Witness { source: FaultySource::new(sectors), log, changes: AtomicU64::new(0) });
    let (_spool, capture) = begin(&dir.path().join("spool"), u64::MAX);
    let tap = Tap::new(VOLUME, source.clone(), capture).behind(Some(Arc::clone(&hot)));
    let data = [1; 4096];
    let write = |offset| Transfer::Write { offset, data: &data };
    assert_eq!(hot.bytes(), Some(0));
    tap.write(EXTENT_BYTES - 512, &data, false).unwrap();
    assert_eq!(hot.bytes(), Some(2 * EXTENT_BYTES));
    assert!(tap.transfer(&mut [write(5 * EXTENT_BYTES), write(9 * EXTENT_BYTES)]).iter().all(Result::is_ok));
    assert_eq!(hot.bytes(), Some(4 * EXTENT_BYTES));
    tap.trim(11 * EXTENT_BYTES, 512, false).unwrap();
    tap.write_zeroes(13 * EXTENT_BYTES - 512, 1024, false, true).unwrap();
    // A change that fails is one.
    *source.source.fail_after.lock().unwrap() = Some(512);
    tap.write(15 * EXTENT_BYTES, &data, false).unwrap_err();
    assert_eq!(source.changes.load(Ordering::Relaxed), 6);
    assert!(hot.bytes() >= Some(8 * EXTENT_BYTES), "{:?}", hot.bytes());
}
