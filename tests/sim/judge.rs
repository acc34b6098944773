//! What is always true of the receiver: every point offered is a legal crash state, what was promised is there, gaps cover the rest.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use journal::disk::sim::Rng;
use journal::frame::Frame;
use journal::store::{Version, When};
use journal::types::{ChainHead, EpochId, Head, Seq};
use oracle::{History, Micros};

use crate::client::Client;
use crate::layout::Layout;

/// Points looked at each time.
const SAMPLES: usize = 3;

#[derive(Debug, Default)]
pub(crate) struct Judge {
    /// Every frame of the order that was ever handed to the link, by the chain head after it.
    frames: HashMap<ChainHead, Sent>,
    /// Which run of the agent an epoch is.
    runs: HashMap<EpochId, usize>,
    /// The furthest head that the agent was told is durable.
    promised: Option<Head>,
    marks: Vec<Mark>,
    /// Points that were offered, at or below what was promised.
    offered: BTreeSet<Seq>,
    pub(crate) points_judged: u64,
    pub(crate) promises: u64,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    end: Head,
    first: Seq,
    prev: ChainHead,
}

#[derive(Debug)]
struct Mark {
    name: String,
    seq: Seq,
    epoch: EpochId,
    is_promised: bool,
}

/// A part of the receiver's order, of one run: its first and last place.
#[derive(Clone, Copy, Debug)]
struct Span {
    run: usize,
    first: Seq,
    last: Seq,
}

impl Judge {
    pub(crate) fn run_begins(&mut self, epoch: EpochId, run: usize) {
        self.runs.insert(epoch, run);
    }

    pub(crate) fn sent(&mut self, frame: &Frame) {
        let sent = Sent { end: frame.end().unwrap(), first: frame.first_seq().unwrap(), prev: frame.header().prev };
        self.frames.insert(frame.head(), sent);
    }

    pub(crate) fn marked(&mut self, name: String, seq: Seq, epoch: EpochId) {
        self.marks.push(Mark { name, seq, epoch, is_promised: false });
    }

    /// The agent was told that all up to `head` is durable.
    pub(crate) fn promised(&mut self, head: Head) {
        assert!(self.frames.contains_key(&head.chain), "{head:?} is called durable, and was never sent");
        if let Some(before) = self.promised {
            let line = self.line(head);
            assert!(
                line.contains_key(&before.seq.number()),
                "{head:?} is another order than {before:?}, which is promised"
            );
        }
        self.promises += 1;
        self.promised = Some(head);
        let covered = self.marks.iter_mut().filter(|mark| mark.epoch == head.epoch && mark.seq <= head.seq);
        covered.for_each(|mark| mark.is_promised = true);
    }

    pub(crate) fn marks(&self) -> u64 {
        self.marks.iter().filter(|mark| mark.is_promised).count() as u64
    }

    /// Every frame from the first to `head`, by its last place.
    fn line(&self, head: Head) -> BTreeMap<u64, Sent> {
        let mut line = BTreeMap::new();
        let mut chain = head.chain;
        while chain != ChainHead::START {
            let sent = *self
                .frames
                .get(&chain)
                .unwrap_or_else(|| panic!("up to {head:?} there is a frame that was never sent"));
            line.insert(sent.end.seq.number(), sent);
            chain = sent.prev;
        }
        line
    }

    /// Looks at what the receiver offers now.
    pub(crate) fn look(&mut self, version: &Arc<Version>, client: &Client, rng: &mut Rng) {
        let Some(head) = version.head() else {
            assert!(self.promised.is_none(), "nothing is there, and {:?} is promised", self.promised);
            return;
        };
        let line = self.line(head);
        if let Some(promised) = self.promised {
            let there = line.get(&promised.seq.number()).map(|sent| sent.end);
            assert_eq!(there, Some(promised), "what was promised is gone; the head is {head:?}");
        }
        for mark in self.marks.iter().filter(|mark| mark.is_promised) {
            let found = version.find(&When::Mark(mark.name.clone())).unwrap();
            assert_eq!(found.as_ref().map(|point| point.seq), Ok(mark.seq), "the mark {} is promised", mark.name);
        }
        let mut spans: Vec<Span> = Vec::new();
        for sent in line.values() {
            let run = self.runs[&sent.end.epoch];
            match spans.last_mut().filter(|span| span.run == run) {
                Some(span) => span.last = sent.end.seq,
                None => spans.push(Span { run, first: sent.first, last: sent.end.seq }),
            }
        }
        for seq in self.samples(version, head, rng) {
            let found = version.find(&When::Seq(seq)).unwrap();
            if found.is_err() {
                assert!(!self.offered.contains(&seq), "{seq} was offered as a point, and is none any more");
                covered_by_gap(version, seq);
                continue;
            }
            let span = spans.iter().find(|span| span.first <= seq && seq <= span.last).unwrap();
            self.points_judged += 1;
            judge(version, client, seq, span.run);
            if self.promised.is_some_and(|promised| seq <= promised.seq) {
                self.offered.insert(seq);
            }
        }
    }

    /// Some places, the ends of stretches, and points that were offered before.
    fn samples(&self, version: &Version, head: Head, rng: &mut Rng) -> BTreeSet<Seq> {
        let mut samples: BTreeSet<Seq> = (0..SAMPLES).map(|_| Seq::FIRST.after(rng.below(head.seq.number()))).collect();
        let stretches = version.timeline().stretches();
        if !stretches.is_empty() {
            let stretch = stretches[rng.below_len(stretches.len())];
            samples.extend(
                [Some(stretch.from), stretch.to, stretch.from.before(), stretch.to.map(|to| to.after(1))]
                    .into_iter()
                    .flatten(),
            );
        }
        samples.extend(self.offered.iter().nth(rng.below_len(self.offered.len() + 1)));
        samples.insert(head.seq);
        samples.retain(|seq| *seq <= head.seq);
        samples
    }

    /// The newest point is the volume as it is now.
    pub(crate) fn is_all_there(&mut self, version: &Arc<Version>, client: &Client, run: usize) {
        let newest = version.find(&When::Latest).unwrap().expect("all is quiet and healed, and there is no point");
        assert_eq!(Some(newest.seq), version.head().map(|head| head.seq), "the newest point is not the last record");
        let image = read(version, newest.seq, client, run);
        let differs = image.iter().zip(&client.image()).position(|(one, other)| one != other);
        assert_eq!(differs, None, "the newest point is not what the sources hold, from this byte on");
        let last = version.timeline().gaps().last();
        assert!(last.is_none_or(|(.., end)| end.is_some()), "a gap is open: {last:?}");
    }
}

/// All windows in a row, and that the volumes have the size that the order says.
fn read(version: &Arc<Version>, seq: Seq, client: &Client, run: usize) -> Vec<u8> {
    let view = version.view(seq).unwrap();
    let Layout { windows, .. } = &client.layout;
    let mut row = Vec::new();
    for window in windows {
        let size = view.volumes().iter().find(|info| info.number == window.volume).unwrap().size;
        let expected = client.size_at(run, seq, window.volume);
        assert_eq!(Some(size), expected, "the size of volume {} at {seq} of run {run}", window.volume);
        let start = row.len();
        row.resize(start + window.bytes as usize, 0);
        let there = &mut row[start..][..window.within(size) as usize];
        if !there.is_empty() {
            view.read(window.volume, window.at, there).unwrap();
        }
    }
    row
}

/// What is not a point is before the first one, or in a gap.
fn covered_by_gap(version: &Version, seq: Seq) {
    let first = version.timeline().stretches().first().map(|stretch| stretch.from);
    if first.is_none_or(|first| seq < first) {
        return;
    }
    let gaps = version.gaps().unwrap();
    let is_covered = gaps.iter().any(|gap| gap.from <= seq && gap.to.is_none_or(|(to, _)| seq < to));
    assert!(is_covered, "{seq} is neither a point nor in a gap: {gaps:?}");
}

/// Whether the view at `seq` is the volume as of then: what the oracle calls legal, and to the byte what the clients remember.
fn judge(version: &Arc<Version>, client: &Client, seq: Seq, run: usize) {
    let image = read(version, seq, client, run);
    let (begun, mut expected) = client.runs[run].clone();
    let mut at = begun;
    for done in client.done.iter().filter(|done| done.run == run && done.after <= Some(seq)) {
        let place = done.row as usize;
        expected[place..place + done.data.len()].copy_from_slice(&done.data);
        at = done.op.and_then(|op| op.acked.or(op.settled)).unwrap_or(at).max(at);
    }
    let ops = client.done.iter().filter(|done| done.run <= run).filter_map(|done| {
        let is_doubted = done.doubted_from.is_some_and(|from| from <= run);
        let op = done.op?;
        Some(oracle::Op { acked: op.acked.filter(|_| !is_doubted), ..op })
    });
    let history = History::new(client.volume, ops.collect());
    let mut source = |offset: u64, buf: &mut [u8]| {
        buf.copy_from_slice(&image[offset as usize..][..buf.len()]);
        Ok(())
    };
    let verdict = history.judge(Micros(at.0), &mut source).unwrap();
    assert!(verdict.is_legal(), "the point {seq} of run {run} is no state the volume could have been in: {verdict}");
    let differs = image.iter().zip(&expected).position(|(one, other)| one != other);
    assert_eq!(
        differs, None,
        "the point {seq} of run {run} is not what clients were answered by then, from this byte on"
    );
}
