//! A load with a record of its own, and views judged by that record.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use oracle::{History, Hot, Micros, Recorder, Rng, SizeShare, Stats, Verdict, Volume, Workload, WorkloadError};
use serde_json::Value;

use super::cluster::{Cluster, Gap, at};
use super::watch::Watch;
use super::{PATIENCE, wait_for};

/// All kinds of changes over several connections, half of them to the first so many bytes; it waits for a tap that is gone.
pub(crate) fn mixed(cluster: &Cluster, seed: u64, hot_bytes: u64) -> Workload {
    Workload {
        connections: 4,
        sizes: [(512, 1), (4096, 6), (16_384, 6), (65_536, 2)]
            .map(|(bytes, weight)| SizeShare { bytes, weight })
            .to_vec(),
        hot: Some(Hot { bytes: hot_bytes, percent: 50 }),
        seed,
        rate: Some(600),
        flush_every: Some(64),
        fua_percent: 2,
        zero_percent: 3,
        trim_percent: 3,
        reconnect: Some(PATIENCE),
        ..Workload::new(&cluster.tap(), "")
    }
}

/// A workload that runs until it is stopped.
pub(crate) struct Load {
    recorder: Arc<Recorder>,
    workload: Workload,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Stats, WorkloadError>>,
    /// What was done before it was let go on.
    before: Option<Stats>,
}

impl Load {
    pub(crate) fn start(volume: Volume, workload: Workload) -> Self {
        Self::begin(Arc::new(Recorder::in_memory(volume)), workload, None)
    }

    fn begin(recorder: Arc<Recorder>, workload: Workload, before: Option<Stats>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (load, noted, stopped) = (workload.clone(), Arc::clone(&recorder), Arc::clone(&stop));
        let thread = std::thread::spawn(move || load.run(&noted, &stopped));
        Self { recorder, workload, stop, thread, before }
    }

    /// Nothing is written while this is done; then it goes on, with other choices.
    pub(crate) fn paused(self, meanwhile: impl FnOnce(History)) -> Self {
        let (recorder, mut workload) = (Arc::clone(&self.recorder), self.workload.clone());
        let (history, stats) = self.stop();
        meanwhile(history);
        workload.seed += 1;
        Self::begin(recorder, workload, Some(stats))
    }

    /// What happened so far. Take it after the image that it is to judge.
    pub(crate) fn history(&self) -> History {
        self.recorder.history()
    }

    /// How many operations have begun.
    pub(crate) fn begun(&self) -> usize {
        self.recorder.begun()
    }

    /// Until so many more operations have begun.
    #[track_caller]
    pub(crate) fn wait_for(&self, more: usize) {
        let before = self.begun();
        let begun = || {
            self.assert_runs();
            (self.begun() >= before + more).then_some(())
        };
        wait_for("busy", begun, || format!("{more} more operations than {before}"));
    }

    #[track_caller]
    pub(crate) fn assert_runs(&self) {
        assert!(!self.thread.is_finished(), "the load ended by itself");
    }

    pub(crate) fn stop(self) -> (History, Stats) {
        self.stop.store(true, Ordering::Relaxed);
        let mut stats = self.thread.join().unwrap().unwrap();
        if let Some(before) = &self.before {
            stats.add(before);
            stats.elapsed += before.elapsed;
        }
        (self.recorder.history(), stats)
    }
}

/// Whether `image` is the volume as of that instant.
pub(crate) fn judge(history: &History, instant: u64, image: &[u8]) -> Verdict {
    history.judge(Micros(instant), &mut reader(image)).unwrap()
}

/// The view as of that instant, which must be legal.
#[track_caller]
pub(crate) fn assert_legal(cluster: &Cluster, instant: u64, history: impl FnOnce() -> History) {
    let image = cluster.image(&at(instant));
    let verdict = judge(&history(), instant, &image);
    assert!(verdict.is_legal(), "{} is wrong: {verdict}\n{}", at(instant), cluster.words());
}

/// The newest point, which must be a state of the volume with all that was acknowledged up to `floor`.
#[track_caller]
pub(crate) fn assert_latest(cluster: &Cluster, floor: u64, history: impl FnOnce() -> History) {
    assert_holds(cluster, "latest", floor, history);
}

/// This point, which must be a state of the volume with all that was acknowledged up to `floor`.
#[track_caller]
pub(crate) fn assert_holds(cluster: &Cluster, at: &str, floor: u64, history: impl FnOnce() -> History) {
    let image = cluster.image(at);
    let crash = history().judge_crash(Some(Micros(floor)), &mut reader(&image)).unwrap();
    assert!(crash.verdict.is_legal(), "{at} is wrong: {}\n{}", crash.verdict, cluster.words());
}

/// When all is quiet: the newest point is the source and holds all that was answered, and the store is sound. What `verify` says.
pub(crate) fn assert_at_rest(cluster: &mut Cluster, history: History) -> Value {
    cluster.settle();
    wait_for(
        "all durable",
        || cluster.look().filter(|status| status["rpo_seconds"].as_f64() == Some(0.0)),
        || cluster.words(),
    );
    cluster.assert_same();
    let answered = history.ops().iter().filter_map(|op| op.acked).max().unwrap().0;
    assert_latest(cluster, answered, || history);
    let verified = cluster.ask(&["verify", "db"]).document();
    assert_eq!(verified["ok"], true, "{verified}");
    verified
}

/// The newest point, some instants of the whole history, and all gaps; how many instants were legal ones.
#[track_caller]
pub(crate) fn judge_window(
    cluster: &Cluster,
    watch: &Watch,
    rng: &mut Rng,
    instants: u32,
    history: impl Fn() -> History,
) -> u32 {
    watch.check();
    let (from, floor) = cluster.window();
    assert_latest(cluster, floor, &history);
    let gaps = cluster.closed_gaps();
    let mut judged = 0;
    for _ in 0..instants {
        let instant = pick(watch, rng, &gaps, from, floor);
        if is_in_gap(instant, &gaps) {
            assert_gap(cluster, instant);
            continue;
        }
        assert_legal(cluster, instant, &history);
        judged += 1;
    }
    for gap in gaps.iter().filter(|gap| gap.from >= from) {
        let to = gap.to.expect("it is live");
        assert_gap(cluster, gap.from + 1 + rng.below(to - gap.from - 1));
    }
    judged
}

/// One that was told to be covered, or next to a gap, or any.
fn pick(watch: &Watch, rng: &mut Rng, gaps: &[Gap], from: u64, to: u64) -> u64 {
    let gap = gaps[usize::try_from(rng.below(gaps.len() as u64)).unwrap()];
    match rng.below(4) {
        0 if gap.from >= from => gap.from,
        1 if gap.from >= from => gap.to.unwrap(),
        0 | 1 => from,
        2 => watch.told(rng).unwrap_or(from),
        _ => from + rng.below(to - from + 1),
    }
}

/// An instant in a gap is refused.
#[track_caller]
pub(crate) fn assert_gap(cluster: &Cluster, instant: u64) {
    let error = cluster.read(&at(instant), 0, 512).unwrap().expect_err("an instant in a gap is served");
    assert_eq!(error["exit"], 13, "{error}");
}

pub(crate) fn is_in_gap(instant: u64, gaps: &[Gap]) -> bool {
    gaps.iter().any(|gap| gap.from < instant && gap.to.is_none_or(|to| instant < to))
}

fn reader(image: &[u8]) -> impl FnMut(u64, &mut [u8]) -> std::io::Result<()> {
    |offset, buf| {
        let from = usize::try_from(offset).unwrap();
        buf.copy_from_slice(&image[from..from + buf.len()]);
        Ok(())
    }
}
