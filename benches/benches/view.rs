//! How fast the past is there: opening views on 1 GiB of random 4 KiB writes, and reading them.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use benches::chain::{self, Chain, GROUP, VOLUME};
use benches::data::{self, Rng};
use benches::options::Options;
use benches::place;
use benches::samples::{Samples, gigabytes_per_second, pairs, timed};
use benches::table::{self, Aim, Row};
use journal::disk::FileDisk;
use journal::limits::SEGMENT_BYTES;
use journal::store::{Library, Store};
use journal::types::{Seq, SessionId, WallTime};

const BLOCK: usize = 4096;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let volume = options.size(1 << 30, 8 << 20);
    let dir = place::real_disk()?;
    let writes = fill(dir.path(), volume)?;
    let mut rows = vec![reopen(dir.path(), &options)?, first_read(dir.path(), &options)?];
    let (store, _) = open(dir.path())?;
    let library = store.library();
    rows.extend(random_reads(&library, dir.path(), volume, writes, &options)?);
    for request in [64 << 10, 1 << 20] {
        rows.push(whole(&library, dir.path(), volume, request, &options)?);
    }
    table::print("view: a journal of random 4 KiB writes, as much as the volume is large", &rows, &options);
    Ok(())
}

fn open(dir: &Path) -> Result<(Store, Vec<journal::log::Finding>)> {
    Ok(Store::open(Arc::new(FileDisk::create(dir)?), GROUP, SEGMENT_BYTES, place::entropy)?)
}

/// As many bytes of writes as the volume has; returns how many writes.
fn fill(dir: &Path, volume: u64) -> Result<u64> {
    let (mut store, _) = open(dir)?;
    let mut chain = Chain::new(volume, false);
    let mut rng = Rng::new(3);
    let content = data::incompressible(1 << 20, 4);
    let writes = volume / BLOCK as u64;
    for _ in 0..writes {
        let from = usize::try_from(rng.below(255))? * BLOCK;
        chain.write(rng.below(writes) * BLOCK as u64, &content[from..from + BLOCK]);
        if chain.is_full() {
            store.append(&[chain.close()], SessionId(1), WallTime(1))?;
            store.sync()?;
        }
    }
    store.stop(WallTime(1))?;
    Ok(writes)
}

/// What a restart of the receiver waits for.
fn reopen(dir: &Path, options: &Options) -> Result<Row> {
    let rounds = (0..options.rounds(5)).map(|_| Ok(millis(timed(|| open(dir))?.1)));
    let ours = rounds.collect::<Result<Samples>>()?;
    Ok(Row { what: "open the store".to_owned(), unit: "ms", ours, floor: None, aim: Aim::Known })
}

/// Nothing but the manifest was read before.
fn first_read(dir: &Path, options: &Options) -> Result<Row> {
    let rounds = (0..options.rounds(5)).map(|_| {
        let (store, _) = open(dir)?;
        let library = store.library();
        let ((), took) = timed(|| {
            let version = library.now();
            let head = version.head().context("an empty journal")?;
            let mut block = [0; BLOCK];
            Ok::<_, anyhow::Error>(version.view(head.seq)?.read(VOLUME, 0, &mut block)?)
        })?;
        Ok(millis(took))
    });
    let ours = rounds.collect::<Result<Samples>>()?;
    Ok(Row {
        what: "open a view and read its first 4 KiB".to_owned(),
        unit: "ms",
        ours,
        floor: None,
        aim: Aim::AtMost(100.0),
    })
}

/// Each read as of another instant, from the time to the bytes.
fn random_reads(library: &Library, dir: &Path, volume: u64, writes: u64, options: &Options) -> Result<Vec<Row>> {
    let version = library.now();
    let mut rng = Rng::new(5);
    let mut block = [0; BLOCK];
    let count = options.size(20_000, 200);
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let instant = WallTime(chain::start_time().0 + 1 + rng.below(writes - 256));
        let offset = rng.below(volume / BLOCK as u64) * BLOCK as u64;
        let start = Instant::now();
        let seq = version.seq_at(instant)?.context("before the first record")?;
        version.view(seq)?.read(VOLUME, offset, &mut block)?;
        took.push(micros(start.elapsed()));
        black_box(&block);
    }
    let ours: Samples = took.into_iter().collect();
    let files = segments(dir)?;
    let mut floor = Vec::with_capacity(count);
    for _ in 0..count {
        let (file, at) = somewhere(&files, &mut rng);
        let start = Instant::now();
        file.read_exact_at(&mut block, at)?;
        black_box(crc32fast::hash(&block));
        floor.push(micros(start.elapsed()));
    }
    let floor: Samples = floor.into_iter().collect();
    let row = |name: &str, q: f64, aim| Row {
        what: format!("4 KiB at a random instant, warm, {name}"),
        unit: "µs",
        ours: [ours.quantile(q)].into_iter().collect(),
        floor: Some(("pread + CRC-32".to_owned(), [floor.quantile(q)].into_iter().collect())),
        aim,
    };
    Ok(vec![row("p50", 0.5, Aim::Known), row("p99", 0.99, Aim::AtMost(1000.0))])
}

/// The newest view from end to end.
fn whole(library: &Library, dir: &Path, volume: u64, request: usize, options: &Options) -> Result<Row> {
    let version = library.now();
    let head: Seq = version.head().context("an empty journal")?.seq;
    let files = segments(dir)?;
    let mut buffer = vec![0; request];
    let bytes = usize::try_from(volume)?;
    let ours = || {
        let view = version.view(head)?;
        let ((), took) = timed(|| (0..volume).step_by(request).try_for_each(|at| view.read(VOLUME, at, &mut buffer)))?;
        anyhow::Ok(gigabytes_per_second(bytes, took))
    };
    let mut rng = Rng::new(6);
    let mut block = [0; BLOCK];
    // A block of a random history lies anywhere; two thirds of them were written at all (1 - 1/e).
    let least = || {
        let ((), took) = timed(|| {
            (0..bytes / BLOCK * 63 / 100).try_for_each(|_| {
                let (file, at) = somewhere(&files, &mut rng);
                file.read_exact_at(&mut block, at)?;
                black_box(crc32fast::hash(&block));
                Ok::<_, std::io::Error>(())
            })
        })?;
        Ok(gigabytes_per_second(bytes, took))
    };
    let (ours, least) = pairs(options.rounds(5), ours, least)?;
    Ok(Row {
        what: format!("the whole view, {} KiB at a time", request >> 10),
        unit: "GB/s",
        ours,
        floor: Some(("pread + CRC-32 of each block".to_owned(), least)),
        aim: Aim::Known,
    })
}

/// Every segment, with its length.
fn segments(dir: &Path) -> Result<Vec<(File, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "seg") {
            files.push((File::open(entry.path())?, entry.metadata()?.len()));
        }
    }
    Ok(files)
}

fn somewhere<'a>(files: &'a [(File, u64)], rng: &mut Rng) -> (&'a File, u64) {
    let (file, length) = &files[usize::try_from(rng.below(files.len() as u64)).unwrap_or(0)];
    (file, rng.below(length / 512 - 8) * 512)
}

fn millis(took: std::time::Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn micros(took: std::time::Duration) -> f64 {
    took.as_secs_f64() * 1e6
}
