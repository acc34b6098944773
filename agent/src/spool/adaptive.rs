//! Whether to compress the next frame. LZ4 costs more than it saves on a link faster than about 10 Gbit/s, and on data that
//! does not shrink; so it is tried, and tried again ever more seldom while it does not help.

/// Frames that go uncompressed at most before LZ4 is tried again.
const SKIP_MAX: u32 = 64;

/// Learns from each frame whether its kind of data shrinks.
#[derive(Debug, Default)]
pub(crate) struct Adaptive {
    /// Frames to pass over before the next try.
    skip: u32,
    /// How many will be passed over if that fails too.
    backoff: u32,
}

impl Adaptive {
    /// Whether to compress the next frame.
    pub(crate) fn compress(&mut self, link_is_fast: bool) -> bool {
        if link_is_fast {
            return false;
        }
        let skipped = self.skip > 0;
        self.skip = self.skip.saturating_sub(1);
        !skipped
    }

    /// What compressing brought: bytes of payload before and after.
    pub(crate) fn learn(&mut self, before: usize, after: usize) {
        if before == 0 {
            return;
        }
        self.backoff = if after < before { 0 } else { (self.backoff * 2).clamp(1, SKIP_MAX) };
        self.skip = self.backoff;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_shrink_is_tried_ever_more_seldom() {
        let mut adaptive = Adaptive::default();
        let tries: Vec<u32> = (0..300)
            .filter(|_| {
                let compress = adaptive.compress(false);
                if compress {
                    adaptive.learn(1000, 1000);
                }
                compress
            })
            .collect();
        assert_eq!(tries, [0, 2, 5, 10, 19, 36, 69, 134, 199, 264]);
        while !adaptive.compress(false) {}
        adaptive.learn(1000, 999);
        assert!((0..300).all(|_| adaptive.compress(false)), "it shrinks again: always");
        assert!(!adaptive.compress(true));
    }
}
