//! How long it takes until the past is an image: all of it, what changed of one that is there, and the replica image.

use std::fs::{self, File};
use std::io::Read;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use benches::chain::{Chain, GROUP};
use benches::data::{self, Rng};
use benches::options::Options;
use benches::place;
use benches::process::installed;
use benches::samples::{Samples, gigabytes_per_second, pairs, timed};
use benches::table::{self, Aim, Row};
use journal::disk::FileDisk;
use journal::limits::SEGMENT_BYTES;
use journal::store::{PointInfo, Store, View, When};
use journal::types::{Seq, SessionId, WallTime};
use receiver::catalog::{Catalog, Name, StoreDir, StoreId};
use receiver::diff::Diff;
use receiver::group::{Attachment, Groups};
use receiver::image::Image;
use receiver::restore::{Restore, Update};
use receiver::rollback::Goal;

const BLOCK: usize = 4096;
/// What a first copy reads at once.
const COPIED: usize = 64 * 1024;
const GO: &(dyn Fn(u64) -> ControlFlow<()> + Sync) = &|_| ControlFlow::Continue(());

fn main() -> Result<()> {
    let options = Options::from_args()?;
    let bytes = options.size(2 << 30, 8 << 20);
    let mut rows = Vec::new();
    {
        let dir = place::real_disk()?;
        let mut store = Kept::copied(&dir.path().join("store"), bytes)?;
        let image = dir.path().join("image");
        fs::write(&image, data::incompressible(bytes, 1))?;
        File::open(&image)?.sync_all()?;
        rows.push(whole("a fresh copy", 0.6, &store, &image, &options)?);
        store.write(options.size(1_000_000, 1000))?;
        rows.push(whole("a history of 10⁶ random writes", 0.35, &store, &image, &options)?);
        if options.rivals && installed("borg") {
            rows.push(borg(&store, &image, &options)?);
        }
        rows.extend(between(&mut store, &image, &options)?);
    }
    for bytes in [bytes / 4, bytes] {
        rows.push(rollback(bytes, &options)?);
    }
    table::print("restore: an image as of then, 2 GiB, everything in the page cache", &rows, &options);
    Ok(())
}

/// A journal that is written to.
struct Kept {
    dir: PathBuf,
    store: Store,
    chain: Chain,
    content: Vec<u8>,
    rng: Rng,
    bytes: usize,
}

impl Kept {
    /// A volume that was copied from end to end.
    fn copied(dir: &Path, bytes: usize) -> Result<Self> {
        let disk = Arc::new(FileDisk::create(dir)?);
        let (store, _) = Store::open(disk, GROUP, SEGMENT_BYTES, place::entropy)?;
        let chain = Chain::new(bytes as u64, false);
        let content = data::incompressible(bytes.min(64 << 20), 4);
        let mut kept = Self { dir: dir.to_owned(), store, chain, content, rng: Rng::new(3), bytes };
        for at in (0..bytes).step_by(COPIED) {
            let from = at % kept.content.len();
            kept.chain.write(at as u64, &kept.content[from..from + COPIED]);
            kept.append_if(kept.chain.is_full())?;
        }
        kept.append_if(true)?;
        kept.warm()?;
        Ok(kept)
    }

    /// That many blocks anywhere.
    fn write(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            let from = usize::try_from(self.rng.below((self.content.len() / BLOCK) as u64))? * BLOCK;
            let at = self.rng.below((self.bytes / BLOCK) as u64) * BLOCK as u64;
            self.chain.write(at, &self.content[from..from + BLOCK]);
            self.append_if(self.chain.is_full())?;
        }
        self.append_if(true)?;
        self.warm()
    }

    fn append_if(&mut self, now: bool) -> Result<()> {
        if now && !self.chain.is_empty() {
            self.store.append(&[self.chain.close()], SessionId(1), WallTime(1))?;
            self.store.sync()?;
        }
        Ok(())
    }

    /// Reads all of it once.
    fn warm(&self) -> Result<()> {
        let mut buf = vec![0; 1 << 20];
        for entry in fs::read_dir(&self.dir)? {
            let mut file = File::open(entry?.path())?;
            while file.read(&mut buf)? > 0 {}
        }
        Ok(())
    }

    fn head(&self) -> Result<Seq> {
        Ok(self.store.library().now().head().context("an empty journal")?.seq)
    }

    fn view(&self, at: Seq) -> Result<View> {
        Ok(self.store.library().now().view(at)?)
    }

    fn restore(&self, to: &Path) -> Result<()> {
        let view = self.view(self.head()?)?;
        let volume = view.volumes().first().cloned();
        let restored = Restore::plan(view, volume, to, false, &self.dir)?.run(GO)?;
        ensure!(restored.bytes > 0, "nothing was written");
        Ok(())
    }
}

/// The newest point, into a new file.
fn whole(what: &str, aim: f64, store: &Kept, image: &Path, options: &Options) -> Result<Row> {
    let to = image.with_extension("new");
    let (ours, floor) = pairs(
        options.rounds(5),
        || {
            _ = fs::remove_file(&to);
            let ((), took) = timed(|| store.restore(&to))?;
            anyhow::Ok(gigabytes_per_second(store.bytes, took))
        },
        || {
            _ = fs::remove_file(&to);
            let ((), took) = timed(|| copy(image, &to))?;
            Ok(gigabytes_per_second(store.bytes, took))
        },
    )?;
    fs::remove_file(&to)?;
    Ok(Row {
        what: format!("restore of {what}"),
        unit: "GB/s",
        ours,
        floor: Some(("cp --reflink=never + fsync".to_owned(), floor)),
        aim: Aim::RatioAtLeast(aim),
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("--reflink=never").args([from, to]).status()?;
    ensure!(status.success(), "cp: {status}");
    Ok(File::open(to)?.sync_all()?)
}

/// The same image out of an archive of one version, made durable.
fn borg(store: &Kept, image: &Path, options: &Options) -> Result<Row> {
    let place = place::real_disk()?;
    let repository = place.path().join("repository");
    let archive = format!("{}::one", repository.display());
    let run = |args: &[&str]| {
        let mut command = Command::new("borg");
        command.args(args).current_dir(place.path()).env("BORG_BASE_DIR", place.path());
        let status = command.env("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes").status()?;
        ensure!(status.success(), "borg {args:?}: {status}");
        anyhow::Ok(())
    };
    run(&["init", "--encryption=none", &repository.display().to_string()])?;
    run(&["create", "--compression=none", &archive, &image.display().to_string()])?;
    let (extracted, to) = (place.path().join(image.strip_prefix("/")?), image.with_extension("new"));
    let (ours, theirs) = pairs(
        options.rounds(3),
        || {
            _ = fs::remove_file(&to);
            anyhow::Ok(timed(|| store.restore(&to))?.1.as_secs_f64())
        },
        || {
            _ = fs::remove_file(&extracted);
            let ((), took) = timed(|| {
                run(&["extract", &archive])?;
                anyhow::Ok(File::open(&extracted)?.sync_all()?)
            })?;
            Ok(took.as_secs_f64())
        },
    )?;
    fs::remove_file(&to)?;
    Ok(Row {
        what: "restore of a history of 10⁶ random writes".to_owned(),
        unit: "s",
        ours,
        floor: Some(("borg extract of one version + fsync".to_owned(), theirs)),
        aim: Aim::RatioAtMost(0.5),
    })
}

/// Two points that 1 % of the blocks were written between: what differs, and an image that is taken from one to the other.
fn between(store: &mut Kept, image: &Path, options: &Options) -> Result<Vec<Row>> {
    let since = store.head()?;
    let there = image.with_extension("there");
    store.restore(&there)?;
    let blocks = store.bytes / BLOCK / 100;
    store.write(blocks)?;
    let at = store.head()?;
    let rounds = (0..options.rounds(5)).map(|_| {
        let (found, took) = timed(|| {
            Diff::new(store.view(since)?, store.view(at)?, None).run(GO, |_, _| Ok(())).map_err(anyhow::Error::from)
        })?;
        ensure!(found.iter().any(|one| one.blocks > 0), "nothing differs");
        Ok(took.as_secs_f64() * 1e3)
    });
    let diff = rounds.collect::<Result<Samples>>()?;

    let mut points = [since, at];
    let to = image.with_extension("floor");
    fs::copy(image, &to)?;
    let places = places(store.bytes, blocks, &mut Rng::new(9));
    let (ours, floor) = pairs(
        options.rounds(5),
        || {
            let [since, at] = points;
            let ((), took) = timed(|| {
                let view = store.view(at)?;
                let volume = view.volumes().first().cloned();
                let update = Update::open(store.view(since)?, view, volume, &there, &store.dir)?;
                let written = update.write(&update.verify(GO)?, GO)?;
                ensure!(written.blocks > 0, "nothing was written");
                Ok(())
            })?;
            points.reverse();
            anyhow::Ok(took.as_secs_f64())
        },
        || {
            let ((), took) = timed(|| {
                let mut buf = vec![0; 1 << 20];
                let mut file = File::open(&to)?;
                while file.read(&mut buf)? > 0 {}
                write_raw(&to, &places, &store.content)
            })?;
            Ok(took.as_secs_f64())
        },
    )?;
    fs::remove_file(&to)?;
    fs::remove_file(&there)?;
    Ok(vec![
        Row {
            what: "diff of two points, 1 % of the blocks apart".to_owned(),
            unit: "ms",
            ours: diff,
            floor: None,
            aim: Aim::Known,
        },
        Row {
            what: "an image taken from one to the other, verified".to_owned(),
            unit: "s",
            ours,
            floor: Some(("read it, write the blocks, fsync".to_owned(), floor)),
            aim: Aim::Known,
        },
    ])
}

fn places(bytes: usize, count: usize, rng: &mut Rng) -> Vec<u64> {
    let mut places: Vec<u64> = (0..count).map(|_| rng.below((bytes / BLOCK) as u64) * BLOCK as u64).collect();
    places.sort_unstable();
    places
}

/// These blocks, in their order on the disk.
fn write_raw(to: &Path, places: &[u64], content: &[u8]) -> Result<()> {
    let file = File::options().write(true).open(to)?;
    for (block, at) in content.chunks_exact(BLOCK).cycle().zip(places) {
        file.write_all_at(block, *at)?;
    }
    Ok(file.sync_all()?)
}

/// The replica image back and forth over 1 % of its blocks.
fn rollback(bytes: usize, options: &Options) -> Result<Row> {
    let dir = place::real_disk()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let row = runtime.block_on(async {
        let catalog = Catalog::open(StoreDir::open(&dir.path().join("store"), StoreId([1; 16]))?)?;
        let groups = Groups::open(catalog, true)?;
        let group =
            groups.claim(&Name::parse("bench")?, GROUP, "bench").map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        let session = group.attach(groups.next_session()).await.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        let mut agent =
            Agent { session, chain: Chain::new(bytes as u64, false), content: data::incompressible(64 << 20, 4) };
        agent.chain.sealed();
        for at in (0..bytes).step_by(COPIED) {
            agent.write(at as u64, COPIED).await?;
        }
        agent.close().await?;
        let places = places(bytes, (options.size(2 << 30, 8 << 20)) / BLOCK / 100, &mut Rng::new(7));
        let newest = || -> Result<PointInfo> {
            group.library()?.now().find(&When::Latest)?.map_err(|_| anyhow::anyhow!("no point"))
        };
        let before = newest()?;
        for at in &places {
            agent.write(*at, BLOCK).await?;
        }
        agent.close().await?;
        let image = groups.image(GROUP).context("no image")?;
        let after = newest()?;
        while image.shown().applied != Some(after.seq) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let to = dir.path().join("floor");
        fs::write(&to, data::incompressible(bytes, 5))?;
        File::open(&to)?.sync_all()?;
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        let mut goals = [before, after];
        for round in 0..=options.rounds(5) {
            let here = go(&image, &goals[0]).await?;
            goals.reverse();
            let ((), took) = timed(|| write_raw(&to, &places, &agent.content))?;
            if round > 0 {
                ours.push(places.len() as f64 / here.as_secs_f64());
                floor.push(places.len() as f64 / took.as_secs_f64());
            }
        }
        groups.stop().await;
        anyhow::Ok((ours, floor))
    });
    let (ours, floor) = row?;
    Ok(Row {
        what: format!(
            "rollback of the image of {} MiB, {} blocks at random",
            bytes >> 20,
            options.size(2 << 30, 8 << 20) / BLOCK / 100
        ),
        unit: "blocks/s",
        ours: ours.into_iter().collect(),
        floor: Some(("write those blocks, fsync".to_owned(), floor.into_iter().collect())),
        aim: Aim::RatioAtLeast(0.6),
    })
}

async fn go(image: &Image, to: &PointInfo) -> Result<Duration> {
    let start = Instant::now();
    let done = image.rollback(Goal::To(to.clone()), false, Box::new(|_| {})).await?;
    ensure!(done.blocks > 0, "nothing was written");
    Ok(start.elapsed())
}

struct Agent {
    session: Attachment,
    chain: Chain,
    content: Vec<u8>,
}

impl Agent {
    async fn write(&mut self, at: u64, bytes: usize) -> Result<()> {
        let from = usize::try_from(at)? % (self.content.len() - bytes) / 512 * 512;
        // What is written again is something else.
        let from = if bytes == BLOCK { (from + BLOCK) % (self.content.len() - bytes) } else { from };
        self.chain.write(at, &self.content[from..from + bytes]);
        if self.chain.is_full() { self.close().await } else { Ok(()) }
    }

    /// Until it is durable.
    async fn close(&mut self) -> Result<()> {
        if self.chain.is_empty() {
            return Ok(());
        }
        let frame = self.chain.close();
        let last = frame.header().kind;
        let journal::codec::FrameKind::Live { first } = last else { return Ok(()) };
        let newest = first.after(u64::from(frame.header().records)).before();
        self.session.ingest.live(frame).await.map_err(|refusal| anyhow::anyhow!("{refusal:?}"))?;
        self.session.progress.wait_for(|now| now.head.map(|head| head.seq) >= newest).await?;
        Ok(())
    }
}
