//! An old point of a volume, in use: from the command to its first block, all of it in order, and blocks at random places; against the
//! same point in a file behind nbdkit.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use benches::data;
use benches::fio::fio;
use benches::options::Options;
use benches::place;
use benches::process::{Process, backspool, nbdkit, run, uri};
use benches::samples::{Samples, pairs};
use benches::stage::Stage;
use benches::table::{self, Aim, Row};
use oracle::{Client, Rng};
use serde_json::Value;

const BLOCK: u64 = 4096;

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let program = backspool()?;
    let size: u64 = options.size(2 << 30, 16 << 20);
    let dir = place::real_disk()?;
    let source = dir.path().join("source.img");
    make(&source, size)?;
    let stage = Stage::set(&program, dir.path(), &source)?;
    stage.live()?;
    change(&stage.tap(), size, 1)?;
    let at = format!("@{:.6}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64());
    std::thread::sleep(Duration::from_millis(10));
    change(&stage.tap(), size, 2)?;
    stage.live()?;
    let past = Past { program, dir: dir.path().to_owned(), at };
    let then = dir.path().join("then.img");
    run(past.command(&["restore", "bench", "--to"]).arg(&then).args(["--at", &past.at]))?;

    let rounds = options.rounds(5);
    let mut rows = vec![row(
        "export: from the command to the first verified 4 KiB",
        "ms",
        past.opened(rounds)?,
        Aim::AtMost(50.0),
    )];
    if rustix::process::geteuid().is_root() && Path::new("/dev/fuse").exists() {
        rows.push(row(
            "mount: from the command to the first verified 4 KiB of a file",
            "ms",
            past.mounted(rounds)?,
            Aim::Known,
        ));
    } else {
        eprintln!("without root and FUSE nothing is mounted");
    }
    let socket = dir.path().join("then.sock");
    let _export = past.export(&socket)?;
    let plain = dir.path().join("plain.sock");
    let _plain = nbdkit(&then, &plain)?;
    let what = format!("{} MiB as of then", size >> 20);
    let (ours, floor) = pairs(rounds, || copied(&socket, size), || copied(&plain, size))?;
    rows.push(against(format!("{what}, read in order by nbdcopy"), "GB/s", (ours, floor), Aim::Known));
    let seconds = options.size("5", "1");
    let random = |socket: &Path| -> Result<f64> {
        let job = ["--rw=randread", "--bs=4k", "--iodepth=32", "--runtime", seconds, "--size"];
        Ok(fio(socket, &[&job[..], &[&size.to_string()]].concat())?.iops)
    };
    let measured = pairs(rounds.min(3), || random(&socket), || random(&plain))?;
    rows.push(against(format!("{what}, random 4 KiB, depth 32"), "/s", measured, Aim::RatioAtLeast(0.4)));
    table::print("export: an old point in use, real disk, warm", &rows, &options);
    Ok(())
}

fn row(what: &str, unit: &'static str, ours: Samples, aim: Aim) -> Row {
    Row { what: what.to_owned(), unit, ours, floor: None, aim }
}

fn against(what: String, unit: &'static str, (ours, floor): (Samples, Samples), aim: Aim) -> Row {
    Row { what, unit, ours, floor: Some(("the same point in a file, nbdkit file".to_owned(), floor)), aim }
}

/// A point to go back to.
struct Past {
    program: PathBuf,
    dir: PathBuf,
    at: String,
}

impl Past {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--config")
            .arg(self.dir.join("empty.toml"))
            .arg("--socket")
            .arg(self.dir.join("store/control.sock"));
        command.arg("--json").args(args);
        command
    }

    fn export(&self, socket: &Path) -> Result<Process> {
        let nbd = format!("unix:{}", socket.display());
        self.serve(&["export", "bench", "--at", &self.at, "--nbd", &nbd])
    }

    /// Until it says that it is ready.
    fn serve(&self, args: &[&str]) -> Result<Process> {
        let mut process = Process::start(&mut self.command(args), &self.dir.join("serve.log"))?;
        let mut line = String::new();
        BufReader::new(process.stdout()?).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).context("nothing is served")?;
        ensure!(ready["event"] == "ready", "{ready}");
        Ok(process)
    }

    fn opened(&self, rounds: usize) -> Result<Samples> {
        let socket = self.dir.join("open.sock");
        let rounds = (0..rounds).map(|_| {
            let start = Instant::now();
            let mut export = self.export(&socket)?;
            let mut block = [0; 4096];
            Client::connect(&format!("unix:{}", socket.display()), "bench")?.read(0, &mut block)?;
            let took = millis(start);
            export.stop()?;
            Ok(took)
        });
        rounds.collect()
    }

    fn mounted(&self, rounds: usize) -> Result<Samples> {
        let dir = self.dir.join("past");
        fs::create_dir(&dir)?;
        let rounds = (0..rounds).map(|_| {
            let start = Instant::now();
            let mut mount = self.serve(&["mount", "bench", dir.to_str().context("a plain path")?])?;
            let mut block = [0; 4096];
            File::open(dir.join(format!("{}.img", self.at)))?.read_exact_at(&mut block, 0)?;
            let took = millis(start);
            mount.stop()?;
            Ok(took)
        });
        rounds.collect()
    }
}

/// Gigabytes a second of a client that reads all of it and keeps nothing.
fn copied(socket: &Path, size: u64) -> Result<f64> {
    let start = Instant::now();
    run(Command::new("nbdcopy").arg(uri(socket)).arg("null:"))?;
    Ok(size as f64 / 1e9 / start.elapsed().as_secs_f64())
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

/// Writes to a tenth of the blocks, at random.
fn change(tap: &Path, size: u64, seed: u64) -> Result<()> {
    let mut client = Client::connect(&format!("unix:{}", tap.display()), "bench")?;
    let mut rng = Rng::new(seed);
    for _ in 0..size / BLOCK / 10 {
        let place = rng.below(size / BLOCK);
        client.write(place * BLOCK, &data::incompressible(4096, place ^ (seed << 40)), false)?;
    }
    Ok(client.flush()?)
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
