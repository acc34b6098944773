//! How long a write is not yet safe: captured → durable at the receiver, at half of the rate at which writes can come.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result};
use benches::data;
use benches::fio::fio;
use benches::floor;
use benches::options::Options;
use benches::place;
use benches::process::backspool;
use benches::samples::Samples;
use benches::stage::Stage;
use benches::table::{self, Aim, Row};

const BLOCK: usize = 4096;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let program = backspool()?;
    let (mut p50, mut p99) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    let mut rates = Vec::new();
    for _ in 0..options.rounds(5) {
        let max = rate(&program, &options, None)?.0;
        let (reached, lag) = rate(&program, &options, Some(max / 2.0))?;
        let floor = floor(options.size(2000, 20))?;
        rates.push(reached / max);
        for (place, q, name) in [(&mut p50, 0.5, "p50_seconds"), (&mut p99, 0.99, "p99_seconds")] {
            place.0.push(lag[name].as_f64().with_context(|| format!("no {name} in {lag}"))? * 1e3);
            place.1.push(floor.quantile(q));
        }
    }
    let row = |name: &str, (ours, floor): (Vec<f64>, Vec<f64>), aim| Row {
        what: format!("4 KiB random writes at half rate, captured → durable, {name}"),
        unit: "ms",
        ours: ours.into_iter().collect(),
        floor: Some(("loopback round trip + pwrite + fdatasync".to_owned(), floor.into_iter().collect())),
        aim: Aim::AtMost(aim),
    };
    let reached = Row {
        what: "rate reached, of the maximal".to_owned(),
        unit: "",
        ours: rates.into_iter().collect(),
        floor: None,
        aim: Aim::Known,
    };
    let rows = [row("p50", p50, 5.0), row("p99", p99, 30.0), reached];
    table::print("lag: as the receiver's status reports it, real disk, both ends on this machine", &rows, &options);
    Ok(())
}

/// Writes a second that were reached, and the lag, with processes of their own: the lag is counted from a session's start.
fn rate(program: &Path, options: &Options, limit: Option<f64>) -> Result<(f64, serde_json::Value)> {
    let dir = place::real_disk()?;
    let source = dir.path().join("source.img");
    std::fs::write(&source, data::incompressible(options.size(256 << 20, 4 << 20), 11))?;
    let stage = Stage::set(program, dir.path(), &source)?;
    stage.live()?;
    let mut job = vec!["--rw=randwrite".to_owned(), "--bs=4k".to_owned(), "--iodepth=32".to_owned()];
    job.push(options.size("--runtime=5", "--runtime=200ms").to_owned());
    job.extend(limit.map(|limit| format!("--rate_iops={limit:.0}")));
    let measured = fio(&stage.tap(), &job.iter().map(String::as_str).collect::<Vec<_>>())?;
    let lag = stage.status()?["lag"].take();
    Ok((measured.iops, lag))
}

/// A question and an answer over loopback, with a durable write between them, ms.
fn floor(count: usize) -> Result<Samples> {
    let dir = place::real_disk()?;
    let (file, block) = (File::create(dir.path().join("floor"))?, data::incompressible(BLOCK, 12));
    let durable = move |time: usize| {
        file.write_all_at(&block, u64::try_from(time * BLOCK)?)?;
        Ok(file.sync_data()?)
    };
    floor::asked(count, |_| Ok(()), durable)
}
