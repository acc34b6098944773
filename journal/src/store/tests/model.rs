//! Every point of random histories equals the model, from memory, from sealed segments, and after opening again.

use std::sync::Arc;

use super::super::Store;
use super::history::{GROUP, History, SECTORS, Step, VOLUME};
use crate::disk::{Disk, SimDisk};
use crate::error::Result;
use crate::log::Entropy;
use crate::types::*;

/// Small, so that histories of a hundred frames fill several.
pub(super) const SEGMENT_BYTES: u64 = 40 * 1024;

pub(super) fn entropy() -> [u8; 16] {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes();
    [n, n].concat().try_into().unwrap()
}
const ENTROPY: Entropy = entropy;

pub(super) fn open(disk: &SimDisk) -> Result<(Store, Vec<crate::log::Finding>)> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    Store::open(disk, GROUP, SEGMENT_BYTES, ENTROPY)
}

/// What a store promised so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Promised {
    pub(super) durable: Option<Seq>,
    pub(super) bases: Vec<(ResyncId, FrameNo)>,
}

impl Promised {
    /// What opening a store promises: all that it shows.
    pub(super) fn by(&mut self, store: &Store) {
        if store.closed().is_some() {
            return;
        }
        self.durable = store.head().map(|head| head.seq).max(self.durable);
        let bases = store.log().bases().filter_map(|id| Some((id, store.base_head(id)?.frame)));
        self.bases.extend(bases);
    }
}

/// Does the steps; stops at the first error. What was promised is kept up to date even then.
pub(super) fn play(disk: &SimDisk, steps: &[Step], promised: &mut Promised) -> Result<Store> {
    let reopen = || Ok(open(disk)?.0);
    let mut store = reopen()?;
    for step in steps {
        perform(&mut store, step, promised, &reopen)?;
    }
    Ok(store)
}

/// Does one step.
pub(super) fn perform(
    store: &mut Store,
    step: &Step,
    promised: &mut Promised,
    reopen: &dyn Fn() -> Result<Store>,
) -> Result<()> {
    let (session, now) = (SessionId(1), WallTime(1));
    match step {
        Step::Append(frames) => store.append(frames, session, now)?,
        Step::Sync => promised.durable = store.sync()?.map(|durable| durable.0).or(promised.durable),
        Step::Base(resync, _) if store.library().now().timeline().sealed(*resync).is_some() => {}
        Step::Base(resync, frames) => store.append_base(*resync, frames, session, now)?,
        Step::SyncBase(resync) => {
            let head = store.sync_base(*resync)?;
            promised.bases.extend(head.map(|head| (*resync, head.frame)));
        }
        Step::DropUnsealed(but) => store.drop_unsealed_bases(*but)?,
        Step::Reopen => {
            *store = reopen()?;
            promised.by(store);
        }
        Step::Stop => {
            store.stop(now)?;
            *store = reopen()?;
            promised.by(store);
        }
    }
    Ok(())
}

#[track_caller]
pub(super) fn check_view(store: &Store, history: &History, seq: Seq) {
    let view = store.library().now().view(seq).unwrap();
    let mut got = vec![0xaa; usize::try_from(SECTORS * 512).unwrap()];
    view.read(VOLUME, 0, &mut got).unwrap();
    let expect = history.image(seq);
    let wrong = (0..expect.len()).find(|&i| got[i] != expect[i]);
    assert_eq!(wrong.map(|byte| byte / 512), None, "wrong sector as of {seq}");
}

#[test]
fn every_point_equals_the_model() {
    for seed in 0..40 {
        let history = History::random(seed, 60);
        let disk = SimDisk::new(seed);
        let store = play(&disk, &history.steps, &mut Promised::default()).unwrap();
        let (again, findings) = open(&disk).unwrap();
        assert_eq!(findings, []);
        assert!(store.log().segments().count() > 2, "history too short to seal a segment");
        // The volume is there from the second record on.
        for n in 2..=history.last().number() {
            let seq = Seq::new(n).unwrap();
            check_view(&store, &history, seq);
            check_view(&again, &history, seq);
        }
    }
}

#[test]
fn any_part_of_a_view_reads_the_same() {
    let history = History::random(77, 80);
    let store = play(&SimDisk::new(1), &history.steps, &mut Promised::default()).unwrap();
    let mut rng = crate::disk::sim::Rng::new(5);
    for _ in 0..2000 {
        let seq = Seq::new(2 + rng.below(history.last().number() - 1)).unwrap();
        let view = store.library().now().view(seq).unwrap();
        let start = rng.below(SECTORS);
        let count = 1 + rng.below(SECTORS - start);
        let extent = Extent::new(Sector::new(start).unwrap(), Sectors::new(count).unwrap()).unwrap();
        let (at, len) = (usize::try_from(extent.byte()).unwrap(), usize::try_from(extent.bytes()).unwrap());
        let mut got = vec![0xaa; len];
        view.read(VOLUME, extent.byte(), &mut got).unwrap();
        let image = history.image(seq);
        assert!(got == image[at..at + len], "{extent} as of {seq}");
        // What is not data is zero, and what is, is inside what was asked for.
        let data = view.data(VOLUME, extent).unwrap();
        for sector in start..start + count {
            let held = data.iter().any(|e| (e.start().index()..e.end().index()).contains(&sector));
            let bytes = &image[usize::try_from(sector * 512).unwrap()..][..512];
            assert!(held || bytes.iter().all(|&b| b == 0), "sector {sector} as of {seq} is said to be a hole");
        }
    }
}

#[test]
fn what_changed_between_two_places_is_never_missed() {
    let history = History::random(78, 80);
    let store = play(&SimDisk::new(1), &history.steps, &mut Promised::default()).unwrap();
    let version = store.library().now();
    let mut rng = crate::disk::sim::Rng::new(6);
    for _ in 0..300 {
        let mut pair = [2 + rng.below(history.last().number() - 1), 2 + rng.below(history.last().number() - 1)];
        pair.sort_unstable();
        let [a, b] = pair.map(|n| Seq::new(n).unwrap());
        let view = version.view(b).unwrap();
        let changed = view.changed_since(Some(a), VOLUME, view.whole(VOLUME).unwrap()).unwrap();
        let (old, new) = (history.image(a), history.image(b));
        for sector in 0..SECTORS {
            let at = usize::try_from(sector * 512).unwrap();
            let told = changed.iter().any(|e| (e.start().index()..e.end().index()).contains(&sector));
            assert!(told || old[at..at + 512] == new[at..at + 512], "sector {sector} changed between {a} and {b}");
        }
    }
}
