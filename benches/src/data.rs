//! Bytes to write: ones that no codec makes smaller, ones that LZ4 halves, and places to put them.

/// A small generator: the same seed gives the same run.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits (SplitMix64).
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }
}

/// Random bytes.
pub fn incompressible(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        let word = rng.draw().to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
    bytes
}

/// Words of a small vocabulary: about half its size as LZ4.
pub fn text(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let words: Vec<String> = (0..512).map(|_| format!("{:x} ", rng.draw() >> (24 + rng.below(24)))).collect();
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        let word = usize::try_from(rng.below(512)).unwrap_or(0);
        bytes.extend_from_slice(words[word].as_bytes());
    }
    bytes.truncate(len);
    bytes
}
