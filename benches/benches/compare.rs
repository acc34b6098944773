//! Everything is compared because nothing is known, and 1 % of it differs, in blocks of 4 KiB at random places; against rsync with
//! blocks of that size, and the disk alone.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use benches::data;
use benches::options::Options;
use benches::place;
use benches::process::{backspool, installed, run};
use benches::stage::Stage;
use benches::table::{self, Aim, Row};
use journal::disk::{DirectReader, Shape};
use oracle::Rng;

const BLOCK: u64 = 4096;
/// What a base is read with, too.
const SHAPE: Shape = Shape { buffers: 16, buffer_len: 1 << 20, depth: 8 };

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let program = backspool()?;
    let size: u64 = options.size(2 << 30, 16 << 20);
    let rsync = installed("rsync");
    ensure!(rsync || !options.rivals, "there is no rsync");
    if !rsync {
        eprintln!("without rsync there is no rival to compare with");
    }
    let mut figures: [Vec<f64>; 6] = Default::default();
    for seed in 1..=options.rounds(3) {
        let dir = place::real_disk()?;
        let source = dir.path().join("source.img");
        make(&source, size)?;
        let mut stage = Stage::set(&program, dir.path(), &source)?;
        stage.live()?;
        let before = stage.base_bytes()?;
        let copy = dir.path().join("copy.img");
        if rsync {
            fs::copy(&source, &copy)?;
        }
        let mut changed = 0;
        stage.restart_agent(false, || {
            changed = change(&source, size, u64::try_from(seed)?)?;
            rustix::fs::sync();
            Ok(())
        })?;
        stage.live()?;
        let seconds = stage.since_start().as_secs_f64();
        let sent = stage.base_bytes()? - before;
        drop(stage);
        rustix::fs::sync();
        let floor = read(&source)?;
        let theirs = if rsync { Some(rival(&source, &copy)?) } else { None };
        let (their_seconds, their_bytes) = theirs.unwrap_or((f64::NAN, f64::NAN));
        let all = [seconds, floor, their_seconds, megabytes(sent), megabytes(changed), their_bytes];
        figures.iter_mut().zip(all).for_each(|(figures, one)| figures.push(one));
    }
    let [seconds, floor, their_seconds, sent, changed, their_bytes] = figures.map(|all| all.into_iter().collect());
    let what = format!("{} MiB compared, 1 % differs", size >> 20);
    let row = |what: String, unit, ours, floor, aim| Row { what, unit, ours, floor, aim };
    let raw = Some(("the source read once, O_DIRECT".to_owned(), floor));
    let mut rows = vec![
        row(format!("{what}, until live"), "s", Clone::clone(&seconds), raw, Aim::Known),
        row(
            format!("{what}, bytes at the receiver, index included"),
            "MB",
            Clone::clone(&sent),
            Some(("blocks of 4 KiB that differ".to_owned(), changed)),
            Aim::RatioAtMost(1.1),
        ),
    ];
    if rsync {
        let name = "rsync -I --no-W --block-size=4096 --inplace".to_owned();
        rows.push(row(
            format!("{what}, until live"),
            "s",
            seconds,
            Some((name.clone(), their_seconds)),
            Aim::RatioAtMost(0.5),
        ));
        rows.push(row(format!("{what}, bytes"), "MB", sent, Some((name, their_bytes)), Aim::Known));
    }
    table::print("compare: after a start that proves nothing, real disk, both ends on this machine", &rows, &options);
    Ok(())
}

/// A file that nothing can be compressed of.
fn make(path: &Path, size: u64) -> Result<()> {
    let file = File::create(path)?;
    let piece = 16 << 20;
    for at in (0..size).step_by(piece) {
        file.write_all_at(&data::incompressible(piece, at + 1), at)?;
    }
    Ok(file.sync_all()?)
}

/// Writes other data to one block in a hundred; how many bytes.
fn change(path: &Path, size: u64, seed: u64) -> Result<u64> {
    let file = File::options().write(true).open(path)?;
    let mut rng = Rng::new(seed);
    let mut places = std::collections::BTreeSet::new();
    while u64::try_from(places.len())? < size / BLOCK / 100 {
        places.insert(rng.below(size / BLOCK));
    }
    for &place in &places {
        file.write_all_at(&data::incompressible(4096, place ^ (seed << 40)), place * BLOCK)?;
    }
    file.sync_all()?;
    Ok(u64::try_from(places.len())? * BLOCK)
}

/// Seconds to read all of it, as a base does, and look at nothing.
fn read(path: &Path) -> Result<f64> {
    let start = Instant::now();
    let mut reader = DirectReader::open(path, SHAPE)?;
    let (size, mut at) = (reader.source_len(), 0);
    while at < size || reader.in_flight() > 0 {
        while at < size && reader.in_flight() < SHAPE.depth {
            let length = SHAPE.buffer_len.min(usize::try_from(size - at)?);
            ensure!(reader.submit(at, length, 0), "there is a buffer");
            at += u64::try_from(length)?;
        }
        reader.wait()?.context("nothing was read")?.data?;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Seconds and megabytes that rsync takes to make the copy equal, on this machine.
fn rival(source: &Path, copy: &Path) -> Result<(f64, f64)> {
    let start = Instant::now();
    let mut rsync = Command::new("rsync");
    rsync.args(["-I", "--no-W", "--block-size=4096", "--inplace", "--stats"]).arg(source).arg(copy);
    let said = run(&mut rsync)?;
    rustix::fs::syncfs(File::open(copy)?)?;
    let seconds = start.elapsed().as_secs_f64();
    let line = said.lines().find_map(|line| line.strip_prefix("Total bytes sent:")).context("rsync counts nothing")?;
    let digits: String = line.chars().filter(char::is_ascii_digit).collect();
    Ok((seconds, megabytes(digits.parse()?)))
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
