//! Random histories, and what any view of them has to hold: told by a naive model that shares no code with the store.

use crate::codec::*;
use crate::disk::sim::Rng;
use crate::frame::{Frame, FrameBuilder, FrameSeal};
use crate::types::*;

pub(super) const GROUP: GroupId = GroupId([7; 16]);
pub(super) const VOLUME: VolumeNo = VolumeNo(3);
pub(super) const SECTORS: u64 = 96;

/// What is done to a store, in order.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Vec<Frame>),
    Sync,
    Base(ResyncId, Vec<Frame>),
    SyncBase(ResyncId),
    DropUnsealed(Option<ResyncId>),
    /// Close without a word and open again.
    Reopen,
    /// A clean stop, and open again.
    Stop,
}

/// One version of one extent in the model.
#[derive(Clone, Debug)]
struct Version {
    /// (`Seq` or `as_of`, 0 or base frame number).
    rank: (u64, u64),
    /// Base: which.
    resync: Option<ResyncId>,
    extent: Extent,
    data: Vec<u8>,
}

/// A history under construction, and the model of it.
pub(super) struct History {
    rng: Rng,
    builder: FrameBuilder,
    epoch: EpochId,
    next_seq: u64,
    next_frame: Option<FrameNo>,
    chain: ChainHead,
    time: u64,
    /// Microseconds between two records, less than this.
    pace: u64,
    versions: Vec<Version>,
    /// Sealed bases and where.
    sealed: Vec<(ResyncId, u64)>,
    /// Chain head after each frame, by its last `Seq`.
    pub(super) heads: Vec<(Seq, ChainHead)>,
    pub(super) steps: Vec<Step>,
}

impl History {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            builder: FrameBuilder::new(),
            epoch: EpochId([1; 16]),
            next_seq: 1,
            next_frame: Some(FrameNo::FIRST),
            chain: ChainHead::START,
            time: 1000,
            pace: 3,
            versions: Vec::new(),
            sealed: Vec::new(),
            heads: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// `rounds` of whatever the dice say.
    pub(super) fn random(seed: u64, rounds: u64) -> Self {
        Self::new(seed).played(rounds)
    }

    /// The same, with so many microseconds between two records at most.
    pub(super) fn slow(seed: u64, rounds: u64, pace: u64) -> Self {
        Self { pace, ..Self::new(seed) }.played(rounds)
    }

    fn played(self, rounds: u64) -> Self {
        let mut history = self;
        let first = history.begin(None);
        history.steps.push(Step::Append(vec![first]));
        for _ in 0..rounds {
            history.round();
        }
        history.steps.push(Step::Sync);
        history
    }

    fn round(&mut self) {
        match self.rng.below(12) {
            0..6 => {
                let frames = (0..1 + self.rng.below(3)).map(|_| self.frame()).collect();
                self.steps.push(Step::Append(frames));
            }
            6..9 => self.steps.push(Step::Sync),
            9 => self.base(),
            10 => {
                let resume = if self.rng.chance(1, 2) { Step::Reopen } else { Step::Stop };
                self.steps.extend([Step::Sync, resume]);
                let parent = (self.epoch, Seq::new(self.next_seq - 1), self.chain);
                let begin = self.begin(Some(parent));
                self.steps.push(Step::Append(vec![begin]));
            }
            _ => {
                // A base that nobody seals.
                let (resync, frames) = self.base_frames();
                self.steps.extend([Step::Base(resync, frames), Step::DropUnsealed(None)]);
                self.versions.retain(|version| version.resync != Some(resync));
            }
        }
    }

    /// A base: some frames, made durable, sealed in the order, with live frames in between.
    pub(super) fn base(&mut self) {
        let (resync, frames) = self.base_frames();
        let last = frames.last().map(|frame| (frame.head(), frame.header().number.number()));
        self.steps.push(Step::Base(resync, frames));
        if self.rng.chance(1, 2) {
            let frame = self.frame();
            self.steps.push(Step::Append(vec![frame]));
        }
        self.steps.push(Step::SyncBase(resync));
        let (head, frames) = last.unwrap();
        self.sealed.push((resync, self.next_seq));
        let frame = self.live(vec![Body::Sealed(Sealed { resync, head, frames })]);
        self.steps.push(Step::Append(vec![frame]));
    }

    fn base_frames(&mut self) -> (ResyncId, Vec<Frame>) {
        let mut id = [0; 16];
        self.rng.fill(&mut id);
        let resync = ResyncId(id);
        let (mut chain, mut number, mut frames) = (ChainHead::START, None, Vec::new());
        for _ in 0..1 + self.rng.below(4) {
            let as_of = self.next_seq - 1;
            let no = FrameNo::following(number);
            let mut contents: Vec<_> = (0..1 + self.rng.below(3)).map(|_| self.content()).collect();
            contents.sort_by_key(|(extent, _)| *extent);
            contents.dedup_by(|b, a| b.0.start() < a.0.end());
            for (extent, data) in contents {
                self.builder.write(WallTime(self.time), VOLUME, extent, &data);
                self.versions.push(Version { rank: (as_of, no.number()), resync: Some(resync), extent, data });
            }
            let seal = self.seal();
            let frame = self.builder.finish(&FrameSeal {
                kind: FrameKind::Base { resync, as_of: Seq::new(as_of) },
                number: no,
                prev: chain,
                ..seal
            });
            (chain, number) = (frame.head(), Some(no));
            frames.push(frame);
            if self.rng.chance(1, 3) {
                let live = self.frame();
                self.steps.push(Step::Append(vec![live]));
            }
        }
        (resync, frames)
    }

    fn begin(&mut self, parent: Option<(EpochId, Option<Seq>, ChainHead)>) -> Frame {
        let mut epoch = [0; 16];
        self.rng.fill(&mut epoch);
        self.epoch = EpochId(epoch);
        let begin = match parent {
            Some((epoch, seq, head)) => EpochBegin { parent: Some(epoch), seq, head, continues: true },
            None => EpochBegin::FIRST,
        };
        let mut bodies = vec![Body::EpochBegin(begin)];
        if parent.is_none() {
            let add = VolumeAdd { uuid: VolumeUuid([9; 16]), name: "v".into() };
            bodies.push(Body::VolumeAdd { volume: VOLUME, size: Sectors::new(SECTORS).unwrap(), add });
        }
        self.live(bodies)
    }

    fn content(&mut self) -> (Extent, Vec<u8>) {
        let count = 1 + if self.rng.chance(1, 6) { self.rng.below(40) } else { self.rng.below(9) };
        let start = self.rng.below(SECTORS - count + 1);
        let mut data = vec![0; usize::try_from(count * 512).unwrap()];
        match self.rng.below(3) {
            0 => data.fill(u8::try_from(self.rng.below(256)).unwrap()), // compresses
            _ => self.rng.fill(&mut data),
        }
        (Extent::new(Sector::new(start).unwrap(), Sectors::new(count).unwrap()).unwrap(), data)
    }

    /// Slow ones have gaps and locked marks, too.
    fn is_slow(&self) -> bool {
        self.pace > 3
    }

    /// A frame of one to four random records.
    fn frame(&mut self) -> Frame {
        for _ in 0..1 + self.rng.below(4) {
            let (extent, data) = self.content();
            match self.rng.below(10) {
                0 => self.push(Body::Flush),
                1 => self.push(Body::Discard { volume: VOLUME, extent }),
                2 => self.push(Body::Pattern { volume: VOLUME, extent, fill: *data.first_chunk().unwrap() }),
                3 => {
                    let name = format!("m{}", self.rng.below(5));
                    let locked = self.is_slow() && self.rng.chance(1, 2);
                    let locked_until = locked.then(|| WallTime(self.time + self.rng.below(100 * self.pace)));
                    self.push(Body::Mark(Mark { locked_until, name }));
                }
                4 if self.is_slow() && self.rng.chance(1, 8) => {
                    self.push(Body::Gap(Gap { reason: GapReason::SourceError, text: "a gap".into() }));
                }
                _ => self.write(extent, data),
            }
        }
        self.close()
    }

    /// A frame of these.
    pub(super) fn live(&mut self, bodies: Vec<Body>) -> Frame {
        bodies.into_iter().for_each(|body| self.push(body));
        self.close()
    }

    pub(super) fn write(&mut self, extent: Extent, data: Vec<u8>) {
        self.builder.write(WallTime(self.time), VOLUME, extent, &data);
        self.record(Some((extent, data)));
    }

    fn push(&mut self, body: Body) {
        let bytes = |extent: &Extent| usize::try_from(extent.bytes()).unwrap();
        let content = match &body {
            Body::Discard { extent, .. } => Some((*extent, vec![0; bytes(extent)])),
            Body::Pattern { extent, fill, .. } => {
                Some((*extent, fill.iter().copied().cycle().take(bytes(extent)).collect()))
            }
            _ => None,
        };
        self.builder.push(WallTime(self.time), body);
        self.record(content);
    }

    fn record(&mut self, content: Option<(Extent, Vec<u8>)>) {
        let rank = (self.next_seq, 0);
        self.versions.extend(content.map(|(extent, data)| Version { rank, resync: None, extent, data }));
        self.next_seq += 1;
        self.time += self.rng.below(self.pace);
    }

    fn close(&mut self) -> Frame {
        let first = Seq::new(self.next_seq - self.builder.records() as u64).unwrap();
        let number = self.next_frame.unwrap();
        let seal = FrameSeal { kind: FrameKind::Live { first }, number, prev: self.chain, ..self.seal() };
        let frame = self.builder.finish(&seal);
        self.chain = frame.head();
        self.next_frame = Some(FrameNo::following(Some(number)));
        self.heads.push((frame.last_seq().unwrap(), frame.head()));
        frame
    }

    fn seal(&mut self) -> FrameSeal {
        FrameSeal {
            kind: FrameKind::Live { first: Seq::FIRST },
            group: GROUP,
            epoch: self.epoch,
            number: FrameNo::FIRST,
            prev: ChainHead::START,
            durable: None,
            wall: WallTime(self.time),
            boottime: WallTime(self.time),
            boot: BootId([5; 16]),
            compress: self.rng.chance(1, 2),
        }
    }

    /// The first frame of the history and random ones behind it.
    pub(super) fn frames(&mut self, count: usize) -> Vec<Frame> {
        let mut frames = vec![self.begin(None)];
        frames.extend((1..count).map(|_| self.frame()));
        frames
    }

    /// Random frames behind what there is.
    pub(super) fn frames_more(&mut self, count: usize) -> Vec<Frame> {
        (0..count).map(|_| self.frame()).collect()
    }

    /// A history with points, and long after it the beginning of another epoch.
    pub(super) fn interrupted(&mut self, continues: bool) -> Vec<Frame> {
        let mut frames = self.frames(3);
        frames.push(self.live(vec![Body::Sealed(Sealed {
            resync: ResyncId([4; 16]),
            head: ChainHead::START,
            frames: 0,
        })]));
        frames.push(self.frame());
        let begin =
            EpochBegin { parent: Some(self.epoch), seq: Seq::new(self.next_seq - 1), head: self.chain, continues };
        self.epoch = EpochId([3; 16]);
        self.time += 10_000;
        frames.push(self.live(vec![Body::EpochBegin(begin)]));
        frames
    }

    /// What the volume holds as of `seq`.
    pub(super) fn image(&self, seq: Seq) -> Vec<u8> {
        let counts = |version: &&Version| match version.resync {
            None => version.rank.0 <= seq.number(),
            Some(resync) => self.sealed.iter().any(|&(id, at)| id == resync && at <= seq.number()),
        };
        let mut seen: Vec<&Version> = self.versions.iter().filter(counts).collect();
        seen.sort_by_key(|version| version.rank);
        let mut image = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        for version in seen {
            let at = usize::try_from(version.extent.byte()).unwrap();
            image[at..at + version.data.len()].copy_from_slice(&version.data);
        }
        image
    }

    /// The last `Seq` of the order.
    pub(super) fn last(&self) -> Seq {
        Seq::new(self.next_seq - 1).unwrap()
    }
}
