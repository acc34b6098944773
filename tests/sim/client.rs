//! Clients of the volumes: stamped writes, zeroes, discards and flushes through the taps; and the memory of them that all is judged by.

use std::sync::Arc;

use agent::capture::{Capture, CaptureState};
use agent::hot::Hot;
use agent::source::Storage;
use agent::tap::Tap;
use journal::disk::sim::Rng;
use journal::types::{Extent, Sectors as Size, Seq, VolumeNo};
use nbd::Export;
use oracle::{Kind, Micros, Op, SECTOR_BYTES, Sectors, Volume};

use crate::layout::{Layout, Window};
use crate::source::Source;

/// Sectors of the longest change.
const LONGEST: u64 = 16;

/// One change, and what came of it.
#[derive(Clone, Debug)]
pub(crate) struct Done {
    /// What the oracle hears of it; `None`: it is only what was found on a source.
    pub(crate) op: Option<Op>,
    pub(crate) volume: VolumeNo,
    /// The run of the agent that it was made in.
    pub(crate) run: usize,
    /// The last place given out when it was answered.
    pub(crate) after: Option<Seq>,
    /// A flush was answered since, so that a crash of the host does not lose it; or it never reached anybody.
    is_flushed: bool,
    /// From this run on nobody knows whether it is there.
    pub(crate) doubted_from: Option<usize>,
    /// Where it is in the row of all windows, and what is there since.
    pub(crate) row: u64,
    pub(crate) data: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) layout: Layout,
    /// All windows in a row, as the oracle knows them.
    pub(crate) volume: Volume,
    pub(crate) done: Vec<Done>,
    /// The sources as each run found them, and the time then.
    pub(crate) runs: Vec<(Micros, Vec<u8>)>,
    /// Which size a volume has from a place of a run on.
    sizes: Vec<(usize, Option<Seq>, VolumeNo, Size)>,
    pub(crate) time: u64,
    sources: Vec<Arc<Source>>,
    run: Option<Run>,
    rng: Rng,
    pub(crate) flushes: u64,
    pub(crate) beside_a_base: u64,
    pub(crate) failed: u64,
}

/// What a run offers to clients, by volume.
#[derive(Debug)]
struct Run {
    capture: Arc<Capture>,
    taps: Vec<(Tap, Option<Arc<Hot>>)>,
}

impl Client {
    pub(crate) fn new(layout: Layout, volume: Volume, seed: u64) -> Self {
        Self {
            layout,
            volume,
            done: Vec::new(),
            runs: Vec::new(),
            sizes: Vec::new(),
            time: 1,
            sources: Vec::new(),
            run: None,
            rng: Rng::new(seed),
            flushes: 0,
            beside_a_base: 0,
            failed: 0,
        }
    }

    /// What the windows hold before anything happens.
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

    /// These are the volumes. What they do not reach to is zero, once they do.
    pub(crate) fn begin(&mut self, sources: Vec<Arc<Source>>) {
        self.sources = sources;
        self.layout.numbers().for_each(|volume| self.was_resized(volume));
    }

    /// Somebody changed the size of a volume that nobody serves.
    pub(crate) fn was_resized(&mut self, volume: VolumeNo) {
        let (size, run) = (self.sources[volume.0 as usize].size(), self.runs.len());
        for window in self.layout.of(volume) {
            let gone = window.bytes - window.within(size);
            if gone == 0 {
                continue;
            }
            self.time += 1;
            let (submitted, number) = (Micros(self.time), self.next_number());
            self.time += 1;
            let acked = Some(Micros(self.time));
            let row = window.row + window.within(size);
            let sectors = Sectors { first: row / 512, count: gone / 512 };
            let op = Some(Op { number, kind: Kind::Zero, writer: 0, sectors, submitted, acked, settled: None });
            let data = vec![0; gone as usize];
            self.done.push(Done { op, volume, run, after: None, is_flushed: true, doubted_from: None, row, data });
        }
    }

    /// The order says from `seq` on that a volume has this size.
    pub(crate) fn has_grown(&mut self, volume: VolumeNo, seq: Seq, size: Size) {
        self.sizes.push((self.runs.len() - 1, Some(seq), volume, size));
    }

    /// What the order says at this place of a run.
    pub(crate) fn size_at(&self, run: usize, seq: Seq, volume: VolumeNo) -> Option<Size> {
        let is_said = |said: &&(usize, Option<Seq>, VolumeNo, Size)| {
            let (of, from, known, _) = said;
            (*of, *known) == (run, volume) && *from <= Some(seq)
        };
        self.sizes.iter().rev().find(is_said).map(|(.., size)| *size)
    }

    fn next_number(&self) -> u64 {
        self.done.len() as u64 + 1
    }

    /// All windows in a row, as they are.
    pub(crate) fn image(&self) -> Vec<u8> {
        self.sources.iter().flat_map(|source| source.image()).collect()
    }

    /// A run of the agent begins, or one takes another's place: what is on the sources is what it begins with.
    pub(crate) fn run_begins(&mut self, taps: Vec<(Tap, Option<Arc<Hot>>)>, capture: &Arc<Capture>) {
        self.time += 1;
        let run = self.runs.len();
        self.runs.push((Micros(self.time), self.image()));
        self.sizes.extend(self.layout.numbers().map(|it| (run, None, it, self.sources[it.0 as usize].size())));
        self.run = Some(Run { capture: Arc::clone(capture), taps });
    }

    pub(crate) fn run_ends(&mut self) {
        self.run = None;
    }

    /// What was written to this volume is safe from a crash of the host.
    pub(crate) fn was_flushed(&mut self, volume: VolumeNo) {
        self.done.iter_mut().filter(|done| done.volume == volume).for_each(|done| done.is_flushed = true);
    }

    /// A flush failed: what it was to make safe is there or not, and what is there now stays.
    pub(crate) fn flush_failed(&mut self, volume: VolumeNo, after: Option<Seq>) {
        let run = self.runs.len() - 1;
        self.doubt(run, |done| done.volume == volume);
        let image = self.image();
        for window in self.layout.of(volume) {
            let data = image[window.row as usize..][..window.bytes as usize].to_vec();
            let row = window.row;
            self.done.push(Done { op: None, volume, run, after, is_flushed: true, doubted_from: None, row, data });
        }
    }

    /// Nobody knows whether these, which were not flushed, are there in and after that run.
    fn doubt(&mut self, run: usize, which: impl Fn(&Done) -> bool) {
        self.time += 1;
        for done in self.done.iter_mut().filter(|done| !done.is_flushed && which(done)) {
            done.doubted_from.get_or_insert(run);
            done.is_flushed = true;
            if let Some(op) = &mut done.op {
                op.settled.get_or_insert(Micros(self.time));
            }
        }
    }

    /// The host's power goes: what was not flushed may be there or not.
    pub(crate) fn host_crashes(&mut self) {
        let next = self.runs.len();
        self.doubt(next, |_| true);
    }

    /// Whether there is anybody to write to, who does not make writers wait.
    fn is_served(&self) -> bool {
        let blocked = |run: &Run| matches!(run.capture.state(), CaptureState::Blocked { .. });
        self.run.as_ref().is_some_and(|run| !blocked(run))
    }

    /// Something that a client does, and is answered.
    pub(crate) fn act(&mut self) -> Option<String> {
        if !self.is_served() {
            return None;
        }
        if self.rng.chance(1, 10) {
            let volume = VolumeNo(self.rng.below(u64::from(self.layout.volumes)) as u32);
            return self.flush(volume);
        }
        let (mut op, data, window) = self.next();
        let fua = self.rng.chance(1, 20);
        let (volume, row) = (window.volume, op.sectors.first * 512);
        let (at, length) = (window.at + row - window.row, op.sectors.count * 512);
        let Run { capture, taps } = self.run.as_ref()?;
        let (tap, source) = (&taps[volume.0 as usize].0, &self.sources[volume.0 as usize]);
        let (before, flushes_failed) = (capture.last_seq(), source.flushes_failed());
        let answer = match op.kind {
            Kind::Write => tap.write(at, &data, fua),
            Kind::Zero => tap.write_zeroes(at, length, self.rng.chance(1, 2), fua),
            Kind::Trim | Kind::Flush => tap.trim(at, length, fua),
        };
        self.time += 1;
        let after = capture.last_seq();
        let what = format!("{:?} {} {}+{} -> {after:?}", op.kind, op.number, op.sectors.first, op.sectors.count);
        let run = self.runs.len() - 1;
        let mut done = Done { op: None, volume, run, after, is_flushed: false, doubted_from: None, row, data };
        if let Err(code) = answer {
            // Any part of it happened; what is there now is what clients read, and what is recorded.
            op.settled = Some(Micros(self.time));
            done.op = Some(op);
            // One record tells of the change, if anything does; if its flush failed, another opens a gap.
            done.after = after.min(Some(Seq::following(before)));
            let is_done = source.flushes_failed() != flushes_failed;
            if !is_done {
                done.data = self.image()[row as usize..][..length as usize].to_vec();
            }
            self.done.push(done);
            self.failed += 1;
            if is_done {
                self.flush_failed(volume, after);
            }
            return Some(format!("{what}: {code:?}"));
        }
        op.acked = Some(Micros(self.time));
        done.op = Some(op);
        self.done.push(done);
        if fua {
            // The simulated disk has one cache: its flush is everybody's.
            self.was_flushed(volume);
        }
        Some(what)
    }

    /// A client's flush of one volume.
    pub(crate) fn flush(&mut self, volume: VolumeNo) -> Option<String> {
        if !self.is_served() {
            return None;
        }
        let Run { capture, taps } = self.run.as_ref()?;
        let flushed = taps[volume.0 as usize].0.flush();
        let after = capture.last_seq();
        self.flushes += 1;
        if let Err(code) = flushed {
            self.failed += 1;
            self.flush_failed(volume, after);
            return Some(format!("flush of {volume}: {code:?}"));
        }
        self.was_flushed(volume);
        Some(format!("flush of {volume}"))
    }

    /// A change reaches the source, and then the agent is gone: nobody is answered, nothing is recorded.
    pub(crate) fn act_unanswered(&mut self) -> Option<String> {
        if !self.is_served() {
            return None;
        }
        let (op, data, window) = self.next();
        let (volume, row) = (window.volume, op.sectors.first * 512);
        let at = window.at + row - window.row;
        let hot = &self.run.as_ref()?.taps[volume.0 as usize].1;
        let pass = hot.as_ref().map(|hot| hot.enter(Extent::of_bytes(at, data.len() as u64)));
        // It is under way for ever.
        std::mem::forget(pass);
        let written = self.sources[volume.0 as usize].write_at(at, &data);
        let what =
            format!("unanswered {:?} {} {}+{} {written:?}", op.kind, op.number, op.sectors.first, op.sectors.count);
        let run = self.runs.len() - 1;
        let (after, doubted_from) = (Seq::new(u64::MAX), Some(run + 1));
        self.done.push(Done { op: Some(op), volume, run, after, is_flushed: false, doubted_from, row, data });
        Some(what)
    }

    /// The agent is gone: what it did not answer is on its way to nobody any more.
    pub(crate) fn settle(&mut self) {
        self.time += 1;
        let now = Micros(self.time);
        let ops = self.done.iter_mut().filter_map(|done| done.op.as_mut());
        ops.filter(|op| op.acked.is_none()).for_each(|op| _ = op.settled.get_or_insert(now));
    }

    fn next(&mut self) -> (Op, Vec<u8>, Window) {
        self.time += 1;
        let (window, first, left) = self.place();
        let sectors = Sectors { first, count: (1 + self.rng.below(LONGEST)).min(left) };
        let number = self.next_number();
        let kind = [Kind::Zero, Kind::Trim, Kind::Write][self.rng.below_len(16).min(2)];
        let submitted = Micros(self.time);
        let mut data = vec![0; (sectors.count * 512) as usize];
        if kind == Kind::Write {
            let (chunks, _) = data.as_chunks_mut::<SECTOR_BYTES>();
            for (sector, bytes) in (sectors.first..).zip(chunks) {
                self.volume.stamp(sector, number, submitted, 0).render(bytes);
            }
        }
        (Op { number, kind, writer: 0, sectors, submitted, acked: None, settled: None }, data, window)
    }

    /// A sector of the row that its volume has now, and how many there are from it on. Some places come again and again.
    fn place(&mut self) -> (Window, u64, u64) {
        let first = self.layout.windows[0];
        loop {
            let range = if self.rng.chance(1, 2) { first.bytes.min(24 * 512) } else { self.volume.size_bytes };
            let sector = self.rng.below(range / 512);
            let window = self.layout.window(sector * 512);
            let size = self.sources[window.volume.0 as usize].size();
            let end = (window.row + window.within(size)) / 512;
            if sector < end {
                return (window, sector, end - sector);
            }
        }
    }

    /// Perhaps something while a base is being read.
    pub(crate) fn meanwhile(&mut self) {
        if self.rng.chance(1, 6) && self.act().is_some() {
            self.beside_a_base += 1;
        }
    }
}
