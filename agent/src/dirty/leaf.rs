//! The bits of one stretch of a volume.

use std::ops::Range;

/// The stretch that one leaf is of.
pub(super) const LEAF_BYTES: u64 = 128 << 20;

const FINE_WORDS: usize = 512;
const MEDIUM_WORDS: usize = 32;

/// What one bit stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grain {
    /// 4 KiB.
    Fine,
    /// 64 KiB.
    Medium,
    /// 2 MiB.
    Coarse,
}

#[derive(Clone, Debug)]
pub(super) struct Leaf {
    bits: Bits,
    /// How many of them are set.
    set: u32,
}

#[derive(Clone, Debug)]
enum Bits {
    Fine(Box<[u64; FINE_WORDS]>),
    Medium(Box<[u64; MEDIUM_WORDS]>),
    Coarse([u64; 1]),
}

impl Grain {
    fn bytes(self) -> u64 {
        match self {
            Self::Fine => 4 << 10,
            Self::Medium => 64 << 10,
            Self::Coarse => 2 << 20,
        }
    }

    /// What a leaf of it takes beside itself.
    pub(super) fn memory_bytes(self) -> usize {
        match self {
            Self::Fine => FINE_WORDS * size_of::<u64>(),
            Self::Medium => MEDIUM_WORDS * size_of::<u64>(),
            Self::Coarse => 0,
        }
    }
}

impl Leaf {
    /// Nothing is dirty.
    pub(super) fn new(grain: Grain) -> Self {
        let bits = match grain {
            Grain::Fine => Bits::Fine(Box::new([0; FINE_WORDS])),
            Grain::Medium => Bits::Medium(Box::new([0; MEDIUM_WORDS])),
            Grain::Coarse => Bits::Coarse([0]),
        };
        Self { bits, set: 0 }
    }

    /// All of it is dirty.
    pub(super) fn full() -> Self {
        Self { bits: Bits::Coarse([u64::MAX]), set: u64::BITS }
    }

    pub(super) fn grain(&self) -> Grain {
        match self.bits {
            Bits::Fine(_) => Grain::Fine,
            Bits::Medium(_) => Grain::Medium,
            Bits::Coarse(_) => Grain::Coarse,
        }
    }

    pub(super) fn dirty_bytes(&self) -> u64 {
        u64::from(self.set) * self.grain().bytes()
    }

    /// Marks every bit that `range`, which is within the leaf, touches.
    pub(super) fn mark(&mut self, range: Range<u64>) {
        let grain = self.grain().bytes();
        let (mut bit, end) = (range.start / grain, range.end.div_ceil(grain));
        let words: &mut [u64] = match &mut self.bits {
            Bits::Fine(words) => &mut words[..],
            Bits::Medium(words) => &mut words[..],
            Bits::Coarse(words) => words,
        };
        while bit < end {
            let (at, first) = place(bit);
            let count = (end - bit).min(u64::BITS.into()).min(u64::from(u64::BITS) - u64::from(first));
            let mask = mask(count) << first;
            if let Some(word) = words.get_mut(at) {
                self.set += (mask & !*word).count_ones();
                *word |= mask;
            }
            bit += count;
        }
    }

    /// The first dirty run at or after byte `at` of the leaf.
    pub(super) fn next(&self, at: u64) -> Option<Range<u64>> {
        let grain = self.grain().bytes();
        let start = self.find(at.div_ceil(grain), 0).filter(|_| at < LEAF_BYTES);
        // `at` may lie within a grain that is dirty: what is left of it is a run, too.
        let within = (!at.is_multiple_of(grain) && self.is_set(at / grain)).then_some(at / grain);
        let start = within.or(start)?;
        let end = self.find(start, u64::MAX).unwrap_or(LEAF_BYTES / grain);
        Some((start * grain).max(at)..end * grain)
    }

    fn words(&self) -> &[u64] {
        match &self.bits {
            Bits::Fine(words) => &words[..],
            Bits::Medium(words) => &words[..],
            Bits::Coarse(words) => words,
        }
    }

    fn is_set(&self, bit: u64) -> bool {
        let (at, bit) = place(bit);
        self.words().get(at).is_some_and(|word| word >> bit & 1 == 1)
    }

    /// The first bit at or after `bit` that is set; with `flip` of all ones, that is not.
    fn find(&self, bit: u64, flip: u64) -> Option<u64> {
        let (at, first) = place(bit);
        let words = self.words().iter().enumerate().skip(at);
        let mut masked = words.map(|(place, word)| {
            let word = word ^ flip;
            (place, if place == at { word & (u64::MAX << first) } else { word })
        });
        let (place, word) = masked.find(|(_, word)| *word != 0)?;
        Some(u64::try_from(place).ok()? * u64::from(u64::BITS) + u64::from(word.trailing_zeros()))
    }
}

/// In which word a bit is, and where.
fn place(bit: u64) -> (usize, u32) {
    let word = usize::try_from(bit / u64::from(u64::BITS)).unwrap_or(usize::MAX);
    (word, u32::try_from(bit % u64::from(u64::BITS)).unwrap_or(0))
}

/// The lowest `count` bits, 1 to 64.
fn mask(count: u64) -> u64 {
    u64::MAX >> (u64::from(u64::BITS) - count)
}
