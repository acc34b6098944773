//! The hashes of the receiver's view, asked for ahead of what is compared with them: the receiver reads while we do, and a way there and
//! back is waited for once.

use std::collections::VecDeque;
use std::ops::Range;

use journal::types::{Extent, Hash, VolumeNo};

use super::cursor::Compared;
use super::{Answer, BLOCK_BYTES, Hashes};
use crate::{Error, Result};

/// Asked for at once. The first answer comes after so much was read over there.
const WINDOW_BYTES: u64 = 16 << 20;
/// Asked for ahead: what a far receiver reads while an answer travels. Hashes of so much are 64 KiB.
const AHEAD_BYTES: u64 = 128 << 20;
/// The same where only short runs are compared.
const AHEAD_WINDOWS: usize = 64;

/// One volume of the receiver's view.
#[derive(Debug)]
pub(super) struct Theirs {
    volume: VolumeNo,
    compared: Compared,
    /// What of it is not asked for yet.
    rest: Range<u64>,
    windows: VecDeque<Window>,
}

/// What was asked for as one.
struct Window {
    range: Range<u64>,
    answer: Option<Answer<Vec<Option<Hash>>>>,
    hashes: Vec<Option<Hash>>,
}

impl Theirs {
    /// Nothing is asked for before the first is wanted.
    pub(super) fn new(volume: VolumeNo, compared: Compared) -> Self {
        Self { volume, compared, rest: 0..0, windows: VecDeque::new() }
    }

    /// The hashes of a range of what is compared, which starts at a block; ranges come in order and apart.
    pub(super) fn of(&mut self, from: &mut dyn Hashes, range: &Range<u64>) -> Result<Vec<Option<Hash>>> {
        self.windows.retain(|window| window.range.end > range.start);
        let mut found = Vec::new();
        let mut at = range.start;
        while at < range.end {
            self.ask(from, at)?;
            // What was dealt with in one window is looked at in the next.
            let window = self.windows.iter_mut().find(|window| window.range.contains(&at));
            let window = window.ok_or_else(|| Error::invalid("a range that is not compared").with_offset(at))?;
            let end = range.end.min(window.range.end);
            let first = blocks(at - window.range.start);
            let count = blocks((end - at).next_multiple_of(BLOCK_BYTES));
            found.extend_from_slice(window.hashes()?.get(first..first + count).unwrap_or_default());
            at = end;
        }
        Ok(found)
    }

    /// Asks until enough is on its way beyond `at`.
    fn ask(&mut self, from: &mut dyn Hashes, at: u64) -> Result<()> {
        loop {
            let bytes = self.windows.iter().map(|window| window.range.end.saturating_sub(window.range.start.max(at)));
            let reached = self.windows.back().is_some_and(|window| window.range.end > at);
            if reached && (bytes.sum::<u64>() >= AHEAD_BYTES || self.windows.len() >= AHEAD_WINDOWS) {
                return Ok(());
            }
            if self.rest.is_empty() {
                let Some(next) = self.compared.next() else { return Ok(()) };
                self.rest = next;
            }
            let range = self.rest.start..self.rest.end.min(self.rest.start + WINDOW_BYTES);
            self.rest.start = range.end;
            let extent = Extent::of_bytes(range.start, range.end - range.start);
            let extent = extent.ok_or_else(|| Error::invalid("a range that is none"))?;
            let answer = Some(from.blocks(self.volume, extent)?);
            self.windows.push_back(Window { range, answer, hashes: Vec::new() });
        }
    }
}

impl Window {
    /// Waits for them, the first time.
    fn hashes(&mut self) -> Result<&[Option<Hash>]> {
        if let Some(answer) = self.answer.take() {
            let hashes = answer()?;
            let expected = (self.range.end - self.range.start).div_ceil(BLOCK_BYTES);
            if crate::source::bytes(hashes.len()) != expected {
                let message = format!("{} hashes came, {expected} were asked for", hashes.len());
                return Err(Error::corrupt(message));
            }
            self.hashes = hashes;
        }
        Ok(&self.hashes)
    }
}

impl std::fmt::Debug for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Window").field("range", &self.range).finish_non_exhaustive()
    }
}

fn blocks(bytes: u64) -> usize {
    usize::try_from(bytes / BLOCK_BYTES).unwrap_or(usize::MAX)
}
