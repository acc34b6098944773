//! Views on a long history, made of index entries rather than of data: 10^7 of them, or as many as `BACKSPOOL_ENTRIES` says.
//!
//! One record of 256 is a write of 4 KiB, which is what is read; the others fill 4 KiB each, which costs an entry and no space.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use benches::chain::{Chain, GROUP, VOLUME};
use benches::data::Rng;
use benches::options::Options;
use benches::place;
use benches::samples::{Samples, timed};
use benches::table::{self, Aim, Row};
use journal::disk::{Disk, FileDisk};
use journal::store::{Merger, Merging, Store, Version};
use journal::types::{Seq, SessionId, WallTime};

const BLOCK: usize = 4096;
/// Filled with records that have no data, about as many entries as there are of blocks in a segment of the usual size.
const SEGMENT_BYTES: u64 = 1 << 20;
/// One record of so many is a write.
const WRITE_EVERY: u64 = 256;
/// Blocks that are read again.
const SAMPLES: usize = 1 << 16;

/// A block that was written: where, and from which place in the order on.
#[derive(Clone, Copy, Debug)]
struct Written {
    offset: u64,
    seq: Seq,
}

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let asked = std::env::var("BACKSPOOL_ENTRIES").ok().map(|n| n.parse()).transpose()?;
    let entries: u64 = asked.unwrap_or_else(|| options.size(10_000_000, 100_000));
    let mut rows = Vec::new();
    // The same for a volume of 1 GiB and of 1 TiB, and for a tenth of the history.
    for (entries, volume) in [(entries / 10, 1 << 40), (entries, 1 << 30), (entries, 1 << 40)] {
        rows.extend(measure(entries, volume, &options)?);
    }
    table::print("history: views on many index entries", &rows, &options);
    Ok(())
}

fn measure(entries: u64, volume: u64, options: &Options) -> Result<Vec<Row>> {
    let dir = place::real_disk()?;
    let size = if volume >= 1 << 40 { "1 TiB" } else { "1 GiB" };
    let of = |what: &str| format!("{what}: {entries} entries, {size}");
    let row = |what: &str, unit, value: f64, aim| Row {
        what: of(what),
        unit,
        ours: [value].into_iter().collect(),
        floor: None,
        aim,
    };
    let written = fill(dir.path(), volume, entries)?;
    let (mut store, _) = open(dir.path())?;
    let places = store.library().now().places();
    let (merged, took) = timed(|| merge(dir.path(), &mut store))?;
    let mut rows = vec![
        row("merged, each entry as often as it is", "M/s", merged as f64 / took.as_secs_f64() / 1e6, Aim::Known),
        row("places to look into before merging", "", places as f64, Aim::Known),
        row("places to look into", "", store.library().now().places() as f64, Aim::AtMost(64.0)),
    ];
    drop(store);
    let before = memory("VmRSS:")?;
    // The most from now on.
    let resets = std::fs::write("/proc/self/clear_refs", "5").is_ok();
    let ((store, _), took) = timed(|| open(dir.path()))?;
    rows.push(row("open the journal", "ms", millis(took), Aim::Known));
    let version = store.library().now();
    rows.extend(first_reads(&version, dir.path(), &written, options, &of)?);
    rows.extend(random_reads(&version, dir.path(), &written, options, &of)?);
    if resets {
        let took = memory("VmHWM:")? - before;
        rows.push(row("memory that all of that took", "MiB", took, Aim::AtMost(256.0)));
    }
    Ok(rows)
}

fn open(dir: &Path) -> Result<(Store, Vec<journal::log::Finding>)> {
    Ok(Store::open(Arc::new(FileDisk::create(dir)?), GROUP, SEGMENT_BYTES, place::entropy)?)
}

/// Makes the history; returns some of what was written.
fn fill(dir: &Path, volume: u64, entries: u64) -> Result<Vec<Written>> {
    let (mut store, _) = open(dir)?;
    let mut chain = Chain::new(volume, false);
    let mut rng = Rng::new(11);
    let mut block = vec![0; BLOCK];
    let mut written = Vec::new();
    for n in 0..entries {
        let offset = rng.below(volume / BLOCK as u64) * BLOCK as u64;
        if n % WRITE_EVERY == 0 {
            // Tells where it belongs, and does not compress to nothing.
            block.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.below(u64::MAX).to_le_bytes()));
            block[..8].copy_from_slice(&offset.to_le_bytes());
            chain.write(offset, &block);
            let one = Written { offset, seq: chain.last() };
            if written.len() < SAMPLES {
                written.push(one);
            } else if rng.below(4) == 0 {
                let place = usize::try_from(rng.below(SAMPLES as u64))?;
                written[place] = one;
            }
        } else {
            chain.fill(offset, BLOCK as u64, n.to_le_bytes());
        }
        if chain.is_full() {
            store.append(&[chain.close()], SessionId(1), WallTime(1))?;
        }
    }
    store.append(&[chain.close()], SessionId(1), WallTime(1))?;
    store.sync()?;
    store.stop(WallTime(1))?;
    Ok(written)
}

/// Merges all there is, as the receiver does in the background; how many entries were written in all.
fn merge(dir: &Path, store: &mut Store) -> Result<u64> {
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(dir)?);
    let mut merger = Merger::new(disk, GROUP, place::entropy);
    let mut merged = 0;
    loop {
        match merger.step(&store.library().now(), |_| true)? {
            Merging::Idle => return Ok(merged),
            Merging::Goes => {}
            Merging::Renew(made) => {
                merged += made.as_ref().map_or(0, |run| run.entries());
                store.renew_runs(made);
            }
        }
    }
}

/// From a place in the order to the first block of its view: with all of it in memory, and with nothing.
fn first_reads(
    version: &Arc<Version>,
    dir: &Path,
    written: &[Written],
    options: &Options,
    of: &dyn Fn(&str) -> String,
) -> Result<Vec<Row>> {
    let mut rng = Rng::new(12);
    let one = |version: &Arc<Version>, rng: &mut Rng| {
        let Written { offset, seq } = written[usize::try_from(rng.below(written.len() as u64))?];
        let mut block = [0; BLOCK];
        let start = Instant::now();
        let time = version.time_of(seq)?.context("a record without a time")?;
        let found = version.seq_at(time)?.context("no record then")?;
        version.view(found)?.read(VOLUME, offset, &mut block)?;
        let took = start.elapsed();
        ensure!(found == seq && block[..8] == offset.to_le_bytes(), "another block than was written");
        anyhow::Ok(millis(took))
    };
    let warm = (0..options.size(2000, 50)).map(|_| one(version, &mut rng)).collect::<Result<Samples>>()?;
    let files = files(dir, "seg")?;
    let mut floor_rng = Rng::new(13);
    let floor = (0..options.size(2000, 50)).map(|_| Ok(millis(pread(&files, &mut floor_rng)?)));
    let floor = floor.collect::<Result<Samples>>()?;
    let row = |what: &str, ours, floor, aim| Row {
        what: of(what),
        unit: "ms",
        ours,
        floor: Some(("pread + CRC-32".to_owned(), floor)),
        aim,
    };
    let median = |samples: &Samples| -> Samples { [samples.median()].into_iter().collect() };
    let mut rows = vec![row("an instant's first 4 KiB, warm", median(&warm), median(&floor), Aim::AtMost(50.0))];
    let (mut cold, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds(9) {
        // What this process remembers goes with the store, what the kernel does with this.
        let (store, _) = open(dir)?;
        if std::fs::write("/proc/sys/vm/drop_caches", "3").is_err() {
            println!("not root: nothing is measured cold");
            return Ok(rows);
        }
        cold.push(one(&store.library().now(), &mut rng)?);
        floor.push(millis(pread(&files, &mut floor_rng)?));
    }
    let samples = |all: Vec<f64>| -> Samples { all.into_iter().collect() };
    rows.push(row("an instant's first 4 KiB, cold", samples(cold), samples(floor), Aim::AtMost(250.0)));
    Ok(rows)
}

/// 4 KiB at random of the newest view, by one and by four.
fn random_reads(
    version: &Arc<Version>,
    dir: &Path,
    written: &[Written],
    options: &Options,
    of: &dyn Fn(&str) -> String,
) -> Result<Vec<Row>> {
    let head = version.head().context("an empty journal")?.seq;
    let view = version.view(head)?;
    let files = files(dir, "seg")?;
    let count: u64 = options.size(40_000, 200);
    let ours = |seed: u64| -> Result<()> {
        let (mut rng, mut block) = (Rng::new(seed), [0; BLOCK]);
        for _ in 0..count {
            let offset = written[usize::try_from(rng.below(written.len() as u64))?].offset;
            view.read(VOLUME, offset, &mut block)?;
            black_box(&block);
        }
        Ok(())
    };
    let least = |seed: u64| -> Result<()> {
        let mut rng = Rng::new(seed);
        (0..count).try_for_each(|_| pread(&files, &mut rng).map(drop))
    };
    let mut rows = Vec::new();
    for threads in [1, 4] {
        let rate = |work: &(dyn Fn(u64) -> Result<()> + Sync), seed: u64| -> Result<f64> {
            let ((), took) = timed(|| {
                std::thread::scope(|scope| {
                    let all: Vec<_> = (0..threads).map(|n| scope.spawn(move || work(seed + n))).collect();
                    all.into_iter().try_for_each(|one| one.join().map_err(|_| anyhow!("a reader panicked"))?)
                })
            })?;
            Ok((count * threads) as f64 / took.as_secs_f64() / 1e3)
        };
        let rounds = 0..options.rounds(5) as u64;
        let both = rounds.map(|round| Ok((rate(&ours, 100 + round)?, rate(&least, 200 + round)?)));
        let both = both.collect::<Result<Vec<_>>>()?;
        rows.push(Row {
            what: of(&format!("random 4 KiB of a view, {threads} at once")),
            unit: "k/s",
            ours: both.iter().map(|(ours, _)| *ours).collect(),
            floor: Some(("pread + CRC-32".to_owned(), both.iter().map(|(_, least)| *least).collect())),
            aim: Aim::Known,
        });
    }
    Ok(rows)
}

/// One block of those files, checked; how long that took.
fn pread(files: &[(File, u64)], rng: &mut Rng) -> Result<Duration> {
    let (file, length) = &files[usize::try_from(rng.below(files.len() as u64))?];
    let at = rng.below(length.saturating_sub(BLOCK as u64) / 512 + 1) * 512;
    let mut block = [0; BLOCK];
    let start = Instant::now();
    file.read_exact_at(&mut block, at)?;
    black_box(crc32fast::hash(&block));
    Ok(start.elapsed())
}

/// Files with this ending, with their lengths.
fn files(dir: &Path, ending: &str) -> Result<Vec<(File, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            if length > 2 * BLOCK as u64 {
                files.push((file, length));
            }
        }
    }
    ensure!(!files.is_empty(), "no files to read");
    Ok(files)
}

/// What the kernel says of this process's memory, in MiB.
fn memory(field: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    let kibibytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes / 1024.0)
}

fn millis(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}
