//! What it costs to have only tracked what changed: bytes that are sent afterwards, and memory meanwhile.

use std::fs;
use std::path::Path;
use std::time::Instant;

use agent::dirty::DirtyMap;
use anyhow::{Context, Result};
use benches::data;
use benches::options::Options;
use benches::place;
use benches::process::{backspool, until};
use benches::samples::Samples;
use benches::stage::Stage;
use benches::table::{self, Aim, Row};
use journal::types::Extent;
use oracle::{Client, Rng};

const BLOCK: u64 = 4096;
const TIB: u64 = 1 << 40;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let program = backspool()?;
    let (mut sent, mut changed, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 1..=options.rounds(3) {
        let resync = resync(&program, &options, u64::try_from(seed)?)?;
        sent.push(resync.0);
        changed.push(resync.1);
        seconds.push(resync.2);
    }
    let row = |what: &str, unit, ours: Vec<f64>, floor: Option<(String, Samples)>, aim| {
        let (what, ours) = (what.to_owned(), ours.into_iter().collect());
        Row { what, unit, ours, floor, aim }
    };
    let floor = ("4 KiB blocks changed while tracking".to_owned(), changed.into_iter().collect());
    let rows = [
        row("resync, bytes at the receiver, index included", "MB", sent, Some(floor), Aim::RatioAtMost(1.1)),
        row("from the receiver's return until live", "s", seconds, None, Aim::Known),
        row("dirty map, a block in every 128 MiB of 16 TiB", "MiB", vec![map(128 << 20)?], None, Aim::AtMost(600.0)),
        row("dirty map, a block in every 17 GiB of 16 TiB", "MiB", vec![map(17 << 30)?], None, Aim::Known),
    ];
    table::print(
        "resync: after writes while the spool was full, real disk, both ends on this machine",
        &rows,
        &options,
    );
    Ok(())
}

/// Megabytes sent for what changed, megabytes that changed, and seconds until live.
fn resync(program: &Path, options: &Options, seed: u64) -> Result<(f64, f64, f64)> {
    let dir = place::real_disk()?;
    let (source, size) = (dir.path().join("source.img"), options.size(1 << 30, 16 << 20));
    fs::write(&source, data::incompressible(size, seed))?;
    let stage = Stage::set_with(program, dir.path(), &source, &["--spool-size", "32MiB"])?;
    stage.live()?;
    let before = as_float(stage.base_bytes()?);
    let mut client = Client::connect(&format!("unix:{}", stage.tap().display()), "")?;
    let mut rng = Rng::new(seed);
    let blocks = u64::try_from(size)? / BLOCK;
    let mut write = |block: u64| client.write(block * BLOCK, &data::incompressible(4096, block ^ seed), false);
    stage.hold_receiver(true)?;
    until(|| {
        (0..256).try_for_each(|_| write(rng.below(blocks)))?;
        Ok(stage.agent_status()?["state"] == "tracking")
    })?;
    for _ in 0..options.size(30_000, 300) {
        write(rng.below(blocks))?;
    }
    let changed = stage.agent_status()?["progress"]["total_bytes"].as_f64().context("no progress")?;
    let start = Instant::now();
    stage.hold_receiver(false)?;
    stage.live()?;
    let seconds = start.elapsed().as_secs_f64();
    let sent = as_float(stage.base_bytes()?) - before;
    Ok((sent / 1e6, changed / 1e6, seconds))
}

/// Mebibytes of a map of 16 TiB in which a block is dirty every so many bytes.
fn map(every: u64) -> Result<f64> {
    let mut map = DirtyMap::default();
    for at in (0..16 * TIB).step_by(usize::try_from(every)?) {
        map.mark(Extent::of_bytes(at, BLOCK).context("within any volume")?);
    }
    Ok(as_float(u64::try_from(map.memory_bytes())?) / f64::from(1 << 20))
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_float(bytes: u64) -> f64 {
    bytes as f64
}
