//! Clients of the volume: stamped writes, zeroes, discards and flushes through the tap; and the memory of them that all is judged by.

use std::sync::Arc;

use agent::capture::Capture;
use agent::tap::Tap;
use journal::disk::sim::Rng;
use journal::types::Seq;
use nbd::Export;
use oracle::{Kind, Micros, Op, SECTOR_BYTES, Sectors, Volume};

use crate::source::Source;

/// Sectors of the longest change.
const LONGEST: u64 = 16;

/// One change, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    pub(crate) op: Op,
    /// The run of the agent that it was made in.
    pub(crate) run: usize,
    /// The last place given out when it was answered.
    pub(crate) after: Option<Seq>,
    /// A flush was answered since, so that a crash of the host does not lose it; or it never reached anybody.
    is_flushed: bool,
    /// From this run on nobody knows whether it is there.
    pub(crate) doubted_from: Option<usize>,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) volume: Volume,
    pub(crate) done: Vec<Done>,
    /// The source as each run found it, and the time then.
    pub(crate) runs: Vec<(Micros, Vec<u8>)>,
    pub(crate) time: u64,
    tap: Option<(Arc<Tap>, Arc<Capture>)>,
    rng: Rng,
    pub(crate) flushes: u64,
    pub(crate) beside_a_base: u64,
}

impl Client {
    pub(crate) fn new(volume: Volume, seed: u64) -> Self {
        let (done, runs) = (Vec::new(), Vec::new());
        Self { volume, done, runs, time: 1, tap: None, rng: Rng::new(seed), flushes: 0, beside_a_base: 0 }
    }

    /// What the volume holds before anything happens.
    pub(crate) fn initial(volume: &Volume) -> Vec<u8> {
        let mut image = vec![0; volume.size_bytes as usize];
        let (sectors, _) = image.as_chunks_mut::<SECTOR_BYTES>();
        for (sector, bytes) in (0..).zip(sectors) {
            if let Some(stamp) = volume.initial(sector) {
                stamp.render(bytes);
            }
        }
        image
    }

    /// A run of the agent begins, or one takes another's place: what is on the source is what it begins with.
    pub(crate) fn run_begins(&mut self, source: &Source, tap: Tap, capture: &Arc<Capture>) {
        self.time += 1;
        self.runs.push((Micros(self.time), source.image()));
        self.tap = Some((Arc::new(tap), Arc::clone(capture)));
    }

    pub(crate) fn run_ends(&mut self) {
        self.tap = None;
    }

    /// The source was flushed, by a clean stop.
    pub(crate) fn host_flushed(&mut self) {
        self.done.iter_mut().for_each(|done| done.is_flushed = true);
    }

    /// The host's power goes: what was not flushed may be there or not.
    pub(crate) fn host_crashes(&mut self) {
        self.time += 1;
        let next = self.runs.len();
        for done in self.done.iter_mut().filter(|done| !done.is_flushed) {
            done.doubted_from.get_or_insert(next);
            done.is_flushed = true;
            done.op.settled.get_or_insert(Micros(self.time));
        }
    }

    /// Whether there is anybody to write to, who does not make writers wait.
    fn way(&self) -> Option<(Arc<Tap>, Arc<Capture>)> {
        let blocked = |capture: &Capture| matches!(capture.state(), agent::capture::CaptureState::Blocked { .. });
        self.tap.clone().filter(|(_, capture)| !blocked(capture))
    }

    /// Something that a client does, and is answered.
    pub(crate) fn act(&mut self) -> Option<String> {
        let (tap, capture) = self.way()?;
        if self.rng.chance(1, 10) {
            tap.flush().unwrap();
            self.flushes += 1;
            self.done.iter_mut().for_each(|done| done.is_flushed = true);
            return Some("flush".to_owned());
        }
        let (mut op, data) = self.next();
        let fua = self.rng.chance(1, 20);
        let (at, length) = (op.sectors.first * 512, op.sectors.count * 512);
        match op.kind {
            Kind::Write => tap.write(at, &data, fua),
            Kind::Zero => tap.write_zeroes(at, length, self.rng.chance(1, 2), fua),
            Kind::Trim | Kind::Flush => tap.trim(at, length, fua),
        }
        .unwrap();
        self.time += 1;
        op.acked = Some(Micros(self.time));
        let after = capture.last_seq();
        let what = format!("{:?} {} {}+{} -> {after:?}", op.kind, op.number, op.sectors.first, op.sectors.count);
        let run = self.runs.len() - 1;
        self.done.push(Done { op, run, after, is_flushed: false, doubted_from: None, data });
        if fua {
            // The simulated disk has one cache: its flush is everybody's.
            self.done.iter_mut().for_each(|done| done.is_flushed = true);
        }
        Some(what)
    }

    /// A change reaches the source, and then the agent is gone: nobody is answered, nothing is recorded.
    pub(crate) fn act_unanswered(&mut self, source: &Source) -> Option<String> {
        use agent::source::Storage;
        self.way()?;
        let (op, data) = self.next();
        source.write_at(op.sectors.first * 512, &data).unwrap();
        let what = format!("unanswered {:?} {} {}+{}", op.kind, op.number, op.sectors.first, op.sectors.count);
        let run = self.runs.len() - 1;
        let doubted_from = Some(run + 1);
        self.done.push(Done { op, run, after: Seq::new(u64::MAX), is_flushed: false, doubted_from, data });
        Some(what)
    }

    /// The agent is gone: what it did not answer is on its way to nobody any more.
    pub(crate) fn settle(&mut self) {
        self.time += 1;
        let now = Micros(self.time);
        let open = self.done.iter_mut().filter(|done| done.op.acked.is_none());
        open.for_each(|done| _ = done.op.settled.get_or_insert(now));
    }

    fn next(&mut self) -> (Op, Vec<u8>) {
        self.time += 1;
        let total = self.volume.sectors();
        let count = 1 + self.rng.below(LONGEST);
        // Some places are written again and again.
        let first = if self.rng.chance(1, 2) { self.rng.below(24) } else { self.rng.below(total) };
        let sectors = Sectors { first, count: count.min(total - first) };
        let number = self.done.len() as u64 + 1;
        let kind = [Kind::Zero, Kind::Trim, Kind::Write][self.rng.below_len(16).min(2)];
        let submitted = Micros(self.time);
        let mut data = vec![0; (sectors.count * 512) as usize];
        if kind == Kind::Write {
            let (chunks, _) = data.as_chunks_mut::<SECTOR_BYTES>();
            for (sector, bytes) in (sectors.first..).zip(chunks) {
                self.volume.stamp(sector, number, submitted, 0).render(bytes);
            }
        }
        (Op { number, kind, writer: 0, sectors, submitted, acked: None, settled: None }, data)
    }

    /// Perhaps something while a base is being read.
    pub(crate) fn meanwhile(&mut self) {
        if self.rng.chance(1, 6) && self.act().is_some() {
            self.beside_a_base += 1;
        }
    }
}
