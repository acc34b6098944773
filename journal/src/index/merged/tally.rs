//! What a run says of each segment, as a sum that does not depend on the order: to be compared with what the segment's own index says.

use super::file::{MergedRun, Pages};
use super::page::Key;
use super::write::normal;
use crate::codec::{Malformed, Writer};
use crate::error::Result;
use crate::index::entry::Entry;
use crate::index::footer::Footer;
use crate::types::Hash;

/// Entries, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    entries: u64,
    sum: u128,
}

impl Tally {
    /// Of the index of a segment.
    pub(crate) fn of_footer(footer: &Footer) -> Result<Self> {
        let mut tally = Self::default();
        for entry in footer.run.entries() {
            tally.add(entry, |place| footer.pool.get(place).copied())?;
        }
        Ok(tally)
    }

    fn add(&mut self, entry: &Entry, crc: impl Fn(usize) -> Option<u32>) -> Result<()> {
        let (entry, crcs) = normal(entry, crc)?;
        let mut w = Writer::with_capacity(2 * Entry::BYTES);
        // Where its CRCs are is another place in each file.
        Entry { crc: 0, ..entry }.encode(&mut w);
        crcs.for_each(|crc| _ = w.u32(crc));
        let [low @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = Hash::of(&w.finish()).0;
        self.entries += 1;
        self.sum = self.sum.wrapping_add(u128::from_le_bytes(low));
        Ok(())
    }
}

impl MergedRun {
    /// Reads all of it, and checks all that can be checked without its segments; what it says of each of its sources.
    pub(crate) fn tallies(&self) -> Result<Vec<Tally>> {
        let mut tallies = vec![Tally::default(); self.sources.len()];
        let (mut last, mut pages): (Option<Key>, _) = (None, Pages::new(self));
        while let Some(page) = pages.next()? {
            for i in 0..page.len() {
                let entry = page.entry(i)?;
                let key = Key::of(&entry);
                if last.replace(key) > Some(key) {
                    return Err(Malformed("a run out of order").into());
                }
                let source = usize::try_from(page.source(i)).unwrap_or(usize::MAX);
                let tally =
                    tallies.get_mut(source).ok_or(Malformed("an entry of a segment that its run does not cover"))?;
                tally.add(&entry, |place| page.crc(place))?;
            }
        }
        let told = self.sources.iter().map(|source| source.entries);
        if !told.eq(tallies.iter().map(|tally| tally.entries)) {
            return Err(Malformed("a run with more or fewer entries than it says").into());
        }
        Ok(tallies)
    }
}
