//! Payload buffers that storage can read and write directly: page-aligned, large ones on huge pages.
#![expect(unsafe_code, reason = "madvise")]

use rustix::mm::{Advice, madvise};

/// Bytes that start at a page boundary, in huge pages where there are enough of them. Grows, never shrinks.
#[derive(Debug)]
pub(crate) struct Buffer {
    /// Longer than what is used, so that it holds an aligned run wherever it lies.
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    pub(crate) const fn empty() -> Self {
        Self { bytes: Vec::new(), start: 0, length: 0 }
    }

    /// Makes it at least `length` bytes; the first `keep` of what it holds stay what they are.
    pub(crate) fn reserve(&mut self, length: usize, keep: usize) {
        if length <= self.length {
            return;
        }
        let mut grown = Self::with_length(length.next_power_of_two());
        let keep = keep.min(self.length);
        grown.as_mut()[..keep].copy_from_slice(&self.as_mut()[..keep]);
        *self = grown;
    }

    /// In bytes.
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }

    fn with_length(length: usize) -> Self {
        let alignment = if length >= HUGE_BYTES { HUGE_BYTES } else { PAGE_BYTES };
        // Fresh zeroed memory: what is not used is not touched, so the slack costs addresses only.
        let mut bytes = vec![0; length + alignment];
        let start = bytes.as_ptr().align_offset(alignment);
        if length >= HUGE_BYTES {
            let run = &mut bytes[start..start + length];
            // SAFETY: the range lies in `bytes`, which is borrowed mutably here, and this advice changes no content.
            // Small pages instead are only slower, so a refusal is no error.
            let _ = unsafe { madvise(run.as_mut_ptr().cast(), run.len(), Advice::LinuxHugepage) };
        }
        Self { bytes, start, length }
    }
}

const PAGE_BYTES: usize = 4096;
const HUGE_BYTES: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::{Buffer, HUGE_BYTES, PAGE_BYTES};

    #[test]
    fn it_is_aligned_and_keeps_what_it_holds() {
        let mut buffer = Buffer::empty();
        assert!(buffer.as_mut().is_empty());
        for (length, alignment) in
            [(4096, PAGE_BYTES), (70_000, PAGE_BYTES), (HUGE_BYTES, HUGE_BYTES), (5 << 20, HUGE_BYTES)]
        {
            buffer.reserve(length, 0);
            assert!(buffer.as_mut().len() >= length);
            assert!(buffer.as_mut().as_ptr().addr().is_multiple_of(alignment));
        }
        buffer.as_mut()[..3].copy_from_slice(b"abc");
        buffer.reserve(16 << 20, 3);
        assert_eq!(buffer.as_mut()[..4], *b"abc\0");
        let place = buffer.as_mut().as_ptr();
        buffer.reserve(4096, 0);
        assert_eq!(buffer.as_mut().as_ptr(), place, "a smaller one is the same one");
    }
}
