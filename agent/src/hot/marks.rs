//! What every change looks at: one word for each extent, no lock.
//!
//! ```text
//!   word: │ open │ changes in progress │ generation in which the last one ended │
//!           1 bit        31 bits                        32 bits
//! ```
//!
//! *Open* means: durably said to be hot, changes may pass. A change counts itself in and looks at the same time, so that a word is
//! closed before it came in, or not at all.
//!
//! Generations are how it is known what a flush covers. A change ends, once it is captured, in the generation it reads then; whoever
//! turns the generation and *then* asks where the order stands and flushes the source has covered all that ended in an earlier one.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::ExtentNo;

/// Words that are made together, 16 GiB of volume: of a large volume nobody writes to all of it.
const CHUNK: u32 = 4096;

const OPEN: u64 = 1 << 63;
const ONE: u64 = 1 << 32;
const IN_PROGRESS: u64 = OPEN - ONE;

/// When a change ended: a count of flushes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Generation(pub(super) u32);

/// The words of one volume.
#[derive(Debug)]
pub(super) struct Marks {
    chunks: Vec<OnceLock<Box<[AtomicU64]>>>,
    generation: AtomicU32,
}

impl Marks {
    /// Of a volume of so many extents, none of them open.
    pub(super) fn new(extents: ExtentNo) -> Self {
        let chunks = (0..extents.div_ceil(CHUNK)).map(|_| OnceLock::new()).collect();
        Self { chunks, generation: AtomicU32::new(0) }
    }

    /// Counts a change in. Whether it may pass.
    pub(super) fn enter(&self, extent: ExtentNo) -> bool {
        self.word(extent).is_some_and(|word| word.fetch_add(ONE, Ordering::SeqCst) & OPEN != 0)
    }

    /// The change has ended, and is captured.
    pub(super) fn leave(&self, extent: ExtentNo) {
        let now = self.now();
        self.update(extent, |word| Some(ended_at(word - ONE, now)));
    }

    /// It is durably said to be hot.
    pub(super) fn open(&self, extent: ExtentNo) {
        let now = self.now();
        self.update(extent, |word| Some(ended_at(word | OPEN, now)));
    }

    /// Closes it, unless changes of it are in progress or one ended after `through`.
    pub(super) fn close(&self, extent: ExtentNo, through: Generation) -> bool {
        self.update(extent, |word| {
            let is_idle = word & OPEN != 0 && word & IN_PROGRESS == 0 && ended(word) <= through;
            is_idle.then_some(word & !OPEN)
        })
    }

    /// Turns the generation; returns the one that is over.
    pub(super) fn turn(&self) -> Generation {
        Generation(self.generation.fetch_add(1, Ordering::SeqCst))
    }

    /// All that are open.
    pub(super) fn all_open(&self) -> impl Iterator<Item = ExtentNo> {
        self.words().filter(|(_, word)| word & OPEN != 0).map(|(extent, _)| extent)
    }

    fn words(&self) -> impl Iterator<Item = (ExtentNo, u64)> {
        let chunks = (0..).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX)).zip(&self.chunks);
        let made = chunks.filter_map(|(first, chunk): (ExtentNo, _)| Some((first, chunk.get()?)));
        made.flat_map(|(first, chunk)| (first..).zip(chunk.iter().map(|word| word.load(Ordering::SeqCst))))
    }

    fn now(&self) -> Generation {
        Generation(self.generation.load(Ordering::SeqCst))
    }

    fn update(&self, extent: ExtentNo, change: impl Fn(u64) -> Option<u64>) -> bool {
        self.word(extent).is_some_and(|word| word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, change).is_ok())
    }

    fn word(&self, extent: ExtentNo) -> Option<&AtomicU64> {
        let (chunk, index) = (usize::try_from(extent / CHUNK).ok()?, usize::try_from(extent % CHUNK).ok()?);
        let made = self.chunks.get(chunk)?.get_or_init(|| (0..CHUNK).map(|_| AtomicU64::new(0)).collect());
        made.get(index)
    }
}

/// The word with a change that ended in `generation`: unless another ended in a later one, while this one was about to say so.
fn ended_at(word: u64, generation: Generation) -> u64 {
    (word & !u64::from(u32::MAX)) | u64::from(ended(word).max(generation).0)
}

/// When the last change of a word ended.
fn ended(word: u64) -> Generation {
    Generation(u32::try_from(word & u64::from(u32::MAX)).unwrap_or(u32::MAX))
}
