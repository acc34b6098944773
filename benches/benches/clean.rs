//! What cleaning costs and brings: bytes rewritten for each byte freed on a history of random overwrites, the slack that this needs, what
//! changed blocks take in the store, and how much of it the ingest notices.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use benches::chain::{Chain, GROUP};
use benches::data::{self, Rng};
use benches::options::Options;
use benches::place;
use benches::samples::Samples;
use benches::table::{self, Aim, Row};
use journal::disk::FileDisk;
use journal::frame::Frame;
use journal::log::{PointsFile, remove_replaced};
use journal::retention::Policy;
use journal::store::{Cleaner, Library, Output, Store};
use journal::types::{Micros, SegmentNo, SessionId, WallTime};

const BLOCK: u64 = 4096;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let sizes = Sizes { volume: options.size(512 << 20, 16 << 20), segment: options.size(64 << 20, 2 << 20) };
    let mut rows = Vec::new();
    for every in [2, 4, 8] {
        rows.extend(overwrites(&sizes, every, options.size(12, 4))?);
    }
    rows.push(growth(&sizes)?);
    rows.push(ingest(&sizes, &options)?);
    table::print(
        "clean: random overwrites of 4 KiB, incompressible; every write kept for a part of the volume's worth",
        &rows,
        &options,
    );
    Ok(())
}

#[derive(Clone, Copy)]
struct Sizes {
    volume: u64,
    segment: u64,
}

/// A store and the agent that fills it.
struct Bench {
    store: Store,
    disk: Arc<FileDisk>,
    chain: Chain,
    rng: Rng,
    content: Vec<u8>,
    blocks: u64,
    segment: u64,
}

/// What cleaning did.
#[derive(Clone, Copy, Debug, Default)]
struct Cleaned {
    written: u64,
    freed: u64,
}

impl Bench {
    fn new(dir: &Path, volume: u64, segment: u64) -> Result<Self> {
        let disk = Arc::new(FileDisk::create(dir)?);
        let (store, _) = Store::open(disk.clone(), GROUP, segment, place::entropy)?;
        let mut chain = Chain::new(volume, false);
        chain.cover();
        let content = data::incompressible(1 << 20, 4);
        Ok(Self { store, disk, chain, rng: Rng::new(3), content, blocks: volume / BLOCK, segment })
    }

    /// Frames of random overwrites.
    fn frames(&mut self, writes: u64) -> Result<Vec<Frame>> {
        let mut frames = Vec::new();
        for _ in 0..writes {
            let from = usize::try_from(self.rng.below(255) * BLOCK)?;
            let data = &self.content[from..from + usize::try_from(BLOCK)?];
            self.chain.write(self.rng.below(self.blocks) * BLOCK, data);
            if self.chain.is_full() {
                frames.push(self.chain.close());
            }
        }
        Ok(frames)
    }

    fn append(&mut self, frame: Frame) -> Result<()> {
        self.store.append(&[frame], SessionId(1), WallTime(1))?;
        self.store.sync()?;
        Ok(())
    }

    fn write(&mut self, writes: u64) -> Result<()> {
        let frames = self.frames(writes)?;
        frames.into_iter().try_for_each(|frame| self.append(frame))
    }

    /// Thins and cleans until nothing is worth it.
    fn clean(&mut self, window: u64) -> Result<Cleaned> {
        let mut all = Cleaned::default();
        let (library, disk, now) = (self.store.library(), Arc::clone(&self.disk), self.chain.time());
        loop {
            let mut ask = |work: Work| work(&mut self.store);
            let done = clean_once(&library, &disk, (window, now, self.segment), &mut ask)?;
            all.written += done.written;
            all.freed += done.freed;
            if done.freed == 0 {
                return Ok(all);
            }
        }
    }
}

/// Something that the owner of a store is asked to do.
type Work = Box<dyn FnOnce(&mut Store) + Send>;

/// Asks, and waits for the answer.
fn asked<T: Send + 'static>(
    ask: &mut dyn FnMut(Work),
    work: impl FnOnce(&mut Store) -> T + Send + 'static,
) -> Result<T> {
    let (reply, answer) = channel();
    ask(Box::new(move |store| drop(reply.send(work(store)))));
    answer.recv().context("nobody answers")
}

fn clean_once(
    library: &Library,
    disk: &FileDisk,
    (window, now, segment): (u64, WallTime, u64),
    ask: &mut dyn FnMut(Work),
) -> Result<Cleaned> {
    let go_on = &mut |_| ControlFlow::Continue(());
    let [every_write, every_minute, hourly, marks] = [window, 0, 0, 0].map(Micros);
    let policy = Policy { every_write, every_minute, hourly, marks };
    if let Some(kept) = Cleaner::new(library.now()).thinning(&policy, now, &[])? {
        let number = asked(ask, |store| store.take_number(SegmentNo(0)))?;
        let list = PointsFile::write(disk, GROUP, number, kept)?;
        asked(ask, move |store| store.thin(&list))??;
    }
    let cleaner = Cleaner::new(library.now());
    let plans = cleaner.survey(segment, go_on)?.context("stopped")?.plans;
    let mut done = Cleaned::default();
    let mut rest = plans.as_slice();
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(Cleaner::batch(rest).min(rest.len()));
        rest = later;
        for one in &cleaner.examine(batch, go_on)?.context("stopped")? {
            let number = asked(ask, |store| store.take_number(SegmentNo(0)))?;
            let output = Output { disk, number, salt: place::entropy(), now };
            let new = cleaner.compact(one, output, go_on)?.context("stopped")?;
            let written = new.bytes();
            let old = asked(ask, move |store| store.replace(new))??;
            remove_replaced(disk, &old)?;
            done.written += written;
            done.freed += one.plan().bytes.saturating_sub(written);
        }
    }
    Ok(done)
}

/// A volume overwritten at random, many times, with cleaning in between: every write of the last `1/every` of the volume is kept.
fn overwrites(sizes: &Sizes, every: u64, volumes: u64) -> Result<Vec<Row>> {
    let dir = place::real_disk()?;
    let mut bench = Bench::new(dir.path(), sizes.volume, sizes.segment)?;
    let window = bench.blocks / every;
    let (mut all, mut peak) = (Cleaned::default(), 0);
    // The first two volumes only fill the store.
    for round in 0..volumes * every {
        bench.write(window)?;
        let done = bench.clean(window)?;
        if round >= 2 * every {
            all.written += done.written;
            all.freed += done.freed;
            peak = peak.max(bench.store.library().now().bytes());
        }
    }
    let needed = sizes.volume + sizes.volume / every;
    let floor = ("what a point can see".to_owned(), one(megabytes(needed)));
    let what = format!("every write of 1/{every} of the volume");
    let ratio = all.written as f64 / all.freed.max(1) as f64;
    Ok(vec![
        Row {
            what: format!("bytes rewritten for one freed, {what}"),
            unit: "",
            ours: one(ratio),
            floor: None,
            aim: Aim::AtMost(1.5),
        },
        Row {
            what: format!("largest store after cleaning, {what}"),
            unit: "MB",
            ours: one(megabytes(peak)),
            floor: Some(floor),
            aim: Aim::Known,
        },
    ])
}

/// What changed blocks take, sealed with their index.
fn growth(sizes: &Sizes) -> Result<Row> {
    let dir = place::real_disk()?;
    let changed = sizes.segment * 3;
    // One in a hundred of so many.
    let mut bench = Bench::new(dir.path(), changed * 100, sizes.segment)?;
    bench.write(changed / BLOCK)?;
    let sealed = bench.store.log().segments().filter_map(|segment| segment.sealed);
    let (files, last) = sealed.fold((0, None), |(bytes, _), sealed| (bytes + sealed.file_bytes, sealed.end));
    let blocks = last.context("nothing was sealed")?.number();
    let floor = ("the blocks".to_owned(), one(megabytes(blocks * BLOCK)));
    let what = "store growth for 1 % random 4 KiB changes, sealed".to_owned();
    Ok(Row { what, unit: "MB", ours: one(megabytes(files)), floor: Some(floor), aim: Aim::RatioAtMost(1.05) })
}

/// The same frames, alone and while another thread cleans.
fn ingest(sizes: &Sizes, options: &Options) -> Result<Row> {
    let rounds = options.rounds(3);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        for cleans in [false, true] {
            let dir = place::real_disk()?;
            let mut bench = Bench::new(dir.path(), sizes.volume, sizes.segment)?;
            bench.write(bench.blocks * 3)?;
            let frames = bench.frames(bench.blocks)?;
            let took = if cleans { with_cleaning(&mut bench, frames)? } else { fed(&mut bench, frames, None)? };
            let rate = megabytes(sizes.volume) / took.as_secs_f64();
            if cleans {
                beside.push(rate);
            } else {
                alone.push(rate);
            };
        }
    }
    let floor = ("ingest alone".to_owned(), alone.into_iter().collect());
    let (what, ours) = ("ingest while cleaning".to_owned(), beside.into_iter().collect());
    Ok(Row { what, unit: "MB/s", ours, floor: Some(floor), aim: Aim::RatioAtLeast(0.7) })
}

fn fed(bench: &mut Bench, frames: Vec<Frame>, work: Option<&Receiver<Work>>) -> Result<Duration> {
    let started = Instant::now();
    for frame in frames {
        bench.append(frame)?;
        work.into_iter().flat_map(Receiver::try_iter).for_each(|work| work(&mut bench.store));
    }
    Ok(started.elapsed())
}

fn with_cleaning(bench: &mut Bench, frames: Vec<Frame>) -> Result<Duration> {
    let (library, disk, segment) = (bench.store.library(), Arc::clone(&bench.disk), bench.segment);
    let (now, window) = (bench.chain.time(), bench.blocks * 3 / 2);
    let (work, works): (Sender<Work>, _) = channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // As the receiver does it; where it may not give way it is as fast as the other.
            let _ = rustix::process::nice(10);
            let mut ask = |one: Work| drop(work.send(one));
            // It ends when nobody answers any more, at the latest.
            while clean_once(&library, &disk, (window, now, segment), &mut ask).is_ok_and(|done| done.freed > 0) {}
        });
        let took = fed(bench, frames, Some(&works));
        drop(works);
        took
    })
}

fn one(value: f64) -> Samples {
    [value].into_iter().collect()
}

#[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
