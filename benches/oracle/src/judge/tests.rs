//! A perfect replica passes at every instant; each planted fault is found; a judge by brute force agrees.

use super::Image;
use crate::op::{Kind, Micros, Op, Sectors};
use crate::rng::Rng;
use crate::verdict::{Problem, Verdict};
use crate::{Fill, History, SECTOR_BYTES, Volume};

/// More than one piece of an image, a last block that is not whole, and no hole at the start.
const VOLUME: Volume = Volume { seed: 6, size_bytes: (1 << 20) + 1024, fill: Fill::Random, holes_percent: 30 };

/// An operation and the time at which it really happens.
type Timed = (Op, Micros);

fn op(number: u64, kind: Kind, (first, count): (u64, u64), (submitted, acked): (u64, u64)) -> Op {
    let acked = Some(Micros(acked));
    let sectors = Sectors { first, count };
    Op { number, kind, writer: 1, sectors, submitted: Micros(submitted), acked, settled: None }
}

/// What a perfect server would hold.
struct Replica {
    volume: Volume,
    bytes: Vec<u8>,
}

impl Replica {
    fn new(volume: Volume) -> Self {
        let mut bytes = vec![0; usize::try_from(volume.size_bytes).unwrap()];
        for (sector, bytes) in (0..).zip(bytes.as_chunks_mut().0) {
            if let Some(stamp) = volume.initial(sector) {
                stamp.render(bytes);
            }
        }
        Self { volume, bytes }
    }

    fn sector(&mut self, sector: u64) -> &mut [u8; SECTOR_BYTES] {
        &mut self.bytes.as_chunks_mut().0[usize::try_from(sector).unwrap()]
    }

    fn apply(&mut self, op: &Op) {
        (op.sectors.first..op.sectors.end()).for_each(|sector| self.apply_sector(op, sector));
    }

    fn apply_sector(&mut self, op: &Op, sector: u64) {
        let volume = self.volume;
        match op.kind {
            Kind::Write => volume.stamp(sector, op.number, op.submitted, op.writer).render(self.sector(sector)),
            Kind::Zero | Kind::Trim => *self.sector(sector) = [0; SECTOR_BYTES],
            Kind::Flush => {}
        }
    }

    fn judge(&self, history: &History, at: u64) -> Verdict {
        history.judge(Micros(at), &mut *self.image()).unwrap()
    }

    fn image(&self) -> Box<Image<'_>> {
        Box::new(|offset, buf| {
            let offset = usize::try_from(offset).unwrap();
            buf.copy_from_slice(&self.bytes[offset..offset + buf.len()]);
            Ok(())
        })
    }
}

/// A busy history: connections with one operation in flight each, which may overlap if asked.
fn busy(seed: u64, count: u64, overlap: bool) -> Vec<Timed> {
    let mut rng = Rng::new(seed);
    let mut lanes = [1_u64; 4];
    let mut ops: Vec<Timed> = Vec::new();
    while (ops.len() as u64) < count {
        let lane = usize::try_from(rng.below(4)).unwrap();
        let submitted = lanes[lane] + rng.below(20);
        let acked = submitted + rng.below(30);
        let kind = [Kind::Write, Kind::Write, Kind::Write, Kind::Zero, Kind::Trim, Kind::Flush]
            [usize::try_from(rng.below(6)).unwrap()];
        let length = 1 + rng.below(24);
        let within = if rng.percent(50) { 64 } else { VOLUME.sectors() - length };
        let first = rng.below(within);
        let op = op(ops.len() as u64 + 1, kind, (first, length), (submitted, acked));
        let meets = |(other, _): &Timed| {
            other.sectors.overlaps(op.sectors) && other.end() >= op.submitted && op.end() >= other.submitted
        };
        if !overlap && ops.iter().any(meets) {
            continue;
        }
        lanes[lane] = acked + 1;
        ops.push((op, Micros(submitted + rng.below(acked - submitted + 1))));
    }
    ops.sort_by_key(|(op, at)| (*at, op.number));
    ops
}

fn history_of(ops: &[Timed]) -> History {
    History::new(VOLUME, ops.iter().map(|(op, _)| *op).collect())
}

#[test]
fn a_perfect_replica_is_legal_at_a_thousand_instants() {
    for overlap in [false, true] {
        let ops = busy(1, 3000, overlap);
        let history = history_of(&ops);
        let last = ops.last().unwrap().1.0;
        let mut rng = Rng::new(2);
        let mut instants: Vec<u64> = (0..500).map(|_| 1 + rng.below(last + 50)).collect();
        instants.sort_unstable();
        let mut replica = Replica::new(VOLUME);
        let mut done = 0;
        for at in instants {
            for (op, _) in ops[done..].iter().take_while(|(_, time)| time.0 <= at) {
                replica.apply(op);
                done += 1;
            }
            let verdict = replica.judge(&history, at);
            assert!(verdict.is_legal(), "at {at}: {verdict}");
            assert_eq!(verdict.sectors, VOLUME.sectors());
            let crash = history.judge_crash(None, &mut *replica.image()).unwrap();
            assert!(crash.verdict.is_legal(), "at {at}: {}", crash.verdict);
        }
    }
}

/// Three writes one after the other, then one in flight at the instant 100, then one after it.
fn scripted() -> Vec<Op> {
    vec![
        op(1, Kind::Write, (8, 8), (10, 20)),
        op(2, Kind::Write, (12, 8), (30, 40)),
        op(3, Kind::Zero, (16, 4), (50, 60)),
        op(4, Kind::Write, (32, 16), (90, 110)),
        op(5, Kind::Write, (200, 8), (120, 130)),
    ]
}

/// Judges the scripted history at 100 with the given operations applied, in this order, and then spoilt.
#[track_caller]
fn check(applied: &[u64], spoil: impl FnOnce(&mut Replica, &[Op]), expected: Option<Problem>) {
    let ops = scripted();
    let mut replica = Replica::new(VOLUME);
    for number in applied {
        replica.apply(ops.iter().find(|op| op.number == *number).unwrap());
    }
    spoil(&mut replica, &ops);
    let verdict = replica.judge(&History::new(VOLUME, ops), 100);
    assert_eq!(verdict.findings.first().map(|finding| finding.problem), expected, "{verdict}");
    assert_eq!(verdict.is_legal(), expected.is_none());
    assert_eq!((verdict.definite, verdict.doubtful), (3, 1));
}

#[test]
fn planted_faults_are_found() {
    let none = |_: &mut Replica, _: &[Op]| {};
    check(&[1, 2, 3], none, None);
    check(&[1, 2, 3, 4], none, None);
    check(&[1, 3, 4], none, Some(Problem::Stale)); // one write missing
    check(&[1, 2, 4], none, Some(Problem::Stale)); // zeroes missing
    check(&[], none, Some(Problem::Stale)); // all missing
    check(&[1, 2, 3, 5], none, Some(Problem::Early)); // one write too many
    check(&[2, 1, 3], none, Some(Problem::Stale)); // two swapped
    check(&[1, 2, 3], |replica, _| replica.sector(9)[300] ^= 1, Some(Problem::Corrupt));
    check(&[1, 2, 3], |replica, _| replica.sector(9)[20] ^= 1, Some(Problem::Corrupt));
    check(&[1, 2, 3], |replica, _| replica.sector(100)[511] ^= 1, Some(Problem::Corrupt));
    check(&[1, 2, 3], |replica, _| replica.sector(16)[0] = 1, Some(Problem::Corrupt));
    check(&[1, 2, 3], |replica, ops| replica.apply_sector(&ops[0], 13), Some(Problem::Stale)); // old content is back
    check(&[1, 2, 3], |replica, ops| replica.apply_sector(&ops[3], 47), Some(Problem::Torn)); // one sector of many
    check(&[1, 2, 3, 4], |replica, _| *replica.sector(13) = [0; SECTOR_BYTES], Some(Problem::Corrupt));
    check(&[1, 2, 3], |replica, _| *replica.sector(300) = *replica.sector(9), Some(Problem::Misplaced));
    check(&[1, 2, 3], |replica, ops| replica.apply_sector(&ops[1], 40), Some(Problem::Unknown)); // never written there
    let foreign = |replica: &mut Replica, _: &[Op]| {
        *replica.sector(9) = *Replica::new(Volume { seed: 5, holes_percent: 0, ..VOLUME }).sector(9);
    };
    check(&[1, 2, 3], foreign, Some(Problem::Misplaced)); // another volume
    let unknown = |replica: &mut Replica, ops: &[Op]| replica.apply_sector(&Op { number: 9, ..ops[0] }, 9);
    check(&[1, 2, 3], unknown, Some(Problem::Unknown)); // a write that nobody sent
    let past_end = VOLUME.sectors() - 1;
    check(&[1, 2, 3], |replica, _| replica.sector(past_end)[100] ^= 4, Some(Problem::Corrupt));
}

#[test]
fn instants_are_exact_to_the_microsecond() {
    let ops = vec![op(1, Kind::Write, (8, 8), (10, 20))];
    let history = History::new(VOLUME, ops.clone());
    let without = Replica::new(VOLUME);
    let mut with = Replica::new(VOLUME);
    with.apply(&ops[0]);
    for at in 1..30 {
        assert_eq!(without.judge(&history, at).is_legal(), at < 20, "without, at {at}");
        assert_eq!(with.judge(&history, at).is_legal(), at >= 10, "with, at {at}");
    }
}

#[test]
fn interleaved_sectors_of_overlapping_writes_are_found() {
    let ops = [op(1, Kind::Write, (8, 8), (10, 50)), op(2, Kind::Write, (8, 8), (20, 60))];
    let history = History::new(VOLUME, ops.to_vec());
    let mut replica = Replica::new(VOLUME);
    replica.apply(&ops[1]);
    assert!(replica.judge(&history, 100).is_legal());
    replica.apply(&ops[0]);
    assert!(replica.judge(&history, 100).is_legal());
    replica.apply_sector(&ops[1], 11);
    let verdict = replica.judge(&history, 100);
    assert_eq!(verdict.findings[0].problem, Problem::Order, "{verdict}");
}

#[test]
fn operations_in_doubt_may_be_in_partly_and_end_when_settled() {
    let doubt = Op { acked: None, ..op(1, Kind::Write, (8, 8), (10, 0)) };
    let later = op(2, Kind::Write, (8, 8), (50, 60));
    let mut replica = Replica::new(VOLUME);
    replica.apply_sector(&doubt, 9);
    let verdict = replica.judge(&History::new(VOLUME, vec![doubt]), 40);
    assert_eq!((verdict.is_legal(), verdict.torn_in_doubt), (true, 1));
    assert!(!replica.judge(&History::new(VOLUME, vec![doubt]), 9).is_legal());

    replica.apply(&later);
    replica.apply_sector(&doubt, 9);
    assert!(replica.judge(&History::new(VOLUME, vec![doubt, later]), 70).is_legal());
    let settled = Op { settled: Some(Micros(49)), ..doubt };
    let verdict = replica.judge(&History::new(VOLUME, vec![settled, later]), 70);
    assert_eq!(verdict.findings[0].problem, Problem::Stale);
    assert!(verdict.findings[0].to_string().contains("found Write 1"), "{verdict}");
}

#[test]
fn a_crash_is_a_prefix_and_what_it_lost_is_counted() {
    let ops: Vec<Op> = (1..=10).map(|n| op(n, Kind::Write, (n * 8, 8), (n * 10, n * 10 + 5))).collect();
    let history = History::new(VOLUME, ops.clone());
    let mut replica = Replica::new(VOLUME);
    let empty = history.judge_crash(None, &mut *replica.image()).unwrap();
    assert_eq!((empty.verdict.is_legal(), empty.acked_missing, empty.newest_seen), (true, 10, None));
    ops[..7].iter().for_each(|op| replica.apply(op));
    let crash = history.judge_crash(None, &mut *replica.image()).unwrap();
    assert!(crash.verdict.is_legal(), "{}", crash.verdict);
    assert_eq!((crash.acked_missing, crash.oldest_missing, crash.newest_ack), (3, Some(Micros(85)), Some(Micros(105))));
    assert_eq!(crash.newest_seen, Some(ops[6]));

    let floor = |at| history.judge_crash(Some(Micros(at)), &mut *replica.image()).unwrap();
    assert!(floor(84).verdict.is_legal());
    let broken = floor(85);
    assert_eq!(broken.verdict.findings[0].problem, Problem::Stale);
    assert_eq!((broken.verdict.wrong, broken.acked_missing), (8, 3));

    assert_eq!((broken.verdict.findings.len(), broken.verdict.findings[0].count), (1, 8)); // said once

    // The ninth without the eighth is no prefix.
    replica.apply(&ops[8]);
    let hole = history.judge_crash(None, &mut *replica.image()).unwrap();
    assert_eq!(hole.verdict.findings[0].problem, Problem::Stale);
    assert_eq!((hole.verdict.wrong, hole.acked_missing), (8, 2));
}

mod brute;
