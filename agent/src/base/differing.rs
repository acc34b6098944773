//! Blocks that differ, until it is known which of their pages do: in the order of the volume, with what was read of them, in bounded
//! memory. What is sent is what was compared, however long the answer took.

use std::collections::VecDeque;
use std::ops::Range;

use journal::types::{Hash, Seq};

use super::{Answer, PAGE_BYTES};
use crate::source::bytes;
use crate::{Error, Result};

/// Bytes that may wait: at a round trip of 50 ms, 320 MB/s of blocks that differ.
const WAITING_BYTES: u64 = 16 << 20;

/// What waits, and behind it what comes after in the volume.
#[derive(Default)]
pub(super) struct Differing {
    batches: VecDeque<Batch>,
    bytes: u64,
}

/// What one piece of the volume brought.
pub(super) struct Batch {
    pub(super) as_of: Option<Seq>,
    pub(super) blocks: Vec<Block>,
    /// Hashes of the pages of those that are [`Verdict::Asked`].
    pub(super) answer: Option<Answer<Option<Vec<Option<Hash>>>>>,
}

/// A block, or a part of one, or a hole, that is to be sent.
pub(super) struct Block {
    pub(super) place: Range<u64>,
    pub(super) verdict: Verdict,
    /// Empty in a hole.
    pub(super) data: Vec<u8>,
}

/// What of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// That it is zeroes.
    Zeroes,
    /// All.
    Whole,
    /// What is not zero: there is nothing at the receiver.
    Sparse,
    /// The pages that differ: the receiver was asked for theirs.
    Asked,
}

/// Pages of a block that are sent: where they are in it, and whether they are zeroes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) within: Range<usize>,
    pub(super) is_zero: bool,
}

impl Differing {
    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.bytes += batch.bytes();
        self.batches.push_back(batch);
    }

    /// The oldest, if too much waits; or in any case.
    pub(super) fn pop(&mut self, in_any_case: bool) -> Option<Batch> {
        let batch = self.batches.pop_front_if(|_| in_any_case || self.bytes > WAITING_BYTES)?;
        self.bytes -= batch.bytes();
        Some(batch)
    }
}

impl Batch {
    /// Memory that it takes, about.
    fn bytes(&self) -> u64 {
        self.blocks.iter().map(|block| bytes(size_of::<Block>() + block.data.len())).sum()
    }

    /// Waits for the hashes of the pages of all blocks that were asked for; `None`: the receiver cannot tell.
    pub(super) fn pages(&mut self) -> Result<Option<VecDeque<Option<Hash>>>> {
        let Some(answer) = self.answer.take() else { return Ok(None) };
        let Some(hashes) = answer()? else { return Ok(None) };
        let asked = self.blocks.iter().filter(|block| block.verdict == Verdict::Asked);
        let expected = asked.map(|block| pages(&block.data).count()).sum::<usize>();
        match hashes.len() == expected {
            true => Ok(Some(hashes.into())),
            false => Err(Error::corrupt(format!("{} hashes of pages came, {expected} were asked for", hashes.len()))),
        }
    }
}

/// Runs of pages that differ from what the receiver has; `theirs` is asked for each page, in order.
pub(super) fn runs(data: &[u8], mut theirs: impl FnMut() -> Option<Hash>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    for page in pages(data) {
        let within = at..at + page.len();
        at = within.end;
        let (theirs, is_zero) = (theirs(), is_zero(page));
        let is_same = match theirs {
            None => is_zero,
            Some(hash) => !is_zero && hash == Hash::of(page),
        };
        if is_same {
            continue;
        }
        match runs.last_mut().filter(|last| last.within.end == within.start && last.is_zero == is_zero) {
            Some(last) => last.within.end = within.end,
            None => runs.push(Run { within, is_zero }),
        }
    }
    runs
}

fn pages(data: &[u8]) -> std::slice::Chunks<'_, u8> {
    data.chunks(usize::try_from(PAGE_BYTES).unwrap_or(usize::MAX))
}

/// Looks at a page at a time: data differs early, and within a page there is nothing to branch on.
pub(super) fn is_zero(data: &[u8]) -> bool {
    pages(data).all(|page| page.iter().fold(0, |any, byte| any | byte) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    /// Runs against a receiver that has these bytes.
    fn against(ours: &[u8], theirs: &[u8]) -> Vec<(Range<usize>, bool)> {
        let mut pages = theirs.chunks(PAGE).map(|page| (!is_zero(page)).then(|| Hash::of(page)));
        runs(ours, || pages.next().flatten()).into_iter().map(|run| (run.within, run.is_zero)).collect()
    }

    #[test]
    fn adjacent_pages_of_one_kind_are_one_run() {
        let theirs = [1; 16 * PAGE];
        let mut ours = theirs;
        assert_eq!(against(&ours, &theirs), []);
        ours[PAGE] = 2;
        ours[3 * PAGE - 1] = 2;
        ours[3 * PAGE..5 * PAGE].fill(0);
        ours[5 * PAGE] = 3;
        ours[16 * PAGE - 1] = 4;
        let page = |from, to| from * PAGE..to * PAGE;
        assert_eq!(
            against(&ours, &theirs),
            [(page(1, 3), false), (page(3, 5), true), (page(5, 6), false), (page(15, 16), false)]
        );
        // Nothing over there: what is zero here is there already.
        assert_eq!(against(&ours, &[]), [(page(0, 3), false), (page(5, 16), false)]);
        assert_eq!(against(&[0; 16 * PAGE], &theirs), [(page(0, 16), true)]);
    }

    #[test]
    fn what_ends_within_a_page_is_compared_as_far_as_it_goes() {
        let ours = [1; 2 * PAGE + 512];
        assert_eq!(against(&ours, &[1; 2 * PAGE + 512]), []);
        assert_eq!(against(&ours, &[1; 3 * PAGE]), [(2 * PAGE..2 * PAGE + 512, false)]);
        assert_eq!(against(&ours, &[1; PAGE + 512]), [(PAGE..2 * PAGE + 512, false)]);
    }

    #[test]
    fn no_more_waits_than_may() {
        let batch = || Batch {
            as_of: None,
            blocks: vec![Block { place: 0..1 << 20, verdict: Verdict::Whole, data: vec![1; 1 << 20] }],
            answer: None,
        };
        let mut differing = Differing::default();
        (0..15).for_each(|_| differing.push(batch()));
        assert!(differing.pop(false).is_none());
        differing.push(batch());
        assert!(differing.pop(false).is_some() && differing.pop(false).is_none() && !differing.is_empty());
        assert_eq!(std::iter::from_fn(|| differing.pop(true)).count(), 15);
        assert!(differing.is_empty() && differing.bytes == 0);
    }

    #[test]
    fn an_answer_of_another_length_is_none() {
        for (count, is_good) in [(16, true), (15, false), (17, false), (0, false)] {
            let mut batch = Batch {
                as_of: None,
                blocks: vec![
                    Block { place: 0..65536, verdict: Verdict::Zeroes, data: Vec::new() },
                    Block { place: 65536..131_072, verdict: Verdict::Asked, data: vec![1; 65536] },
                ],
                answer: Some(Box::new(move || Ok(Some(vec![None; count])))),
            };
            assert_eq!(batch.pages().is_ok(), is_good, "{count}");
        }
    }
}
