//! The order: without holes, never back in time; bounded memory; an end that is said.

#![expect(clippy::cast_possible_truncation, reason = "numbers made in the test, far below any limit")]

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use journal::codec::{Body, FrameKind, GapReason, Record};
use journal::frame::FrameSeal;
use journal::types::{ChainHead, EpochId, FrameNo, Seq, WallTime};

use super::*;
use crate::testing::{BOOT, GROUP, Rng, TestClock, VOLUME, extent};

fn new(last: Option<Seq>, time: u64) -> (Capture, Arc<TestClock>) {
    let clock = Arc::new(TestClock::default());
    (Capture::new(Start { last, time: WallTime(time) }, clock.clone()), clock)
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
fn the_gap_is_the_last_record_and_the_first_reason_counts() {
    let (capture, _) = new(None, 0);
    capture.record(Body::Flush);
    capture.halt(GapReason::SpoolFull, &"ü".repeat(600));
    capture.halt(GapReason::SourceError, "later");
    assert_eq!(capture.record(Body::Flush), None);
    assert_eq!(capture.record_write(VOLUME, extent(0, 1), &[0; 512]), None);
    assert!(capture.mark("m", None).is_err());
    assert_eq!(capture.last_seq(), Seq::new(2));
    assert!(matches!(capture.state(), CaptureState::Halted { reason: GapReason::SpoolFull, .. }));
}

#[test]
fn a_mark_has_a_name() {
    let (capture, _) = new(None, 0);
    for bad in ["", "a\nb", &"x".repeat(65)] {
        assert!(capture.mark(bad, None).is_err(), "{bad:?}");
    }
    assert_eq!(capture.mark(&"x".repeat(64), None).unwrap(), Seq::FIRST);
}

/// A spooler that hangs must not hang the host: after a while capture ends, with all that was recorded still there.
#[test]
fn memory_is_bounded_and_a_spooler_that_hangs_ends_capture() {
    let (capture, _) = new(None, 0);
    let data = vec![1; 65536];
    let mut written = 0;
    while capture.record_write(VOLUME, extent(0, 128), &data).is_some() {
        written += 1;
        assert!(written < 2000, "memory is not bounded");
    }
    assert!(matches!(capture.state(), CaptureState::Halted { reason: GapReason::SpoolFull, .. }));
    let records = drain(&capture);
    assert_eq!(records.len(), written + 1);
    assert!(matches!(records.last().unwrap().body, Body::Gap(_)));
    assert!((500..1000).contains(&written), "{written} times 64 KiB");
}
