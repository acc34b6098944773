//! Instants next to what happened: a few microseconds after an acknowledgement the write is in, just before it was submitted it
//! is out. Thousands of them, with several connections at once, under load, and across kills of the agent.

#![allow(clippy::unwrap_used, reason = "a test ends where it is surprised")]

mod common;

use common::cluster::{Cluster, at};
use common::judged::{Load, assert_gap, is_in_gap, judge};
use oracle::{History, Kind, Op, Rng, SizeShare, Volume, Workload, fill_initial};

/// Small, so that the whole of it can be judged at every instant.
const VOLUME_BYTES: u64 = 1 << 20;
/// How often there is a look at what happened up to then.
const LOOKS: u32 = 12;
/// Operations in each; two instants for each of them.
const OPERATIONS: u32 = 140;
/// How many are begun between two looks.
const OPERATIONS_BETWEEN: usize = 500;
/// The agent is killed before every so many looks.
const KILLED_EVERY: u32 = 4;
const INSTANTS_MIN: u32 = 3000;

#[test]
fn a_write_is_in_after_its_answer_and_out_before_it_is_sent() {
    let mut cluster = Cluster::new();
    let volume = Volume::new(42, VOLUME_BYTES);
    fill_initial(&cluster.source, &volume).unwrap();
    cluster.begin();
    cluster.settle();
    let load = Load::start(volume, workload(&cluster));
    let mut rng = Rng::new(42);
    let mut instants = Instants::default();
    for look in 1..=LOOKS {
        if look % KILLED_EVERY == 0 {
            cluster.kill_agent();
            cluster.start_agent();
            cluster.settle();
        }
        // What was answered before is durable, and the load goes on.
        load.wait_for(OPERATIONS_BETWEEN);
        cluster.wait_durable();
        instants.look(&cluster, &load.history(), &mut rng);
    }
    let (history, _) = load.stop();
    cluster.settle();
    instants.look(&cluster, &history, &mut rng);
    let Instants { after, before, refused, concurrent } = instants;
    println!(
        "{after} instants after an answer, {before} before a request, all right; {concurrent} of them with others in flight; \
         {refused} in gaps refused; {} operations, {} gaps",
        history.ops().len(),
        cluster.gaps().len(),
    );
    assert!(after + before >= INSTANTS_MIN && concurrent > INSTANTS_MIN / 10, "too few");
    assert_eq!(cluster.gaps().len(), 1 + usize::try_from(LOOKS / KILLED_EVERY).unwrap());
}

/// Six connections, as fast as they can; operations do not overlap.
fn workload(cluster: &Cluster) -> Workload {
    let sizes = [(512, 1), (4096, 4), (16_384, 1), (131_072, 1)];
    Workload {
        connections: 6,
        sizes: sizes.map(|(bytes, weight)| SizeShare { bytes, weight }).to_vec(),
        rate: Some(3000),
        flush_every: Some(100),
        fua_percent: 2,
        zero_percent: 5,
        trim_percent: 5,
        reconnect: Some(common::PATIENCE),
        ..Workload::new(&cluster.tap(), "")
    }
}

#[derive(Default)]
struct Instants {
    after: u32,
    before: u32,
    refused: u32,
    concurrent: u32,
}

impl Instants {
    /// Instants next to random operations of the whole history.
    fn look(&mut self, cluster: &Cluster, history: &History, rng: &mut Rng) {
        let (from, to) = cluster.window();
        let gaps = cluster.gaps();
        let answered: Vec<&Op> = history
            .ops()
            .iter()
            .filter(|op| op.kind != Kind::Flush && op.acked.is_some_and(|ack| ack.0 < to))
            .collect();
        for _ in 0..OPERATIONS {
            let op = answered[usize::try_from(rng.below(answered.len() as u64)).unwrap()];
            let (after, before) = (op.acked.unwrap().0 + rng.below(4), op.submitted.0 - 1 - rng.below(3));
            for (instant, count) in [(after, &mut self.after), (before, &mut self.before)] {
                if instant < from || instant > to {
                    continue;
                }
                if is_in_gap(instant, &gaps) {
                    assert_gap(cluster, instant);
                    self.refused += 1;
                    continue;
                }
                let verdict = judge(history, instant, &cluster.image(&at(instant)));
                assert!(verdict.is_legal(), "{} is wrong, next to {op}: {verdict}", at(instant));
                *count += 1;
                self.concurrent += u32::from(verdict.doubtful > 0);
            }
        }
    }
}
