//! What a write costs the protected system while all of it is replicated: our tap, against the same job without history,
//! encryption or checksums (QEMU's mirror), and against a server that only writes (nbdkit).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use benches::data;
use benches::fio::{Measured, fio};
use benches::mirror::Mirror;
use benches::options::Options;
use benches::place;
use benches::process::{Process, backspool, installed, nbdkit};
use benches::samples::Samples;
use benches::stage::Stage;
use benches::table::{self, Aim, Row};

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let dir = place::real_disk()?;
    let targets = Targets::start(dir.path(), options.size(1 << 30, 16 << 20))?;
    let mut rows = Vec::new();
    for job in jobs(&options) {
        rows.extend(measure(&targets, &job, &options)?);
    }
    rows.extend(targets.ours.memory("all of these")?);
    table::print("tap: an NBD client's writes on the real disk, both ends on this machine", &rows, &options);
    Ok(())
}

/// What is compared. All of them run all the time, and are idle while another is measured.
struct Targets {
    ours: Stage,
    mirror: Option<Mirror>,
    plain: (Process, PathBuf),
}

impl Targets {
    fn start(dir: &Path, bytes: usize) -> Result<Self> {
        let content = data::incompressible(bytes, 10);
        let image = |name: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            fs::write(&path, &content)?;
            fs::File::open(&path)?.sync_all()?;
            Ok(path)
        };
        let ours = Stage::set(&backspool()?, dir, &image("ours.img")?)?;
        ours.live()?;
        let mirror = if installed("qemu-storage-daemon") {
            Some(Mirror::start(dir, &image("mirror.img")?, &image("mirrored.img")?)?)
        } else {
            ensure!(std::env::var_os("BACKSPOOL_NO_SKIP").is_none(), "there is no qemu-storage-daemon");
            eprintln!("without qemu-storage-daemon there is no mirror to compare with");
            None
        };
        let socket = dir.join("plain.sock");
        let plain = (nbdkit(&image("plain.img")?, &socket)?, socket);
        Ok(Self { ours, mirror, plain })
    }

    /// Waits until nobody has anything left to do.
    fn settle(&self) -> Result<()> {
        self.ours.live()?;
        self.ours.applied()?;
        self.mirror.as_ref().map_or(Ok(()), Mirror::settle)?;
        rustix::fs::sync();
        Ok(())
    }
}

/// A job for fio, and what is asked of it.
struct Job {
    what: &'static str,
    args: Vec<&'static str>,
    aims: Vec<Asked>,
}

/// One figure of a job.
struct Asked {
    what: &'static str,
    unit: &'static str,
    of: fn(&Measured) -> f64,
    against: Against,
    aim: Aim,
}

#[derive(Clone, Copy, PartialEq)]
enum Against {
    Mirror,
    Plain,
}

fn jobs(options: &Options) -> Vec<Job> {
    use Against::{Mirror, Plain};
    let asked = |what, unit, of, against, aim| Asked { what, unit, of, against, aim };
    let iops: fn(&Measured) -> f64 = |m| m.iops;
    let rate: fn(&Measured) -> f64 = |m| m.megabytes_per_second;
    let p99: fn(&Measured) -> f64 = |m| m.write_p99_micros;
    let flush: fn(&Measured) -> f64 = |m| m.flush_p99_micros;
    vec![
        Job {
            what: "4 KiB random, qd1 + flush",
            args: vec!["--rw=randwrite", "--bs=4k", "--fsync=1", options.size("--runtime=3", "--runtime=200ms")],
            aims: vec![
                asked("", "/s", iops, Plain, Aim::RatioAtLeast(0.9)),
                asked(", write p99", "µs", p99, Plain, Aim::RatioAtMost(1.5)),
                asked(", flush p99", "µs", flush, Plain, Aim::RatioAtMost(1.5)),
                asked("", "/s", iops, Mirror, Aim::Known),
            ],
        },
        Job {
            what: "4 KiB random, qd32",
            args: vec!["--rw=randwrite", "--bs=4k", "--iodepth=32", options.size("--runtime=20", "--runtime=200ms")],
            aims: vec![
                asked("", "/s", iops, Mirror, Aim::RatioAtLeast(1.5)),
                asked(", p99", "µs", p99, Mirror, Aim::RatioAtMost(0.6)),
                asked("", "/s", iops, Plain, Aim::Known),
            ],
        },
        Job {
            what: "64 KiB sequential, qd8",
            args: vec!["--rw=write", "--bs=64k", "--iodepth=8", options.size("--runtime=5", "--runtime=200ms")],
            aims: vec![
                asked("", "MB/s", rate, Mirror, Aim::RatioAtLeast(1.5)),
                asked(", p99", "µs", p99, Mirror, Aim::RatioAtMost(0.6)),
                asked("", "MB/s", rate, Plain, Aim::Known),
            ],
        },
    ]
}

fn measure(targets: &Targets, job: &Job, options: &Options) -> Result<Vec<Row>> {
    let (mut ours, mut mirror, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds(5) {
        let one = |socket: &Path| {
            targets.settle()?;
            fio(socket, &job.args)
        };
        ours.push(one(&targets.ours.tap())?);
        plain.push(one(&targets.plain.1)?);
        mirror.extend(targets.mirror.as_ref().map(|mirror| one(mirror.socket())).transpose()?);
    }
    targets.settle()?;
    let of = |measured: &[Measured], figure: fn(&Measured) -> f64| measured.iter().map(figure).collect::<Samples>();
    let asked = job.aims.iter().filter(|asked| asked.against == Against::Plain || targets.mirror.is_some());
    let rows = asked.map(|asked| {
        let (name, theirs) = match asked.against {
            Against::Mirror => ("QEMU background mirror", &mirror),
            Against::Plain => ("nbdkit file", &plain),
        };
        Row {
            what: format!("{}{}", job.what, asked.what),
            unit: asked.unit,
            ours: of(&ours, asked.of),
            floor: Some((name.to_owned(), of(theirs, asked.of))),
            aim: asked.aim,
        }
    });
    Ok(rows.collect())
}
