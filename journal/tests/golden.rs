//! Version 1 on disk, held by files: what was written once is read for ever, and the same history makes the same bytes.
//!
//! `BACKSPOOL_WRITE_FIXTURES=1` writes the files anew. That is right only before a release, or for a new version of the format, whose files
//! go beside these.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use journal::codec::*;
use journal::disk::FileDisk;
use journal::frame::{Frame, FrameBuilder, FrameSeal};
use journal::index::RunNo;
use journal::store::{Merger, Merging, Store, When};
use journal::types::*;

const GROUP: GroupId = GroupId([0x67; 16]);
const EPOCH: EpochId = EpochId([0xe1; 16]);
const RESYNC: ResyncId = ResyncId([0xba; 16]);
const DISK: VolumeNo = VolumeNo(0);
const LOGS: VolumeNo = VolumeNo(1);
const SECTORS: u64 = 100;
const SEGMENT_BYTES: u64 = 12 * 1024;

/// What the fixture says when it is opened, written down here once.
const CHAIN: &str = include_str!("../../tests/fixtures/v1/chain-head");

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn fixture() -> PathBuf {
    root().join("tests/fixtures/v1/store")
}

/// Salts count up: nothing else of a store is random.
fn entropy() -> [u8; 16] {
    thread_local!(static NEXT: Cell<u8> = const { Cell::new(1) });
    let n = NEXT.get();
    NEXT.set(n + 1);
    [n; 16]
}

fn extent(start: u64, count: u64) -> Extent {
    Extent::new(Sector::new(start).unwrap(), Sectors::new(count).unwrap()).unwrap()
}

/// Bytes that do not compress, the same everywhere.
fn noise(seed: u64, count: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..count * 512).map(|_| next()).collect()
}

/// Writes the history, and keeps what each volume holds after each record.
struct Story {
    builder: FrameBuilder,
    next: u64,
    chain: ChainHead,
    number: Option<FrameNo>,
    images: Vec<[Vec<u8>; 2]>,
}

impl Story {
    fn new() -> Self {
        let empty = vec![0; usize::try_from(SECTORS * 512).unwrap()];
        Self {
            builder: FrameBuilder::new(),
            next: 1,
            chain: ChainHead::START,
            number: None,
            images: vec![[empty.clone(), empty]],
        }
    }

    fn time(&self) -> WallTime {
        WallTime(1_700_000_000_000_000 + self.next * 1_000)
    }

    fn record(&mut self, volume: VolumeNo, change: Option<(Extent, Vec<u8>)>) {
        let mut image = self.images[self.images.len() - 1].clone();
        if let Some((extent, data)) = change {
            let at = usize::try_from(extent.byte()).unwrap();
            image[usize::try_from(volume.0).unwrap()][at..at + data.len()].copy_from_slice(&data);
        }
        self.images.push(image);
        self.next += 1;
    }

    fn write(&mut self, volume: VolumeNo, start: u64, data: Vec<u8>) {
        let extent = extent(start, data.len() as u64 / 512);
        self.builder.write(self.time(), volume, extent, &data);
        self.record(volume, Some((extent, data)));
    }

    fn push(&mut self, body: Body) {
        let fill = |extent: Extent, fill: [u8; 8]| {
            (extent, fill.iter().copied().cycle().take(usize::try_from(extent.bytes()).unwrap()).collect())
        };
        let (volume, change) = match &body {
            Body::Pattern { volume, extent, fill: bytes } => (*volume, Some(fill(*extent, *bytes))),
            Body::Discard { volume, extent } => (*volume, Some(fill(*extent, [0; 8]))),
            _ => (DISK, None),
        };
        self.builder.push(self.time(), body);
        self.record(volume, change);
    }

    fn seal(&self, kind: FrameKind, number: FrameNo, prev: ChainHead, compress: bool) -> FrameSeal {
        FrameSeal {
            kind,
            group: GROUP,
            epoch: EPOCH,
            number,
            prev,
            durable: Seq::new(self.next / 3),
            wall: self.time(),
            boottime: WallTime(self.next * 1_000),
            boot: BootId([0xb0; 16]),
            compress,
        }
    }

    fn frame(&mut self, compress: bool) -> Frame {
        let first = Seq::new(self.next - self.builder.records() as u64).unwrap();
        let number = FrameNo::following(self.number);
        let seal = self.seal(FrameKind::Live { first }, number, self.chain, compress);
        let frame = self.builder.finish(&seal);
        (self.chain, self.number) = (frame.head(), Some(number));
        frame
    }

    /// Two frames read before anything was written: what they hold is below every live write.
    fn base(&mut self) -> Vec<Frame> {
        let (mut prev, mut frames) = (ChainHead::START, Vec::new());
        let as_of = Seq::new(self.next - 1);
        for (number, start) in [(1, 0), (2, 50)] {
            let data = noise(number, 10);
            self.builder.write(self.time(), DISK, extent(start, 10), &data);
            self.builder
                .push(self.time(), Body::Pattern { volume: DISK, extent: extent(start + 10, 4), fill: *b"backsp00" });
            let image = &mut self.images.last_mut().unwrap()[0];
            let at = usize::try_from(start * 512).unwrap();
            image[at..at + data.len()].copy_from_slice(&data);
            image[at + data.len()..at + data.len() + 2048].copy_from_slice(&b"backsp00".repeat(256));
            let kind = FrameKind::Base { resync: RESYNC, as_of };
            let seal = self.seal(kind, FrameNo::new(number).unwrap(), prev, false);
            let frame = self.builder.finish(&seal);
            prev = frame.head();
            frames.push(frame);
        }

        frames
    }
}

/// Writes the store of the fixture into `dir`.
fn build(dir: &Path) -> Story {
    let disk = Arc::new(FileDisk::create(dir).unwrap());
    let (mut store, _) = Store::open(disk, GROUP, SEGMENT_BYTES, entropy).unwrap();
    let (session, received) = (SessionId(0x5e), WallTime(1_700_000_001_000_000));
    let mut story = Story::new();
    story.push(Body::EpochBegin(EpochBegin::FIRST));
    for (volume, name) in [(DISK, "disk"), (LOGS, "logs")] {
        let add = VolumeAdd { uuid: VolumeUuid([0x40 + u8::try_from(volume.0).unwrap(); 16]), name: name.into() };
        story.push(Body::VolumeAdd { volume, size: Sectors::new(SECTORS).unwrap(), add });
    }
    let begin = story.frame(false);
    store.append(&[begin], session, received).unwrap();
    store.sync().unwrap();

    let base = story.base();
    let (head, frames) = (base[1].head(), 2);
    store.append_base(RESYNC, &base, session, received).unwrap();
    store.sync_base(RESYNC).unwrap();
    story.push(Body::Sealed(Sealed { resync: RESYNC, head, frames }));
    let sealed = story.frame(false);
    store.append(&[sealed], session, received).unwrap();
    store.sync().unwrap();

    for round in 0..5u64 {
        story.write(DISK, 3 + round * 7, noise(10 + round, 9));
        story.write(LOGS, 90 - round, vec![u8::try_from(round).unwrap() + 1; 8 * 512]);
        story.push(Body::Flush);
        story.push(Body::Pattern { volume: LOGS, extent: extent(round * 3, 5), fill: [0xf0, 1, 2, 3, 4, 5, 6, 7] });
        story.push(Body::Discard { volume: DISK, extent: extent(48 + round, 4) });
        let name = format!("round {round}");
        story.push(Body::Mark(Mark { locked_until: (round == 2).then_some(WallTime(1_900_000_000_000_000)), name }));
        let frame = story.frame(round % 2 == 0);
        store.append(&[frame], session, received).unwrap();
        store.sync().unwrap();
    }
    story
}

/// File name and contents of everything in a directory.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut files: Vec<_> = names.map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect();
    files.sort();
    files
}

/// The run over all of the fixture's live segments, as it is kept.
fn merged_fixture() -> PathBuf {
    root().join("tests/fixtures/v1/merged.run")
}

/// Merges what a copy of the fixture has; the run's file.
fn merge(dir: &Path) -> PathBuf {
    let disk = Arc::new(FileDisk::open(dir).unwrap());
    let (mut store, _) = Store::open(disk.clone(), GROUP, SEGMENT_BYTES, || [0xaa; 16]).unwrap();
    let mut merger = Merger::with_fan_in(disk, GROUP, || [0x5a; 16], 2);
    loop {
        match merger.step(&store.library().now(), |_| true).unwrap() {
            Merging::Idle => break,
            Merging::Goes => {}
            Merging::Renew(made) => store.renew_runs(made),
        }
    }
    assert_eq!(store.library().now().verify(|_| std::ops::ControlFlow::Continue(())).unwrap().findings, []);
    dir.join(RunNo(1).file_name())
}

#[test]
fn the_same_segments_make_the_same_run() {
    let copy = tempfile::tempdir().unwrap();
    files(&fixture()).iter().for_each(|(name, bytes)| fs::write(copy.path().join(name), bytes).unwrap());
    let made = fs::read(merge(copy.path())).unwrap();
    if std::env::var_os("BACKSPOOL_WRITE_FIXTURES").is_some() {
        fs::write(merged_fixture(), &made).unwrap();
        panic!("the fixture is written: look at what changed, and run again without BACKSPOOL_WRITE_FIXTURES");
    }
    let kept = fs::read(merged_fixture()).unwrap();
    assert_eq!((made.len(), made.iter().zip(&kept).position(|(a, b)| a != b)), (kept.len(), None), "first byte");
    // As the document has it, without our codec.
    let trailer = &kept[kept.len() - 512..];
    assert_eq!((&trailer[..8], &trailer[14..16], &trailer[32..48]), (&b"BSPLRUN1"[..], &[1, 0][..], &GROUP.0[..]));
    let number = |at: usize| u64::from_le_bytes(trailer[at..at + 8].try_into().unwrap());
    let short = |at: usize| u32::from_le_bytes(trailer[at..at + 4].try_into().unwrap());
    assert_eq!(
        (number(64), number(72), short(96), short(100)),
        (1, 2, 2, 1),
        "its number, two pages, two segments, one guide"
    );
    assert_eq!(kept.len(), 2 * 16384 + 2 * 64 + 48 + 512);
    assert_eq!((&kept[..4], &kept[16384..16388]), (&b"BSRD"[..], &b"BSRG"[..]));
    assert_eq!(u64::from(u32::from_le_bytes(kept[32..36].try_into().unwrap())), number(80), "entries of the only page");
}

#[test]
fn the_same_history_makes_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let story = build(dir.path());
    if std::env::var_os("BACKSPOOL_WRITE_FIXTURES").is_some() {
        fs::create_dir_all(fixture()).unwrap();
        files(dir.path()).iter().for_each(|(name, bytes)| fs::write(fixture().join(name), bytes).unwrap());
        fs::write(fixture().join("../chain-head"), story.chain.to_string()).unwrap();
        panic!("the fixtures are written: look at what changed, and run again without BACKSPOOL_WRITE_FIXTURES");
    }
    let (made, kept) = (files(dir.path()), files(&fixture()));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&made), names(&kept));
    for ((name, made), (_, kept)) in made.iter().zip(&kept) {
        let differs = made.iter().zip(kept).position(|(a, b)| a != b);
        assert_eq!((made.len(), differs), (kept.len(), None), "{name} differs: length, first byte");
    }
}

#[test]
fn the_fixture_holds_every_part_of_the_format() {
    let segments: Vec<_> = files(&fixture()).into_iter().filter(|(name, _)| name.ends_with(".seg")).collect();
    let header = |bytes: &[u8]| SegmentHeader::decode(bytes.first_chunk().unwrap()).unwrap();
    let is_sealed = |bytes: &[u8]| Trailer::decode(bytes.last_chunk().unwrap()).is_ok();
    let kinds: Vec<_> = segments
        .iter()
        .map(|(_, bytes)| (matches!(header(bytes).kind, SegmentKind::Live { .. }), is_sealed(bytes)))
        .collect();
    assert_eq!(kinds, [(true, true), (false, true), (true, true), (true, false)]);
}

#[test]
fn the_fixture_is_read_as_it_was_written() {
    // What it has to hold comes from the story alone.
    let scrap = tempfile::tempdir().unwrap();
    let story = build(scrap.path());
    let copy = tempfile::tempdir().unwrap();
    files(&fixture()).iter().for_each(|(name, bytes)| fs::write(copy.path().join(name), bytes).unwrap());
    let disk = Arc::new(FileDisk::open(copy.path()).unwrap());
    let (store, findings) = Store::open(disk, GROUP, SEGMENT_BYTES, entropy).unwrap();
    assert_eq!((store.closed(), findings.as_slice()), (None, [].as_slice()));
    let version = store.library().now();
    let head = version.head().unwrap();
    assert_eq!((head.seq.number(), head.frame.number(), head.epoch), (34, 7, EPOCH));
    assert_eq!(head.chain.to_string(), CHAIN.trim());

    let (points, truncated) = version.points(None, None, 1000).unwrap();
    let places: Vec<u64> = points.iter().map(|point| point.seq.number()).collect();
    assert_eq!((places, truncated), ((4..=34).collect(), false));
    assert_eq!(points[0].time, WallTime(1_700_000_000_004_000));
    let mark = version.find(&When::Mark("round 2".into())).unwrap().unwrap();
    assert_eq!((mark.seq.number(), mark.time), (22, WallTime(1_700_000_000_022_000)));
    assert_eq!(version.find(&When::At(WallTime(1_700_000_000_022_999))).unwrap().unwrap(), mark);

    for seq in 4..=34u64 {
        let view = version.view(Seq::new(seq).unwrap()).unwrap();
        let names: Vec<_> = view.volumes().iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(names, ["disk", "logs"]);
        for (volume, image) in [DISK, LOGS].into_iter().zip(&story.images[usize::try_from(seq).unwrap()]) {
            let mut got = vec![0xaa; image.len()];
            view.read(volume, 0, &mut got).unwrap();
            assert!(got == *image, "volume {volume} as of {seq}");
        }
    }
    let verified = version.verify(|_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(verified.findings, []);
}

/// The document comes first: who changes the codec looks at it, and says so with its hash.
#[test]
fn the_document_names_the_codec_it_describes() {
    let codec = root().join("journal/src/codec");
    let mut sources = Vec::new();
    for (name, text) in files(&codec).into_iter().filter(|(name, _)| name.ends_with(".rs") && name != "tests.rs") {
        sources.extend(name.into_bytes());
        sources.extend(text);
    }
    let line = format!("Codec sources: blake3 {}", Hash::of(&sources));
    let document = fs::read_to_string(root().join("docs/FORMAT.md")).unwrap();
    assert!(
        document.lines().last() == Some(line.as_str()),
        "journal/src/codec has changed. Does docs/FORMAT.md still say what it does, byte by byte? If so, make its last line:\n{line}"
    );
}
