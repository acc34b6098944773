//! A whole image until it is durable elsewhere: with TLS, checksums and a journal by us; with none of that by nbdcopy. With
//! `--rivals` also by backup tools that are installed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;
use benches::data;
use benches::options::Options;
use benches::place;
use benches::process::{backspool, installed, nbdkit, run, uri};
use benches::stage::Stage;
use benches::table::{self, Aim, Row};

/// Seconds that a tool took to copy the image into an empty directory.
type Tool = fn(&Path, &Path) -> Result<f64>;

/// A tool, what it is called here, and how many of its times ours may take.
const NBDCOPY: (&str, &str, Tool, f64) = ("nbdcopy", "nbdcopy to nbdkit, Unix socket", nbdcopy, 2.0);
const RIVALS: [(&str, &str, Tool, f64); 3] = [
    ("borg", "borg create", borg, 0.4),
    ("restic", "restic backup", restic, 0.25),
    ("rsync", "rsync -W", rsync, f64::INFINITY),
];

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let program = backspool()?;
    let dir = place::real_disk()?;
    let image = dir.path().join("image");
    mixed_image(&image, options.size(2048, 32))?;
    let mut tools = vec![NBDCOPY];
    tools.extend(RIVALS.into_iter().filter(|(program, ..)| options.rivals && installed(program)));
    let (mut times, mut memory) = (Vec::new(), Vec::new());
    let mut theirs = vec![Vec::new(); tools.len()];
    for _ in 0..options.rounds(5) {
        let place = place::real_disk()?;
        let (seconds, peak) = ours(&program, &image, place.path())?;
        times.push(seconds);
        memory = peak;
        for ((_, _, copy, _), times) in tools.iter().zip(&mut theirs) {
            let place = place::real_disk()?;
            times.push(copy(&image, place.path())?);
        }
    }
    let rows = tools.iter().zip(theirs).map(|((_, name, _, aim), theirs)| Row {
        what: format!("{} MiB, a quarter of them holes", options.size(2048, 32)),
        unit: "s",
        ours: times.iter().copied().collect(),
        floor: Some(((*name).to_owned(), theirs.into_iter().collect())),
        aim: if aim.is_finite() { Aim::RatioAtMost(*aim) } else { Aim::Known },
    });
    let rows: Vec<Row> = rows.chain(memory).collect();
    table::print("first_copy: from the start of the agent until all is durable, real disk", &rows, &options);
    Ok(())
}

/// Of each 8 MiB, 2 are holes, 2 are text, 4 cannot be compressed.
fn mixed_image(path: &Path, mebibytes: u64) -> Result<()> {
    let file = File::create(path)?;
    file.set_len(mebibytes << 20)?;
    for place in 0..mebibytes {
        let content = match place % 8 {
            0 | 4 => continue,
            1 | 5 => data::text(1 << 20, place),
            _ => data::incompressible(1 << 20, place),
        };
        file.write_all_at(&content, place << 20)?;
    }
    Ok(file.sync_all()?)
}

fn ours(program: &Path, image: &Path, dir: &Path) -> Result<(f64, Vec<Row>)> {
    let stage = Stage::set(program, dir, image)?;
    stage.live()?;
    let seconds = stage.since_start().as_secs_f64();
    Ok((seconds, stage.memory("the first copy")?))
}

fn nbdcopy(image: &Path, dir: &Path) -> Result<f64> {
    let (copy, socket) = (dir.join("copy"), dir.join("copy.sock"));
    File::create(&copy)?.set_len(fs::metadata(image)?.len())?;
    let _nbdkit = nbdkit(&copy, &socket)?;
    durable(dir, Command::new("nbdcopy").arg("--flush").arg(image).arg(uri(&socket)))
}

fn borg(image: &Path, dir: &Path) -> Result<f64> {
    let borg = || {
        let mut borg = Command::new("borg");
        borg.env("BORG_BASE_DIR", dir).env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes");
        borg
    };
    let repository = dir.join("repository");
    run(borg().args(["init", "-e", "none"]).arg(&repository))?;
    durable(dir, borg().arg("create").arg(format!("{}::first", repository.display())).arg(image))
}

fn restic(image: &Path, dir: &Path) -> Result<f64> {
    let restic = || {
        let mut restic = Command::new("restic");
        restic.env("RESTIC_PASSWORD", "none").env("RESTIC_CACHE_DIR", dir.join("cache"));
        restic.arg("--quiet").arg("--repo").arg(dir.join("repository"));
        restic
    };
    run(restic().arg("init"))?;
    durable(dir, restic().arg("backup").arg(image))
}

fn rsync(image: &Path, dir: &Path) -> Result<f64> {
    durable(dir, Command::new("rsync").args(["--inplace", "--whole-file"]).arg(image).arg(dir.join("copy")))
}

/// Seconds until the command has ended and what it wrote is on the disk.
fn durable(dir: &Path, command: &mut Command) -> Result<f64> {
    let start = Instant::now();
    run(command)?;
    rustix::fs::syncfs(File::open(dir)?)?;
    Ok(start.elapsed().as_secs_f64())
}
