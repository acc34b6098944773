//! Decides whether an image is legal.
//!
//! ```text
//!   A ├──────┤            acknowledged by T: must be in
//!   B     ├──────┼──┤     submitted before T, acknowledged after (or never): may be in
//!   C            │ ├───┤  submitted after T: must be out
//! ───────────────T──────▶ time
//! ```
//! A sector may show any operation that is in, unless one that must be in began after its end. Then two questions about
//! the whole: is each operation in everywhere or nowhere, and is there an order that gives what every sector shows? The
//! answers are exact for images without zeroes; where zeroes may come from several operations, they prove nothing.
//!
//! An operation that was never acknowledged is judged as if each of its sectors were one by itself, because a crash may
//! tear it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::history::{BLOCK_BYTES, BLOCK_SECTORS, History, OpId};
use crate::op::{Kind, Micros, Op};
use crate::order::cannot_be_placed;
use crate::stamp::{SECTOR_BYTES, Stamp};
use crate::verdict::{CrashVerdict, Finding, Found, Problem, Verdict};

/// Reads `buf.len()` bytes of the image at an offset.
pub type Image<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// The content of a file or device as an image.
pub fn image_of(file: &File) -> impl FnMut(u64, &mut [u8]) -> io::Result<()> + '_ {
    |offset, buf| file.read_exact_at(buf, offset)
}

impl History {
    /// Is this the volume as of `at`: all that happened up to and including that microsecond, and nothing else?
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn judge(&self, at: Micros, image: &mut Image<'_>) -> io::Result<Verdict> {
        Ok(self.judge_cut(Cut { sure: at, last: at }, image)?.0)
    }

    /// Is this one state of the volume, at whatever time, with everything acknowledged up to `floor` in it? And how much
    /// of what was acknowledged is missing?
    ///
    /// Only what provably misses is counted: not a write that a concurrent one may have covered.
    ///
    /// # Errors
    /// When the image cannot be read.
    pub fn judge_crash(&self, floor: Option<Micros>, image: &mut Image<'_>) -> io::Result<CrashVerdict> {
        let newest = self.seen_through(image)?;
        let began = newest.map_or(Micros(0), |id| self.ops()[id].submitted);
        let floor = floor.unwrap_or_default();
        // Strictly before: within one microsecond the order is not known.
        let cut = Cut { sure: floor.max(Micros(began.0.saturating_sub(1))), last: Micros::MAX };
        let (verdict, evidence) = self.judge_cut(cut, image)?;
        let missing = evidence.iter().filter(|(_, seen)| seen.absent.is_some() && seen.present.is_none());
        let acks: Vec<Micros> = missing.filter_map(|(id, _)| self.ops()[*id].acked).collect();
        Ok(CrashVerdict {
            verdict,
            newest_seen: newest.map(|id| self.ops()[id]),
            acked_missing: acks.len() as u64,
            oldest_missing: acks.into_iter().min(),
            newest_ack: self.last_ack(),
        })
    }

    /// The operation submitted last of those that the image shows.
    fn seen_through(&self, image: &mut Image<'_>) -> io::Result<Option<OpId>> {
        let mut newest = None;
        self.each_block(image, |block, bytes| {
            let list = self.touching(block);
            for (sector, bytes) in (block * BLOCK_SECTORS..).zip(bytes) {
                let shown = match Stamp::decode(bytes) {
                    Some(stamp) => self.by_stamp(sector, &stamp),
                    // Zeroes came from one of these, so at least from the first.
                    None if is_zero(bytes) && !self.volume().is_hole(sector) => {
                        list.iter().copied().find(|id| self.leaves_zeroes(*id, sector))
                    }
                    None => None,
                };
                newest = newest.max(shown);
            }
        })?;
        Ok(newest)
    }

    fn judge_cut(&self, cut: Cut, image: &mut Image<'_>) -> io::Result<(Verdict, HashMap<OpId, Evidence>)> {
        let mut judge = Judge::new(self, cut);
        self.each_block(image, |block, bytes| {
            let all = self.touching(block);
            let list = &all[..all.partition_point(|id| self.ops()[*id].submitted <= cut.last)];
            for (sector, bytes) in (block * BLOCK_SECTORS..).zip(bytes) {
                judge.sector(sector, bytes, list);
            }
        })?;
        Ok(judge.finish())
    }

    fn each_block(&self, image: &mut Image<'_>, mut block: impl FnMut(u64, &[[u8; SECTOR_BYTES]])) -> io::Result<()> {
        let size = self.volume().size_bytes;
        let mut buf = vec![0; PIECE_BYTES];
        let mut offset = 0;
        while offset < size {
            let piece = usize::try_from(size - offset).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
            let piece = &mut buf[..piece];
            image(offset, piece)?;
            let (sectors, _) = piece.as_chunks::<SECTOR_BYTES>();
            let first = offset / BLOCK_BYTES as u64;
            for (number, bytes) in (first..).zip(sectors.chunks(BLOCK_BYTES / SECTOR_BYTES)) {
                block(number, bytes);
            }
            offset += piece.len() as u64;
        }
        Ok(())
    }

    /// The known operation that a stamp at this place names.
    fn by_stamp(&self, sector: u64, stamp: &Stamp) -> Option<OpId> {
        let id = self.find(stamp.number)?;
        let op = &self.ops()[id];
        let same = op.kind == Kind::Write && op.sectors.contains(sector);
        (same && *stamp == self.volume().stamp(sector, op.number, op.submitted, op.writer)).then_some(id)
    }

    fn leaves_zeroes(&self, id: OpId, sector: u64) -> bool {
        let op = &self.ops()[id];
        op.kind.leaves_zeroes() && op.sectors.contains(sector)
    }
}

/// Which operations must and may be in.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// Acknowledged by then: must be in.
    sure: Micros,
    /// Submitted by then: may be in.
    last: Micros,
}

/// Where an operation was seen to be in, and where it was seen not to be.
#[derive(Clone, Copy, Debug, Default)]
struct Evidence {
    present: Option<u64>,
    absent: Option<u64>,
}

/// What a sector shows.
#[derive(Clone, Copy)]
enum Shown {
    Initial,
    Op(OpId),
    /// Zeroes of more than one possible origin, the latest of which ended then.
    Zeroes(Micros),
}

struct Judge<'a> {
    history: &'a History,
    cut: Cut,
    verdict: Verdict,
    evidence: HashMap<OpId, Evidence>,
    /// `(before, after)`, and a sector that shows it.
    edges: HashMap<(OpId, OpId), u64>,
}

impl<'a> Judge<'a> {
    fn new(history: &'a History, cut: Cut) -> Self {
        let definite = history.acked_by(cut.sure);
        let doubtful = history.submitted_by(cut.last).saturating_sub(definite);
        let verdict = Verdict { definite, doubtful, ..Verdict::default() };
        Self { history, cut, verdict, evidence: HashMap::new(), edges: HashMap::new() }
    }

    fn op(&self, id: OpId) -> &'a Op {
        &self.history.ops()[id]
    }

    fn is_definite(&self, id: OpId) -> bool {
        self.op(id).acked.is_some_and(|ack| ack <= self.cut.sure)
    }

    /// `list`: what changed the sector's block and was submitted in time.
    fn sector(&mut self, sector: u64, bytes: &[u8; SECTOR_BYTES], list: &[OpId]) {
        self.verdict.sectors += 1;
        let history = self.history;
        let here = || list.iter().rev().copied().filter(|id| history.ops()[*id].sectors.contains(sector));
        let newest = here().find(|id| self.is_definite(*id));
        let after = newest.map_or(Micros(0), |id| self.op(id).submitted);
        let shown = self.identify(sector, bytes, list, after);
        let problem = match shown {
            Err(problem) => Some(problem),
            Ok(Shown::Op(id)) if self.op(id).submitted > self.cut.last => Some(Problem::Early),
            Ok(shown) => (self.end(shown) < after).then_some(Problem::Stale),
        };
        if let Some(problem) = problem {
            let expected = newest.map(|id| *self.op(id));
            self.verdict.add(Finding { problem, sector, count: 1, expected, found: self.found(bytes) });
        }
        let Ok(shown) = shown else { return };
        let end = self.end(shown);
        for id in here().take_while(|id| history.ops()[*id].submitted > end) {
            self.evidence.entry(id).or_default().absent.get_or_insert(sector);
        }
        if let (Shown::Op(id), None) = (shown, problem) {
            self.weigh(sector, id);
        }
    }

    /// Notes what it says of other operations that the sector shows this one.
    fn weigh(&mut self, sector: u64, id: OpId) {
        if !self.is_definite(id) {
            self.evidence.entry(id).or_default().present.get_or_insert(sector);
        }
        for &rival in self.history.rivals(id) {
            let op = self.op(rival);
            // A sector of an operation in doubt that does not show it need not be in at all.
            if op.acked.is_some() && op.submitted <= self.cut.last && op.sectors.contains(sector) {
                self.edges.entry((rival, id)).or_insert(sector);
            }
        }
    }

    /// Whose bytes these are, to the last bit.
    fn identify(
        &self,
        sector: u64,
        bytes: &[u8; SECTOR_BYTES],
        list: &[OpId],
        after: Micros,
    ) -> Result<Shown, Problem> {
        let history = self.history;
        if is_zero(bytes) {
            return self.identify_zeroes(sector, list, after);
        }
        let stamp = Stamp::decode(bytes).ok_or(Problem::Corrupt)?;
        if (stamp.sector, stamp.volume) != (sector, history.volume().id()) {
            return Err(Problem::Misplaced);
        }
        let shown = if history.volume().initial(sector) == Some(stamp) {
            Shown::Initial
        } else {
            Shown::Op(history.by_stamp(sector, &stamp).ok_or(Problem::Unknown)?)
        };
        let mut whole = [0; SECTOR_BYTES];
        stamp.render(&mut whole);
        if whole == *bytes { Ok(shown) } else { Err(Problem::Corrupt) }
    }

    fn identify_zeroes(&self, sector: u64, list: &[OpId], after: Micros) -> Result<Shown, Problem> {
        let hole = self.history.volume().is_hole(sector).then_some(Shown::Initial);
        let zeroed = list.iter().filter(|id| self.history.leaves_zeroes(**id, sector)).map(|id| Shown::Op(*id));
        let origins: Vec<Shown> = hole.into_iter().chain(zeroed).collect();
        let mut legal = origins.iter().filter(|origin| self.end(**origin) >= after);
        match (legal.next(), legal.next()) {
            (Some(only), None) => Ok(*only),
            _ => origins.iter().map(|origin| self.end(*origin)).max().map(Shown::Zeroes).ok_or(Problem::Corrupt),
        }
    }

    /// The last time at which what is shown can have been written.
    fn end(&self, shown: Shown) -> Micros {
        match shown {
            Shown::Initial => Micros(0),
            Shown::Op(id) => self.op(id).end(),
            Shown::Zeroes(end) => end,
        }
    }

    fn found(&self, bytes: &[u8; SECTOR_BYTES]) -> Found {
        let [a, b, c, d, e, f, g, h, ..] = *bytes;
        match Stamp::decode(bytes) {
            Some(stamp) => Found::Stamp(stamp, self.history.find(stamp.number).map(|id| *self.op(id))),
            None if is_zero(bytes) => Found::Zeroes,
            None => Found::Bytes([a, b, c, d, e, f, g, h]),
        }
    }

    fn finish(mut self) -> (Verdict, HashMap<OpId, Evidence>) {
        let torn = |(id, seen): (&OpId, &Evidence)| seen.present.and(seen.absent).map(|sector| (*id, sector));
        let mut torn: Vec<(OpId, u64)> = self.evidence.iter().filter_map(torn).collect();
        torn.sort_unstable();
        for (id, sector) in torn {
            let op = *self.op(id);
            if op.acked.is_none() {
                self.verdict.torn_in_doubt += 1;
            } else {
                self.verdict.add(Finding {
                    problem: Problem::Torn,
                    sector,
                    count: 1,
                    expected: Some(op),
                    found: Found::NotRead,
                });
            }
        }
        let is_in =
            |id: OpId| self.is_definite(id) || self.evidence.get(&id).is_some_and(|seen| seen.present.is_some());
        let edges: Vec<_> = self.edges.keys().copied().filter(|(before, _)| is_in(*before)).collect();
        let interval = |id: OpId| (self.op(id).submitted, self.op(id).end().min(self.cut.last));
        if let Some(id) = cannot_be_placed(&edges, interval) {
            let at = self.edges.iter().filter(|((_, later), _)| *later == id).map(|(_, sector)| *sector).min();
            let op = *self.op(id);
            let (sector, expected) = (at.unwrap_or(op.sectors.first), Some(op));
            self.verdict.add(Finding { problem: Problem::Order, sector, count: 1, expected, found: Found::NotRead });
        }
        (self.verdict, self.evidence)
    }
}

fn is_zero(bytes: &[u8; SECTOR_BYTES]) -> bool {
    *bytes == [0; SECTOR_BYTES]
}

/// The image is read in pieces of 1 MiB: whole blocks.
const PIECE_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests;
