//! What the receiver does with each frame: check it, append it, make it durable. In memory, on one core.

use std::fs::File;
use std::sync::Arc;

use anyhow::Result;
use benches::chain::{Chain, GROUP};
use benches::options::Options;
use benches::place::{self, Touched};
use benches::samples::{gigabytes_per_second, pairs, timed};
use benches::table::{self, Aim, Row};
use benches::{data, floor};
use journal::disk::{Disk, FileDisk};
use journal::frame::Frame;
use journal::limits::SEGMENT_BYTES;
use journal::store::Store;
use journal::types::{SessionId, WallTime};

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let bytes = options.size(256 << 20, 4 << 20);
    let mut rows = Vec::new();
    for (what, block) in [("frames of 4 KiB writes", 4096), ("frames of 64 KiB writes", 65536)] {
        let frames = Chain::new(bytes as u64, false).frames(&data::incompressible(bytes, 1), block);
        rows.push(row(what, &frames, true, &options)?);
        rows.push(row(&format!("{what}, fresh files"), &frames, false, &options)?);
    }
    table::print("ingest: check, append and sync, on tmpfs", &rows, &options);
    Ok(())
}

/// Ours against the floor, both into files that were written before, or both into fresh ones.
fn row(what: &str, frames: &[Frame], touched: bool, options: &Options) -> Result<Row> {
    let bytes: usize = frames.iter().map(|frame| frame.bytes().len()).sum();
    let longest = frames.iter().map(|frame| frame.bytes().len()).max().unwrap_or(0);
    let mut scratch = vec![0; longest];
    let dir = place::memory()?;
    let path = dir.path().join("floor");
    let ours = || {
        let dir = place::memory()?;
        let segments = bytes as u64 / SEGMENT_BYTES + 1;
        // With room for the index at the end of a segment.
        let disk: Arc<dyn Disk> = match touched {
            true => Arc::new(Touched::new(dir.path(), segments, usize::try_from(SEGMENT_BYTES)? + (4 << 20))?),
            false => Arc::new(FileDisk::create(dir.path())?),
        };
        let (mut store, _) = Store::open(disk, GROUP, SEGMENT_BYTES, place::entropy)?;
        let ((), took) = timed(|| ingest(&mut store, frames))?;
        anyhow::Ok(gigabytes_per_second(bytes, took))
    };
    let least = || {
        if !touched && path.exists() {
            std::fs::remove_file(&path)?;
        }
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        let parts = frames.iter().map(|frame| &frame.bytes()[..]);
        let ((), took) = timed(|| floor::copy_check_hash_write(parts, &mut scratch, &file))?;
        Ok(gigabytes_per_second(bytes, took))
    };
    let (ours, least) = pairs(options.rounds(7), ours, least)?;
    let aim = if touched { Aim::RatioAtLeast(0.6) } else { Aim::Known };
    let floor = ("memcpy + CRC-32 + BLAKE3 + write(2)".to_owned(), least);
    Ok(Row { what: what.to_owned(), unit: "GB/s", ours, floor: Some(floor), aim })
}

fn ingest(store: &mut Store, frames: &[Frame]) -> Result<()> {
    for frame in frames {
        let frame = Frame::check(frame.bytes().clone()).map_err(journal::error::Error::from)?;
        store.append(&[frame], SessionId(1), WallTime(1))?;
        store.sync()?;
    }
    Ok(())
}
