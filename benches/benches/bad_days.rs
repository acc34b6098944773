//! What bad days cost: catching up after the link was gone, the lag while a base runs, flushes that wait for the receiver, and a start
//! after the agent was killed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::data;
use benches::fio::fio;
use benches::floor;
use benches::options::Options;
use benches::place;
use benches::process::{backspool, until};
use benches::samples::Samples;
use benches::stage::Stage;
use benches::table::{self, Aim, Row};
use oracle::{Client, Rng};

const BLOCK: usize = 4096;
/// How seldom an agent remembers how far the receiver is, and a little more.
const REMEMBERED: Duration = Duration::from_secs(8);

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let program = backspool()?;
    let rounds = options.rounds(3);
    let mut rows = Vec::new();
    rows.push(both(rounds, || catch_up(&program, &options)).map(|(ours, floor)| Row {
        what: format!("catching up after a cut of {} s at half load", cut(&options).as_secs()),
        unit: "writes/s",
        ours,
        floor: Some(("capacity less the load".to_owned(), floor)),
        aim: Aim::RatioAtLeast(0.8),
    })?);
    rows.push(both(rounds, || lag(&program, &options)).map(|(ours, floor)| Row {
        what: "captured → durable while a first copy runs, p99".to_owned(),
        unit: "ms",
        ours,
        floor: Some(("the same load without".to_owned(), floor)),
        aim: Aim::RatioAtMost(1.5),
    })?);
    rows.push(both(rounds, || flush(&program, &options)).map(|(ours, floor)| Row {
        what: "a write and a flush, flush = durable, qd1, median".to_owned(),
        unit: "ms",
        ours,
        floor: Some(("fdatasync here, round trip, fdatasync there".to_owned(), floor)),
        aim: Aim::RatioAtMost(1.5),
    })?);
    let mut starts: [Vec<f64>; 4] = Default::default();
    for seed in 1..=rounds {
        let all = killed(&program, &options, u64::try_from(seed)?)?;
        starts.iter_mut().zip(all).for_each(|(figures, one)| figures.push(one));
    }
    let [read, hot, sent, seconds] = starts.map(|all| all.into_iter().collect::<Samples>());
    let volume = format!("killed agent, {} GiB", volume_bytes(&options) as f64 / f64::from(1 << 30));
    let row = |what: &str, unit, ours, floor, aim| Row { what: format!("{volume}: {what}"), unit, ours, floor, aim };
    rows.push(row(
        "read by the next one until live",
        "MB",
        read,
        Some(("hot extents".to_owned(), hot)),
        Aim::RatioAtMost(1.05),
    ));
    rows.push(row("sent, index included", "MB", sent, None, Aim::Known));
    rows.push(row("until live", "s", seconds, None, Aim::Known));
    table::print("bad days: real disk, both ends on this machine", &rows, &options);
    Ok(())
}

/// Ours and the floor, of each round.
fn both(rounds: usize, mut one: impl FnMut() -> Result<(f64, f64)>) -> Result<(Samples, Samples)> {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let (one, other) = one()?;
        ours.push(one);
        floor.push(other);
    }
    Ok((ours.into_iter().collect(), floor.into_iter().collect()))
}

fn cut(options: &Options) -> Duration {
    options.size(Duration::from_secs(60), Duration::from_secs(1))
}

/// Writes a second by which a backlog shrinks while half as many come as can, and how many could at best.
fn catch_up(program: &Path, options: &Options) -> Result<(f64, f64)> {
    let dir = place::real_disk()?;
    let source = dir.path().join("source.img");
    std::fs::write(&source, data::incompressible(options.size(1 << 30, 8 << 20), 21))?;
    let stage = Stage::set_with(program, dir.path(), &source, &["--spool-size", "32GiB"])?;
    stage.live()?;
    // What goes through in all: until the last of it is durable.
    let start = Instant::now();
    let job = ["--rw=randwrite", "--bs=4k", "--iodepth=32", options.size("--runtime=20", "--runtime=300ms")];
    let reached = fio(&stage.tap(), &job)?;
    let written = reached.iops * options.size(20.0, 0.3);
    stage.live()?;
    let capacity = written / start.elapsed().as_secs_f64();
    let load = capacity / 2.0;
    stage.hold_receiver(true)?;
    let held = Instant::now();
    let (tap, seconds) = (stage.tap(), cut(options).as_secs_f64());
    // Three times as long: at the aim it takes a little more than the cut did.
    let job = [
        "--rw=randwrite".to_owned(),
        "--bs=4k".to_owned(),
        "--iodepth=32".to_owned(),
        format!("--runtime={}", (3.0 * seconds).ceil()),
        format!("--rate_iops={load:.0}"),
    ];
    let loading = thread::spawn(move || fio(&tap, &job.iter().map(String::as_str).collect::<Vec<_>>()));
    thread::sleep(cut(options));
    let missed = load * held.elapsed().as_secs_f64();
    let start = Instant::now();
    stage.hold_receiver(false)?;
    until(|| {
        let group = stage.status()?;
        Ok(group["state"] == "live" && group["rpo_seconds"].as_f64().is_some_and(|rpo| rpo < 1.0))
    })?;
    let took = start.elapsed().as_secs_f64();
    loading.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
    Ok((missed / took, capacity - load))
}

/// The lag's p99 beside a first copy, and after it, ms.
fn lag(program: &Path, options: &Options) -> Result<(f64, f64)> {
    let dir = place::real_disk()?;
    let source = dir.path().join("source.img");
    let file = File::create(&source)?;
    let piece = 16 << 20;
    for at in (0..options.size(6 << 30, 512 << 20)).step_by(piece) {
        file.write_all_at(&data::incompressible(piece, at + 1), at)?;
    }
    file.sync_all()?;
    let mut stage = Stage::set(program, dir.path(), &source)?;
    let time = options.size("--runtime=3", "--runtime=300ms");
    let job = ["--rw=randwrite", "--bs=4k", "--iodepth=4", "--rate_iops=1000", time];
    let p99 = |stage: &Stage| {
        fio(&stage.tap(), &job)?;
        let group = stage.status()?;
        let lag = group["lag"]["p99_seconds"].as_f64().with_context(|| format!("no lag in {group}"))?;
        anyhow::Ok((lag * 1e3, group["state"].clone()))
    };
    let (beside, state) = p99(&stage)?;
    if state != "seeding" {
        eprintln!("the first copy was over before the load was: the lag beside it is too good");
    }
    stage.live()?;
    stage.applied()?;
    // The lag is counted from a session's start.
    stage.restart_agent(false, || Ok(()))?;
    stage.live()?;
    let (without, _) = p99(&stage)?;
    Ok((beside, without))
}

/// A write and a flush that waits for the receiver, and what that is made of, ms.
fn flush(program: &Path, options: &Options) -> Result<(f64, f64)> {
    let dir = place::real_disk()?;
    let source = dir.path().join("source.img");
    let size = options.size(256 << 20, 4 << 20);
    std::fs::write(&source, data::incompressible(size, 22))?;
    let stage = Stage::set_with(program, dir.path(), &source, &["--flush", "durable"])?;
    stage.live()?;
    stage.applied()?;
    let count = options.size(2000, 20);
    let mut client = Client::connect(&format!("unix:{}", stage.tap().display()), "")?;
    let mut rng = Rng::new(7);
    let block = data::incompressible(BLOCK, 23);
    let blocks = u64::try_from(size / BLOCK)?;
    let ours = (0..count).map(|_| {
        let start = Instant::now();
        client.write(rng.below(blocks) * u64::try_from(BLOCK)?, &block, false)?;
        client.flush()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    });
    let ours = ours.collect::<Result<Samples>>()?.median();
    ensure!(stage.agent_status()?["flush"] == "durable", "flushes did not wait for the receiver");
    drop((client, stage));
    Ok((ours, floor(dir.path(), count)?.median()))
}

/// A durable write here, a question, a durable write there, an answer, ms.
fn floor(dir: &Path, count: usize) -> Result<Samples> {
    let durable = |path: &Path| {
        let (file, block) = (File::create(path)?, data::incompressible(BLOCK, 24));
        // The source is a file that has its blocks, the journal one that grows: each side writes as ours do.
        anyhow::Ok(move |place: usize| {
            file.write_all_at(&block, u64::try_from(place * BLOCK)?)?;
            Ok::<_, anyhow::Error>(file.sync_data()?)
        })
    };
    let (near, far) = (durable(&dir.join("near"))?, durable(&dir.join("far"))?);
    floor::asked(count, |time| near(time % 64), far)
}

fn volume_bytes(options: &Options) -> u64 {
    options.size(10 << 30, 256 << 20)
}

/// Megabytes read by the agent after one that was killed, megabytes of hot extents, megabytes sent, and seconds until live.
fn killed(program: &Path, options: &Options, seed: u64) -> Result<[f64; 4]> {
    let dir = place::real_disk()?;
    let source = dir.path().join("source.img");
    File::create(&source)?.set_len(volume_bytes(options))?;
    // What is compared stands in the log.
    let mut stage = Stage::set_with(program, dir.path(), &source, &["-v"])?;
    stage.live()?;
    // Until it is remembered how far the receiver is, the log says that all is hot.
    thread::sleep(REMEMBERED);
    let mut client = Client::connect(&format!("unix:{}", stage.tap().display()), "")?;
    let mut rng = Rng::new(seed);
    let span = volume_bytes(options) / 32 / u64::try_from(BLOCK)?;
    for round in 0..options.size(20_000, 500) {
        let place = rng.below(span) * u64::try_from(BLOCK)?;
        client.write(place, &data::incompressible(BLOCK, seed ^ round), false)?;
    }
    let before = stage.base_bytes()?;
    stage.restart_agent(true, || Ok(()))?;
    stage.live()?;
    let seconds = stage.since_start().as_secs_f64();
    let (read, sent) = (stage.agent_read_bytes()?, stage.base_bytes()? - before);
    let log = stage.agent_log()?;
    let hot = hot_bytes(&log).with_context(|| format!("nothing is said to be compared: {log}"))?;
    Ok([megabytes(read), megabytes(hot), megabytes(sent), seconds])
}

/// From `N of M bytes of VOLUME are compared`.
fn hot_bytes(log: &str) -> Option<u64> {
    let line = log.lines().find(|line| line.contains("are compared"))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let of = words.windows(2).position(|two| two[0] == "of" && two[1].parse::<u64>().is_ok())?;
    words.get(of.checked_sub(1)?)?.parse().ok()
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
