//! What the hot-extent log costs the tap: the same tap, source and spool, with it and without.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent::capture::{Capture, SystemClock, Terms};
use agent::hot::{Hot, Left, Place, Subject};
use agent::source::{Source, Storage};
use agent::spool::{Epoch, Found, Spool};
use agent::tap::Tap;
use anyhow::{Result, ensure};
use benches::options::Options;
use benches::place;
use benches::samples::pairs;
use benches::table::{self, Aim, Row};
use journal::disk::{AlignedBuf, FileDisk};
use journal::types::{BootId, Durable, EpochId, GroupId, VolumeNo, VolumeUuid, WallTime};
use nbd::{Export, Transfer};

/// Writers, each with this many writes at a time: a client with a queue of 32.
const WRITERS: u64 = 2;
const BATCH: usize = 16;
const BLOCK: u64 = 4096;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let dir = place::real_disk()?;
    let size = options.size(100 << 30, 1 << 30);
    let time = options.size(Duration::from_secs(20), Duration::from_millis(200));
    let image = dir.path().join("source.img");
    File::create_new(&image)?.set_len(size)?;
    let mut rows = Vec::new();
    for (what, span, aim) in [
        ("4 KiB random in 1 GiB", 1 << 30, Aim::RatioAtLeast(0.98)),
        ("4 KiB random over 100 GiB, sparse", size, Aim::RatioAtLeast(0.9)),
    ] {
        let one = |with_log| measure(dir.path(), &image, span, time, with_log);
        // The first one also makes the blocks that the next ones write over.
        one(false)?;
        let (ours, floor) = pairs(options.rounds(3), || one(true), || one(false))?;
        let floor = Some(("the same tap without the log".to_owned(), floor));
        rows.push(Row { what: format!("{what}, qd32, from an empty log on"), unit: "/s", ours, floor, aim });
    }
    table::print("hot: the tap behind the hot-extent log, on the real disk", &rows, &options);
    Ok(())
}

/// Writes a second.
fn measure(dir: &Path, image: &Path, span: u64, time: Duration, with_log: bool) -> Result<f64> {
    rustix::fs::sync();
    let state = tempfile::tempdir_in(dir)?;
    let group = GroupId([1; 16]);
    let found = Found::open(&state.path().join("spool"), group, 8 << 30, place::entropy)?;
    let (id, boot) = (EpochId([2; 16]), BootId([3; 16]));
    let epoch = Epoch { group, id, boot, parent: None, continues: false, terms: Terms::default() };
    let (spool, capture) = Spool::begin(found, &epoch, Arc::new(SystemClock), Box::new(|| {}))?;
    let source = Arc::new(Source::open(image)?);
    let hot = with_log.then(|| begin(&state.path().join("hot"), group, id, boot, &source)).transpose()?.map(Arc::new);
    let tap = Tap::new(VolumeNo(0), source.clone(), Arc::clone(&capture)).behind(hot.clone());
    let (done, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let start = Instant::now();
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=WRITERS)
            .map(|seed| {
                scope.spawn({
                    let (tap, done, over) = (&tap, &done, &over);
                    move || write(tap, seed, span, done, over)
                })
            })
            .collect();
        let mut tended = Instant::now();
        while start.elapsed() < time {
            std::thread::sleep(Duration::from_millis(50));
            // A receiver that has all at once.
            let spooled = spool.status().spooled;
            spooled.into_iter().for_each(|seq| spool.acked(Durable(seq)));
            if let Some(hot) = hot.as_ref().filter(|_| tended.elapsed() >= Duration::from_secs(1)) {
                tended = Instant::now();
                hot.tend(WallTime(0), || source.sync().is_ok(), || capture.last_seq(), spooled);
            }
        }
        over.store(true, Ordering::Relaxed);
        writers.into_iter().try_for_each(|writer| writer.join().expect("a writer does not panic"))
    })?;
    let took = start.elapsed();
    ensure!(capture.state() == agent::capture::CaptureState::Running, "the spool is full");
    drop((tap, Capture::close(&capture), spool.stop()?));
    Ok(done.into_inner() as f64 / took.as_secs_f64())
}

fn begin(dir: &Path, group: GroupId, epoch: EpochId, boot: BootId, source: &Source) -> Result<Hot> {
    let disk = Arc::new(FileDisk::create(dir)?);
    let place = Place { disk, boot, clock: Arc::new(SystemClock), entropy: place::entropy };
    let subject = Subject { group, volume: VolumeUuid([4; 16]), epoch, size: source.size(), dev: 1, inode: 1 };
    Ok(Hot::begin(place, subject, &Left::Only(Vec::new()), WallTime(0))?)
}

fn write(tap: &Tap, seed: u64, span: u64, done: &AtomicU64, over: &AtomicBool) -> Result<()> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut data = AlignedBuf::new(usize::try_from(BLOCK)?)?;
    data.iter_mut().for_each(|byte| *byte = u8::try_from(random() >> 56).unwrap_or(0));
    while !over.load(Ordering::Relaxed) {
        let mut batch: Vec<_> =
            (0..BATCH).map(|_| Transfer::Write { offset: random() % (span / BLOCK) * BLOCK, data: &data }).collect();
        for outcome in tap.transfer(&mut batch) {
            outcome.map_err(|error| anyhow::anyhow!("a write failed: {error:?}"))?;
        }
        done.fetch_add(u64::try_from(BATCH)?, Ordering::Relaxed);
    }
    Ok(())
}
