//! Every named step of the ladder, of a resync, of a merge (`merging.rs`) and of a live rollback (`back.rs`): the process ends there, or the
//! step fails, and everything comes back to live by itself. Under stamped writes, judged from outside after each.
//!
//! `BACKSPOOL_FAILPOINTS` names the only steps to be tried, for whoever looks for one mistake.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

#[path = "failpoints/back.rs"]
mod back;
mod common;
#[path = "failpoints/merging.rs"]
mod merging;

use std::sync::Mutex;

use common::cluster::Cluster;
use common::judged::{Load, assert_at_rest, assert_legal, judge_window, mixed};
use common::wait_for;
use common::watch::Watch;
use journal::failpoint::Step;
use merging::Merges;
use oracle::{Rng, Volume, fill_initial};
use rustix::process::Signal;

const VOLUME_BYTES: u64 = 8 << 20;
const SPOOL: &str = "4MiB";
/// Clusters side by side: most of the time all of them wait.
const LANES: u64 = 6;
/// Instants judged after each, beside the newest point and both ends of the newest gap.
const INSTANTS: u32 = 1;

/// What happens at a step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Kill,
    Eio,
}

/// How a process is brought there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The agent goes all the way: a clean start, a full spool, tracking, a resync.
    Ladder,
    /// The agent was killed, and compares.
    Comparison,
    /// The agent's spool fills once more while the resync is on its way.
    Twice,
    /// The agent's spool cannot be written.
    Broken,
    /// The receiver takes the agent's resync.
    Receiver,
    /// The receiver is asked what it has.
    Asked,
    /// The receiver finds half a base that nobody goes on with.
    LeftOver,
    /// The agent's source is taken back: `back.rs`.
    Back,
    /// The receiver takes it back.
    BackAtReceiver,
    /// The receiver merges indexes: a story of its own.
    Merge,
}

impl Way {
    fn goes_back(self) -> bool {
        matches!(self, Self::Back | Self::BackAtReceiver)
    }
}

/// How each step is reached. A step without a way does not compile.
const fn ways(step: Step) -> &'static [Way] {
    use Step as S;
    match step {
        S::SpoolFull | S::GapRecorded | S::Tracking | S::ChangeTracked | S::GapSpooled | S::GapSent => &[Way::Ladder],
        S::Room | S::MapTaken | S::ResyncWanted | S::SealedAcknowledged => &[Way::Ladder],
        S::ResyncExtended => &[Way::Twice],
        S::SpoolAppend | S::SpoolGivenUp | S::EpochOpened | S::RunReplaced => &[Way::Broken],
        S::CompareOpening | S::HashesAsked | S::HashesCame | S::PagesAsked | S::PagesCame => &[Way::Comparison],
        S::BaseBegun | S::ExtentRead | S::BaseFrameRead | S::BaseOpening | S::BaseOpened => {
            &[Way::Ladder, Way::Comparison]
        }
        S::BaseFrameSent | S::BaseFrameAcknowledged | S::BaseRead => &[Way::Ladder, Way::Comparison],
        S::BaseWhole | S::SealedRecorded | S::SealedSpooled | S::SealedSent => &[Way::Ladder, Way::Comparison],
        S::SegmentDropped => &[Way::Ladder, Way::LeftOver],
        S::HashesMade | S::PagesMade => &[Way::Asked],
        S::BaseMadeWay | S::BaseSegmentMade | S::BaseSegmentNamed | S::BaseAppended | S::BaseDurable => {
            &[Way::Receiver]
        }
        S::BaseAcknowledged | S::BaseIndexWritten | S::BaseSealed => &[Way::Receiver],
        S::SealedAppended | S::SealedDurable | S::SealedPublished => &[Way::Receiver],
        // `tests/retention.rs` goes these ways.
        S::PointsWritten | S::HistoryThinned | S::CompactedWritten => &[],
        S::CompactedDurable | S::SegmentReplaced | S::ReplacedRemoved => &[],
        S::RollbackShut | S::RollbackMarked | S::RollbackNoting | S::RollbackNoted => &[Way::Back],
        S::RollbackBegun | S::RollbackForgetting => &[Way::Back],
        S::RollbackBeginHeard | S::RollbackWriting | S::RollbackWritten | S::RollbackFlushed => &[Way::Back],
        S::RollbackSealed | S::RollbackSealHeard | S::RollbackForgotten => &[Way::Back],
        S::RollbackPlanned | S::RollbackBlocksSent | S::RollbackOver => &[Way::BackAtReceiver],
        S::RunWriting | S::RunWritten | S::RunNamed | S::RunPublished | S::RunRemoved => &[Way::Merge],
    }
}

/// One step, tried once.
#[derive(Clone, Copy, Debug)]
struct Try {
    step: Step,
    way: Way,
    act: Act,
    passage: u32,
}

impl Try {
    /// All there are; loops not only where they begin.
    fn all() -> Vec<Self> {
        let chosen = chosen();
        let is_chosen =
            |step: &Step| chosen.as_ref().is_none_or(|names| names.split(',').any(|name| name == step.name()));
        let mut all = Vec::new();
        for &step in Step::ALL.iter().filter(|step| is_chosen(step)) {
            for &way in ways(step).iter().filter(|way| !way.goes_back()) {
                let passages: &[u32] = match step {
                    Step::SpoolAppend => &[30],
                    Step::ChangeTracked => &[1, 200],
                    Step::BaseFrameSent | Step::BaseFrameAcknowledged if way == Way::Ladder => &[1, 2],
                    Step::BaseAppended => &[1, 2],
                    _ => &[1],
                };
                all.extend(passages.iter().map(|&passage| Self { step, way, act: Act::Kill, passage }));
                if step.may_fail() {
                    all.push(Self { step, way, act: Act::Eio, passage: passages[0] });
                }
            }
        }
        all
    }

    fn failpoint(&self) -> String {
        let act = if self.act == Act::Eio { ":eio" } else { "" };
        format!("{}:{}{act}", self.step.name(), self.passage)
    }

    /// A receiver merges as soon as it starts, and may end before it is ready.
    fn reach_merging(&self, cluster: &mut Cluster) {
        match self.act {
            Act::Kill => cluster.spawn_receiver(),
            Act::Eio => cluster.start_receiver(),
        }
        self.wait_fired_at_receiver(cluster);
    }

    /// The receiver has ended there; or said that the step failed.
    fn wait_fired_at_receiver(&self, cluster: &mut Cluster) {
        match self.act {
            Act::Kill => cluster.wait_receiver_killed(),
            Act::Eio => self.wait_said(cluster),
        }
    }

    fn wait_said(&self, cluster: &Cluster) {
        let log = cluster.path(if self.is_at_receiver() { "receiver.log" } else { "agent.log" });
        let said = || {
            let log = std::fs::read_to_string(&log).unwrap();
            let (_, since) = log.rsplit_once("this process ends, or fails").unwrap();
            since.contains(&format!("failpoint {}", self.step.name())).then_some(())
        };
        wait_for("an error", said, || cluster.words());
    }

    fn is_at_receiver(&self) -> bool {
        matches!(self.way, Way::Receiver | Way::Asked | Way::LeftOver | Way::Merge)
    }
}

fn chosen() -> Option<String> {
    std::env::var("BACKSPOOL_FAILPOINTS").ok()
}

/// The story: one step after the other, each with all that comes after it; several clusters at once.
#[test]
fn every_step_may_be_the_last_one() {
    let (merges, others): (Vec<_>, Vec<_>) = Try::all().into_iter().partition(|it| it.way == Way::Merge);
    let tries = Mutex::new(others.into_iter());
    let fired: Mutex<Vec<Try>> = Mutex::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            merges.first().map(|_| Merges::begin()).into_iter().for_each(|mut story| {
                merges.iter().for_each(|it| story.go(&it.failpoint(), |cluster| it.reach_merging(cluster)));
            });
            fired.lock().unwrap().extend(merges);
        });
        for lane in 1..=LANES {
            let (tries, fired) = (&tries, &fired);
            scope.spawn(move || {
                let next = || tries.lock().unwrap().next();
                let Some(mut it) = next() else { return };
                let mut story = Story::begin(lane);
                loop {
                    story.trying = Some(it);
                    story = story.go(&it);
                    fired.lock().unwrap().push(it);
                    let Some(other) = next() else { break };
                    it = other;
                }
                story.trying = None;
                story.end(lane);
            });
        }
    });
    let fired = fired.into_inner().unwrap();
    let is_ours = |step: &&Step| ways(**step).iter().any(|way| !way.goes_back());
    let never: Vec<_> =
        Step::ALL.iter().filter(is_ours).filter(|step| !fired.iter().any(|it| it.step == **step)).collect();
    assert!(never.is_empty() || chosen().is_some(), "never fired: {never:?}");
    let failed = fired.iter().filter(|tried| tried.act == Act::Eio).count();
    println!("{} steps: {} times a process ended, {failed} times one failed", Step::ALL.len(), fired.len() - failed);
}

struct Story {
    trying: Option<Try>,
    cluster: Cluster,
    load: Option<Load>,
    watch: Watch,
    rng: Rng,
    judged: u32,
}

impl Story {
    fn begin(seed: u64) -> Self {
        let mut cluster = Cluster::new();
        let volume = Volume::new(seed, VOLUME_BYTES);
        fill_initial(&cluster.source, &volume).unwrap();
        cluster.protect = ["--spool-size", SPOOL].map(Into::into).to_vec();
        cluster.begin();
        cluster.settle();
        let load = mixed(&cluster, seed, VOLUME_BYTES / 8);
        let watch = Watch::start(cluster.store.join("control.sock"));
        let load = Some(Load::start(volume, load));
        Self { trying: None, cluster, load, watch, rng: Rng::new(seed), judged: 0 }
    }

    fn load(&self) -> &Load {
        self.load.as_ref().unwrap()
    }

    /// One step is reached, and survived.
    fn go(mut self, it: &Try) -> Self {
        self.load().wait_for(50);
        match it.way {
            Way::Ladder => self.ladder(it),
            Way::Comparison => self.comparison(it),
            Way::Twice => self.twice(it),
            Way::Broken => self.broken(it),
            Way::Receiver => self.receiver(it),
            Way::Asked => self.asked(it),
            Way::LeftOver => self.left_over(it),
            Way::Back | Way::BackAtReceiver | Way::Merge => unreachable!("its story is another one: {it:?}"),
        }
        self.cluster.assert_runs();
        self.judge();
        self
    }

    fn ladder(&mut self, it: &Try) {
        self.cluster.stop_agent();
        self.cluster.failpoints.1 = Some(it.failpoint());
        self.cluster.start_agent();
        self.load().wait_for(20);
        self.fill();
        self.fired_at_agent(it);
    }

    fn comparison(&mut self, it: &Try) {
        self.cluster.kill_agent();
        self.cluster.failpoints.1 = Some(it.failpoint());
        self.cluster.spawn_agent();
        self.fired_at_agent(it);
    }

    /// The receiver stands still where the resync begins, until the spool is full again.
    fn twice(&mut self, it: &Try) {
        self.cluster.stop_agent();
        self.cluster.kill_receiver();
        self.cluster.failpoints = (Some(format!("{}:stop", Step::BaseMadeWay.name())), Some(it.failpoint()));
        self.cluster.start_receiver();
        self.cluster.start_agent();
        self.load().wait_for(20);
        self.fill();
        let stopped = || self.cluster.receiver.as_ref().unwrap().is_stopped().then_some(());
        wait_for("a resync", stopped, || self.cluster.words());
        self.fill();
        self.fired_at_agent(it);
    }

    fn broken(&mut self, it: &Try) {
        self.cluster.stop_agent();
        let breaks = format!("{}:30:eio", Step::SpoolAppend.name());
        let is_first = it.step == Step::SpoolAppend;
        self.cluster.failpoints.1 =
            Some(if is_first { it.failpoint() } else { format!("{breaks},{}", it.failpoint()) });
        self.cluster.start_agent();
        self.fired_at_agent(it);
    }

    fn receiver(&mut self, it: &Try) {
        self.restart_receiver(it);
        self.fill();
        self.fired_at_receiver(it);
    }

    fn asked(&mut self, it: &Try) {
        self.restart_receiver(it);
        self.load().wait_for(20);
        self.cluster.kill_agent();
        self.cluster.start_agent();
        self.fired_at_receiver(it);
    }

    fn left_over(&mut self, it: &Try) {
        self.cluster.stop_agent();
        self.restart_receiver(it);
        self.cluster.failpoints.1 = Some(Step::BaseFrameAcknowledged.name().to_owned());
        self.cluster.start_agent();
        self.load().wait_for(20);
        self.fill();
        self.cluster.wait_agent_killed();
        self.cluster.start_agent();
        self.fired_at_receiver(it);
    }

    fn restart_receiver(&mut self, it: &Try) {
        self.cluster.kill_receiver();
        self.cluster.failpoints.0 = Some(it.failpoint());
        self.cluster.start_receiver();
    }

    /// The receiver stands still until the agent only tracks what changes, and some has; or the agent has ended before.
    fn fill(&mut self) {
        let Self { cluster, load, .. } = self;
        let (load, mut since) = (load.as_ref().unwrap(), None);
        cluster.receiver.as_ref().unwrap().signal(Signal::STOP);
        let tracks = || {
            if cluster.agent.as_mut().unwrap().has_ended() {
                return Some(());
            }
            let is_tracking = cluster.look_at_agent().is_some_and(|status| status["state"] == "tracking");
            let begun = load.begun();
            let since = is_tracking.then(|| *since.get_or_insert(begun))?;
            (begun >= since + 200).then_some(())
        };
        wait_for("tracking", tracks, String::new);
        cluster.receiver.as_ref().unwrap().signal(Signal::CONT);
    }

    /// The agent has ended, and is started again; or goes on, for only the step failed.
    fn fired_at_agent(&mut self, it: &Try) {
        if it.act == Act::Eio {
            return it.wait_said(&self.cluster);
        }
        self.cluster.wait_agent_killed();
        self.cluster.start_agent();
    }

    fn fired_at_receiver(&mut self, it: &Try) {
        it.wait_fired_at_receiver(&mut self.cluster);
        if it.act == Act::Kill {
            self.cluster.start_receiver();
        }
    }

    /// Everything is live again by itself: the newest point, instants, gaps; and at rest the source.
    fn judge(&mut self) {
        self.cluster.settle();
        let Self { cluster, load, watch, rng, .. } = self;
        let load = load.take().unwrap();
        self.judged += judge_window(cluster, watch, rng, INSTANTS, || load.history());
        let gap = *cluster.closed_gaps().last().unwrap();
        for instant in [gap.from, gap.to.unwrap()] {
            assert_legal(cluster, instant, || load.history());
            self.judged += 1;
        }
        self.load = Some(load.paused(|history| _ = assert_at_rest(cluster, history)));
    }

    fn end(mut self, lane: u64) {
        let (history, stats) = self.load.take().unwrap().stop();
        assert_at_rest(&mut self.cluster, history);
        self.watch.check();
        let gaps = self.cluster.gaps().len();
        println!("lane {lane}: {} instants judged, {gaps} gaps, load {}", self.judged, stats.to_json());
        self.cluster.stop_agent();
        self.cluster.stop_receiver();
    }
}

impl Drop for Story {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("while trying {:?}", self.trying);
        }
    }
}
