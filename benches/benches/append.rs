//! What a durable frame costs on a real disk, against the same bytes with nothing around them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use benches::chain::{Chain, GROUP};
use benches::data;
use benches::options::Options;
use benches::place;
use benches::samples::timed;
use benches::table::{self, Aim, Row};
use journal::disk::{Disk, FileDisk};
use journal::limits::SEGMENT_BYTES;
use journal::store::Store;
use journal::types::{SessionId, WallTime};

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let rows: Result<Vec<Row>> = [("4 KiB", 4 << 10, 300), ("64 KiB", 64 << 10, 200), ("1 MiB", 1 << 20, 64)]
        .into_iter()
        .map(|(size, bytes, count)| row(size, bytes, options.size(count, 4), &options))
        .collect();
    table::print("append: a frame at a time, each durable before the next, on the real disk", &rows?, &options);
    Ok(())
}

/// `count` frames of `bytes` of data a round. Ours and the floor take turns with every frame: the noise of a disk that is shared
/// lasts longer than one.
fn row(size: &str, bytes: usize, count: usize, options: &Options) -> Result<Row> {
    let dir = place::real_disk()?;
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::create(dir.path())?);
    let (mut store, _) = Store::open(disk, GROUP, SEGMENT_BYTES, place::entropy)?;
    let raw_dir = place::real_disk()?;
    let mut raw = Raw { file: File::create(raw_dir.path().join("raw"))?, at: 0 };
    let block = bytes.min(64 << 10);
    let content = data::incompressible(bytes, 2);
    let mut chain = Chain::new(1 << 30, false);
    let (mut ours, mut least) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds(9) {
        let (mut took_ours, mut took_raw) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..count {
            content.chunks(block).for_each(|chunk| chain.write(0, chunk));
            let frame = [chain.close()];
            let append = || {
                store.append(&frame, SessionId(1), WallTime(1))?;
                store.sync()
            };
            took_ours += timed(append)?.1;
            took_raw += timed(|| raw.append(frame[0].bytes()))?.1;
        }
        ours.push(count as f64 / took_ours.as_secs_f64());
        least.push(count as f64 / took_raw.as_secs_f64());
    }
    let floor = Some(("pwrite + fdatasync".to_owned(), least.into_iter().collect()));
    let ours = ours.into_iter().collect();
    Ok(Row { what: format!("frames of {size}"), unit: "/s", ours, floor, aim: Aim::RatioAtLeast(0.8) })
}

/// A file that grows and starts anew where a segment would.
struct Raw {
    file: File,
    at: u64,
}

impl Raw {
    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.at >= SEGMENT_BYTES {
            self.file.set_len(0)?;
            self.at = 0;
        }
        self.file.write_all_at(bytes, self.at)?;
        self.at += (bytes.len() as u64).next_multiple_of(512);
        self.file.sync_data()
    }
}
