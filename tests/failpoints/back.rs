//! Every named step of a live rollback: the process ends there, or the step fails. What had begun is carried out by itself, what had not leaves
//! the source as it was; and then it is undone.

use std::sync::Mutex;

use journal::failpoint::Step;
use oracle::{Volume, fill_initial};

use super::common::cluster::{Cluster, assert_equal, random};
use super::{Act, Try, Way, chosen, ways};

const SIZE: u64 = 4 << 20;
const LANES: u64 = 4;

/// Whether the rollback has begun for good when the step was done, or failed.
fn is_begun(it: &Try) -> bool {
    use Step as S;
    !matches!(it.step, S::RollbackShut | S::RollbackMarked | S::RollbackPlanned | S::RollbackNoting)
}

fn tries() -> Vec<Try> {
    let chosen = chosen();
    let is_chosen = |step: &Step| chosen.as_ref().is_none_or(|names| names.split(',').any(|name| name == step.name()));
    let mut all = Vec::new();
    for &step in Step::ALL.iter().filter(|step| is_chosen(step)) {
        for &way in ways(step).iter().filter(|way| way.goes_back()) {
            let passages: &[u32] = match step {
                Step::RollbackBlocksSent | Step::RollbackWriting | Step::RollbackWritten => &[1, 3],
                _ => &[1],
            };
            all.extend(passages.iter().map(|&passage| Try { step, way, act: Act::Kill, passage }));
            if step.may_fail() {
                all.push(Try { step, way, act: Act::Eio, passage: 1 });
            }
        }
    }
    all
}

#[test]
fn every_step_of_a_live_rollback_may_be_the_last_one() {
    let tries = Mutex::new(tries().into_iter());
    let fired: Mutex<Vec<Try>> = Mutex::default();
    std::thread::scope(|scope| {
        for lane in 1..=LANES {
            let (tries, fired) = (&tries, &fired);
            scope.spawn(move || {
                let mut story = Back::begin(lane);
                loop {
                    let Some(next) = tries.lock().unwrap().next() else { break };
                    story.trying = Some(next);
                    story.go(&next);
                    fired.lock().unwrap().push(next);
                }
                story.trying = None;
                story.cluster.stop_agent();
                story.cluster.stop_receiver();
            });
        }
    });
    let fired = fired.into_inner().unwrap();
    let is_ours = |step: &&Step| ways(**step).iter().any(|way| way.goes_back());
    let never: Vec<_> =
        Step::ALL.iter().filter(is_ours).filter(|step| !fired.iter().any(|it| it.step == **step)).collect();
    assert!(never.is_empty() || chosen().is_some(), "never fired: {never:?}");
    let failed = fired.iter().filter(|tried| tried.act == Act::Eio).count();
    println!("a live rollback: {} times a process ended, {failed} times a step failed", fired.len() - failed);
}

/// A volume that held something else at a mark.
struct Back {
    trying: Option<Try>,
    cluster: Cluster,
    then: Vec<u8>,
    now: Vec<u8>,
}

impl Back {
    fn begin(seed: u64) -> Self {
        let mut cluster = Cluster::new();
        fill_initial(&cluster.source, &Volume::new(seed, SIZE)).unwrap();
        cluster.begin();
        cluster.settle();
        cluster.mark("then");
        let then = cluster.content();
        // Several messages: data, and zeroes.
        for at in 0..4 {
            cluster.write(at << 20, &random(seed + at, 128 << 10));
        }
        cluster.settle();
        let now = cluster.content();
        Self { trying: None, cluster, then, now }
    }

    fn go(&mut self, it: &Try) {
        let Self { cluster, then, now, .. } = self;
        if it.way == Way::BackAtReceiver {
            cluster.kill_receiver();
            cluster.failpoints.0 = Some(it.failpoint());
            cluster.start_receiver();
        } else {
            cluster.stop_agent();
            cluster.failpoints.1 = Some(it.failpoint());
            cluster.start_agent();
        }
        cluster.settle();
        cluster.allow();
        let call = cluster.go_back(&["--at", "mark:then"]);
        match (it.act, it.way) {
            (Act::Eio, _) => assert_eq!(call.exit, 1, "{call:?}"),
            (Act::Kill, Way::BackAtReceiver) => {
                assert_eq!(call.exit, 16, "{call:?}");
                cluster.wait_receiver_killed();
                cluster.start_receiver();
            }
            (Act::Kill, _) => {
                assert_eq!(call.exit, 16, "{call:?}");
                cluster.wait_agent_killed();
                cluster.start_agent();
            }
        }
        cluster.wait_over();
        let expect = if is_begun(it) { &*then } else { &*now };
        assert_equal(&cluster.content(), expect);
        assert_equal(&cluster.image("latest"), expect);
        assert_equal(&cluster.image("mark:then"), then);
        cluster.client().disconnect().unwrap();
        if is_begun(it) {
            cluster.allow();
            // The client that came to look is being let go.
            let undone = || (cluster.go_back(&["--undo"]).exit == 0).then_some(());
            super::wait_for("undone", undone, || cluster.words());
        }
        assert_equal(&cluster.content(), now);
        assert_equal(&cluster.image("latest"), now);
        cluster.assert_runs();
    }
}

impl Drop for Back {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("while trying {:?}", self.trying);
        }
    }
}
