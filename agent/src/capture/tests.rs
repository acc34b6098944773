//! The order: without holes, never back in time; bounded memory; an end that is said.

#![expect(clippy::cast_possible_truncation, reason = "numbers made in the test, far below any limit")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use journal::codec::{Body, FrameKind, GapReason, Record, Sealed};
use journal::frame::FrameSeal;
use journal::types::{ChainHead, EpochId, FrameNo, ResyncId, Seq, WallTime};

use super::*;
use crate::testing::{BOOT, GROUP, Rng, TestClock, VOLUME, extent};

fn new(last: Option<Seq>, time: u64) -> (Capture, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    (Capture::new(Start { last, time: WallTime(time) }, clock.clone(), Terms::default()), clock)
}

/// All records that wait, in order.
fn drain(capture: &Capture) -> Vec<Record> {
    let mut records = Vec::new();
    while let Taken::Frames(frames) = capture.take(Duration::ZERO) {
        for mut frame in frames {
            let seal = FrameSeal {
                kind: FrameKind::Live { first: Seq::FIRST },
                group: GROUP,
                epoch: EpochId([1; 16]),
                number: FrameNo::FIRST,
                prev: ChainHead::START,
                durable: None,
                wall: WallTime(0),
                boottime: WallTime(0),
                boot: BOOT,
                compress: false,
            };
            records.extend(frame.finish(&seal).records());
        }
    }
    records
}

/// The story: the wall clock is set while records are made. Places have no hole, times never go back, and each is the
/// clock's wherever the order allows it.
#[test]
fn the_order_of_places_is_the_order_of_times_whatever_the_clock_does() {
    for seed in 1..=100 {
        let (capture, clock) = new(None, 0);
        let mut rng = Rng(seed);
        let mut said = Vec::new();
        for _ in 0..400 {
            let bits = rng.below(50);
            let now = rng.below(1 << bits);
            clock.wall.store(now, Ordering::Relaxed);
            let sectors = 1 + rng.below(300);
            let last = match rng.below(3) {
                0 => capture.record(Body::Flush),
                _ => capture.record_write(VOLUME, extent(rng.below(1000), sectors), &vec![1; sectors as usize * 512]),
            };
            said.resize(last.unwrap().number() as usize, now);
        }
        let times: Vec<u64> = drain(&capture).iter().map(|record| record.time.0).collect();
        let mut highest = 0;
        let raised: Vec<u64> = said
            .iter()
            .map(|now| {
                highest = highest.max(*now);
                highest
            })
            .collect();
        assert_eq!(times, raised, "seed {seed}");
        assert!(raised != said, "the clock never went back");
    }
}

#[test]
fn an_epoch_goes_on_where_the_last_one_ended() {
    let (capture, clock) = new(Seq::new(41), 1000);
    clock.wall.store(500, Ordering::Relaxed);
    assert_eq!(capture.record(Body::Flush), Seq::new(42));
    assert_eq!(capture.last(), (Seq::new(42), WallTime(1000)));
}

#[test]
fn a_long_request_is_several_records_of_one_time() {
    let (capture, clock) = new(None, 0);
    clock.wall.store(77, Ordering::Relaxed);
    let data: Vec<u8> = (0..300 * 512u32).map(|n| (n / 512) as u8).collect();
    assert_eq!(capture.record_write(VOLUME, extent(10, 300), &data), Seq::new(3));
    let parts: Vec<_> = drain(&capture)
        .iter()
        .map(|record| match record.body {
            Body::Write { extent, .. } => (record.time, extent),
            _ => panic!("{record:?}"),
        })
        .collect();
    let time = WallTime(77);
    assert_eq!(parts, [(time, extent(10, 128)), (time, extent(138, 128)), (time, extent(266, 44))]);
}

#[test]
fn what_is_not_recorded_is_dirty_and_the_first_reason_counts() {
    let (capture, _) = new(None, 0);
    capture.record(Body::Flush);
    capture.track(GapReason::SpoolFull, &"ü".repeat(600));
    capture.track(GapReason::SourceError, "later");
    assert_eq!(capture.record(Body::Flush), None);
    assert_eq!(capture.record_write(VOLUME, extent(0, 1), &[0; 512]), None);
    assert_eq!(capture.record(Body::Discard { volume: VOLUME, extent: extent(100, 16) }), None);
    assert_eq!(capture.mark("m", None).unwrap(), None);
    assert_eq!(capture.last_seq(), Seq::new(2));
    assert!(matches!(capture.state(), CaptureState::Tracking { reason: GapReason::SpoolFull, .. }));

    let Lost { mut dirty, at } = capture.resume().unwrap();
    assert_eq!((at, capture.dirty_bytes(), capture.resume().is_none()), (Seq::new(2), 0, true));
    let dirty = dirty.remove(&VOLUME).unwrap();
    assert_eq!((dirty.next(0, u64::MAX), dirty.next(4096, u64::MAX)), (Some(0..4096), Some(49152..61440)));
    assert_eq!(capture.record(Body::Flush), Seq::new(3));
    // The gap goes on until something is sealed, and is said once: until then nothing that is named would be a point.
    assert_eq!(capture.mark("m", None).unwrap(), None);
    capture.lose(VOLUME, extent(8, 8), GapReason::SourceError, "again");
    assert_eq!((capture.last_seq(), capture.dirty_bytes()), (Seq::new(3), 4096));
    capture.resume().unwrap();
    let sealed = Sealed { resync: ResyncId([1; 16]), head: ChainHead::START, frames: 0 };
    assert_eq!(capture.record_at_once(Body::Sealed(sealed)), Seq::new(4));
    assert_eq!(capture.gap_age(), None);
    assert_eq!(capture.mark("m", None).unwrap(), Seq::new(5));
    capture.track(GapReason::SpoolFull, "full");
    assert_eq!(capture.last_seq(), Seq::new(6));
    let gaps = drain(&capture).into_iter().filter(|record| matches!(record.body, Body::Gap(_))).count();
    assert_eq!(gaps, 2);
}

/// The story: changes race the moments at which recording ends and goes on. Each is recorded or dirty, none is neither.
#[test]
fn no_change_is_neither_recorded_nor_dirty() {
    const ROUNDS: u64 = 200;
    const EACH: u64 = 50;
    let (capture, _) = new(None, 0);
    let mut found = std::collections::BTreeSet::new();
    // How many each writer may have written: there is always something left to write behind a switch, and never a flood.
    let (allowed, written) = (AtomicU64::new(0), AtomicU64::new(0));
    let all_written = || written.load(Ordering::Acquire) == 2 * allowed.load(Ordering::Acquire);
    let mut look = |lost: Option<Lost>| {
        let dirty = lost.and_then(|mut lost| lost.dirty.remove(&VOLUME)).unwrap_or_default();
        let mut at = 0;
        while let Some(run) = dirty.next(at, 4096) {
            at = run.end;
            assert!(found.insert(run.start / 4096), "twice");
        }
        for record in drain(&capture) {
            if let Body::Write { extent, .. } = record.body {
                assert!(found.insert(extent.byte() / 4096), "twice");
            }
        }
    };
    std::thread::scope(|scope| {
        for me in 0..2 {
            let (capture, allowed, written) = (&capture, &allowed, &written);
            scope.spawn(move || {
                for block in 0..2 * ROUNDS * EACH {
                    while allowed.load(Ordering::Acquire) <= block {
                        std::thread::yield_now();
                    }
                    capture.record_write(VOLUME, extent((block * 2 + me) * 8, 1), &[1; 512]);
                    written.fetch_add(1, Ordering::Release);
                }
            });
        }
        // Each round sees changes recorded, and changes tracked.
        for _ in 0..ROUNDS {
            let last = capture.last_seq();
            allowed.fetch_add(EACH, Ordering::Release);
            while capture.last_seq() == last && !all_written() {
                std::thread::yield_now();
            }
            capture.track(GapReason::SpoolFull, "full");
            allowed.fetch_add(EACH, Ordering::Release);
            while capture.dirty_bytes() == 0 && !all_written() {
                std::thread::yield_now();
            }
            look(capture.resume());
        }
    });
    look(capture.resume());
    assert_eq!(found.len() as u64, 4 * ROUNDS * EACH);
}

#[test]
fn writes_wait_for_room_where_that_was_agreed_until_nobody_may_wait() {
    let clock = Arc::new(TestClock::default());
    let terms = Terms { when_full: WhenFull::BlockWrites, flush_wait: None };
    let capture = Capture::new(Start { last: None, time: WallTime(0) }, clock, terms);
    let write = |capture: &Capture| capture.record_write(VOLUME, extent(0, 1), &[1; 512]);
    capture.spool_is_full("full");
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| write(&capture));
        // The agent's own do not wait, nor does who makes room.
        assert_eq!(capture.mark("m", None).unwrap(), Some(Seq::FIRST));
        assert!(!waiting.is_finished());
        assert_eq!(capture.state(), CaptureState::Blocked { why: "full".to_owned() });
        capture.spool_has_room();
        assert_eq!(waiting.join().unwrap(), Seq::new(2));
        capture.spool_is_full("full");
        let waiting = scope.spawn(|| write(&capture));
        capture.end_waiting();
        assert_eq!(waiting.join().unwrap(), None);
    });
    assert!(capture.is_tracking() && capture.dirty_bytes() == 4096);
}

#[test]
fn a_flush_waits_for_a_receiver_and_no_longer_than_agreed() {
    let new = |wait| {
        let terms = Terms { flush_wait: Some(wait), ..Terms::default() };
        Capture::new(Start { last: None, time: WallTime(0) }, Arc::new(TestClock::default()), terms)
    };
    let capture = new(Duration::from_secs(3600));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| capture.confirm(capture.record(Body::Flush)));
        while capture.last_seq().is_none() {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        capture.acked(Seq::FIRST);
        waiting.join().unwrap();
    });
    assert_eq!(capture.unconfirmed(), None);

    let capture = new(Duration::from_millis(10));
    capture.confirm(capture.record(Body::Flush));
    assert!(capture.unconfirmed().unwrap().contains("no receiver had record 1"));
    // Until the receiver has caught up, nobody waits; what is not recorded is not waited for either.
    capture.confirm(capture.record(Body::Flush));
    capture.acked(Seq::new(1).unwrap());
    assert_eq!(capture.unconfirmed(), None);
    capture.track(GapReason::SpoolFull, "full");
    capture.confirm(capture.record(Body::Flush));
    capture.acked(capture.last_seq().unwrap());
    assert!(capture.unconfirmed().is_some());
    capture.resume().unwrap();
    capture.acked(seal(&capture));
    assert_eq!(capture.unconfirmed(), None);
}

fn seal(capture: &Capture) -> Seq {
    let sealed = Sealed { resync: ResyncId([1; 16]), head: ChainHead::START, frames: 0 };
    capture.record_at_once(Body::Sealed(sealed)).unwrap()
}

/// What was written while nothing was recorded is on the source only until a base is sealed: no flush of it may be said to be there,
/// whatever else the receiver has; nor in a run that begins with a gap, or with a base to be read.
#[test]
fn a_flush_of_what_is_not_in_the_order_is_local_until_a_base_is_there() {
    let terms = Terms { flush_wait: Some(Duration::from_secs(3600)), ..Terms::default() };
    let start = Start { last: Seq::new(7), time: WallTime(0) };
    let new = || Capture::new(start, Arc::new(TestClock::default()), terms);
    let tracked = |capture: &Capture| {
        capture.track(GapReason::SpoolFull, "full");
        assert_eq!(capture.record_write(VOLUME, extent(0, 8), &[1; 4096]), None);
        capture.resume().unwrap();
    };
    let gap = |capture: &Capture| {
        let gap = journal::codec::Gap { reason: GapReason::UncleanStart, text: String::new() };
        _ = capture.record(Body::Gap(gap));
    };
    let cases: [&dyn Fn(&Capture); 3] = [&tracked, &gap, &Capture::lacks_base];
    for begin in cases {
        let capture = new();
        assert_eq!(capture.unconfirmed(), None);
        begin(&capture);
        let local = || {
            // A receiver that has all of the order; and one that lacks something: neither is waited for.
            capture.flushed(capture.last_seq());
            capture.acked(capture.last_seq().unwrap());
            capture.flushed(capture.last_seq());
            assert!(capture.unconfirmed().unwrap().contains("not all that was written before"));
        };
        local();
        capture.record_write(VOLUME, extent(8, 8), &[1; 4096]);
        local();
        let sealed = seal(&capture);
        capture.flushed(Some(sealed));
        capture.acked(sealed.before().unwrap());
        assert!(capture.unconfirmed().is_some());
        capture.acked(sealed);
        assert_eq!(capture.unconfirmed(), None);
        // From here on it is waited for again.
        let before = capture.record_write(VOLUME, extent(0, 8), &[2; 4096]);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| capture.flushed(before));
            while capture.last_seq() == before {
                std::thread::yield_now();
            }
            assert!(!waiting.is_finished());
            capture.acked(before.unwrap());
            waiting.join().unwrap();
        });
    }
}

/// What a flush covers is what it waits for: not its own record, which goes with the next write, or by itself after a moment.
#[test]
fn a_flush_waits_for_what_was_written_before_it_and_goes_with_what_comes_next() {
    let terms = Terms { flush_wait: Some(Duration::from_secs(3600)), ..Terms::default() };
    let capture = Capture::new(Start { last: None, time: WallTime(0) }, Arc::new(TestClock::default()), terms);
    let write = || capture.record_write(VOLUME, extent(0, 8), &[1; 4096]);
    let taken = || match capture.take(Duration::from_secs(3600)) {
        Taken::Frames(frames) => frames.iter().map(FrameBuilder::records).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let before = write();
    assert_eq!(taken(), [1]);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| capture.flushed(before));
        while capture.last_seq() == before {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        capture.acked(before.unwrap());
        waiting.join().unwrap();
    });
    // Nothing else came.
    assert_eq!(taken(), [1]);
    capture.flushed(before);
    write();
    assert_eq!(taken(), [2]);
    // With what waits already, at once.
    write();
    capture.flushed(before);
    assert!(!capture.lock().lingers);
    assert_eq!(taken(), [2]);
    // While nothing is recorded there is nothing to wait for, whatever the receiver has.
    capture.track(GapReason::SpoolFull, "full");
    capture.flushed(before);
    assert!(capture.unconfirmed().is_some());
}

#[test]
fn a_mark_has_a_name() {
    let (capture, _) = new(None, 0);
    for bad in ["", "a\nb", &"x".repeat(65)] {
        assert!(capture.mark(bad, None).is_err(), "{bad:?}");
    }
    assert_eq!(capture.mark(&"x".repeat(64), None).unwrap(), Some(Seq::FIRST));
}

/// A spooler that hangs must not hang the host: after a while changes are tracked, with all that was recorded still there.
#[test]
fn memory_is_bounded_and_a_spooler_that_hangs_only_opens_a_gap() {
    let (capture, _) = new(None, 0);
    let data = vec![1; 65536];
    let mut written = 0;
    while capture.record_write(VOLUME, extent(0, 128), &data).is_some() {
        written += 1;
        assert!(written < 2000, "memory is not bounded");
    }
    assert!(matches!(capture.state(), CaptureState::Tracking { reason: GapReason::SpoolFull, .. }));
    let records = drain(&capture);
    assert_eq!(records.len(), written + 1);
    assert!(matches!(records.last().unwrap().body, Body::Gap(_)));
    assert!((500..1000).contains(&written), "{written} times 64 KiB");
}
