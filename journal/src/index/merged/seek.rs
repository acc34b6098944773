//! Finds what a reader needs in a run, and looks at little else: of an extent with a million versions, one.

use std::sync::Arc;

use super::file::MergedRun;
use super::page::{Guide, Key, Page, Sign};
use crate::error::Result;
use crate::index::entry::{Entry, Rank};
use crate::types::{Extent, Seq, VolumeNo};

/// What is looked for: of each start and class the newest version that counts, and older ones only where they reach further.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// Of which volume.
    pub volume: VolumeNo,
    /// What is to be covered.
    pub extent: Extent,
    /// Nothing newer.
    pub newest: Seq,
    /// Only what is newer; 0: all.
    pub after: u64,
}

impl Query {
    /// Whether what has this rank is not asked for, nor anything older. What a base read before everything has the place 0.
    pub(in crate::index) fn is_before(&self, rank: Rank) -> bool {
        self.after > 0 && rank.seq <= self.after
    }
}

/// How much was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Runs and indexes of segments.
    pub places: u64,
    /// Pages, from memory or not.
    pub pages: u64,
    /// Entries.
    pub entries: u64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.places += other.places;
        self.pages += other.pages;
        self.entries += other.entries;
    }
}

impl MergedRun {
    /// Calls `found` with all that can matter to `query`: entries for which `counts` holds of their source, in no promised order.
    pub(crate) fn search(
        &self,
        query: &Query,
        counts: impl Fn(u32) -> bool,
        mut found: impl FnMut(Entry, u32, &Arc<Page>),
    ) -> Result<Work> {
        let mut cursor =
            Cursor { run: self, guide: None, page: None, i: 0, work: Work { places: 1, ..Work::default() } };
        let (start, end) = (query.extent.start().index(), query.extent.end().index());
        for class in (0..u64::BITS).filter(|class| self.trailer.classes >> class & 1 == 1) {
            let reach = 1u64.checked_shl(class).unwrap_or(u64::MAX);
            let lowest = (start + 1).saturating_sub(reach);
            let of = |sector| Key { class, volume: query.volume.0, sector, rank: Rank { seq: 0, base: 0 } };
            cursor.seek(&of(lowest))?;
            while let Some((key, _)) = cursor.key() {
                if key.class != class || key.volume != query.volume.0 || key.sector >= end {
                    break;
                }
                let group = of(key.sector);
                cursor.versions(&group, query, reach, &counts, &mut found)?;
                cursor.seek(&of(key.sector + 1))?;
            }
        }
        Ok(cursor.work)
    }
}

/// A place in a run: before the i-th entry of a page.
struct Cursor<'r> {
    run: &'r MergedRun,
    /// Which guide page, and what is in it.
    guide: Option<(usize, Arc<Guide>)>,
    /// Which page of that guide, and what is in it.
    page: Option<(usize, Arc<Page>)>,
    i: usize,
    work: Work,
}

impl Cursor<'_> {
    /// The entry it is at.
    fn key(&self) -> Option<(Key, u64)> {
        self.page.as_ref().filter(|(_, page)| self.i < page.len()).map(|(_, page)| page.key(self.i))
    }

    /// Goes to the first entry that is not before `key`, or behind the last of all.
    fn seek(&mut self, key: &Key) -> Result<()> {
        let here = self.page.as_ref().filter(|(_, page)| page.key(0).0 < *key && *key <= page.key(page.len() - 1).0);
        if here.is_none() {
            let before = |sign: &Sign| sign.key < *key;
            let guide = self.run.guides.partition_point(|place| before(&place.sign)).saturating_sub(1);
            if self.run.guides.is_empty() {
                return Ok(());
            }
            let signs = self.open_guide(guide)?;
            self.open_page(signs.signs.partition_point(before).saturating_sub(1))?;
        }
        let Some((at, page)) = &self.page else { return Ok(()) };
        self.i = page.before(key);
        self.work.entries += 1;
        if self.i < page.len() {
            return Ok(());
        }
        // The first of the next page, if there is one.
        let (at, is_last_page) = (*at, self.guide.as_ref().is_none_or(|(_, guide)| at + 1 == guide.signs.len()));
        match self.guide.as_ref().map(|(guide, _)| *guide) {
            Some(_) if !is_last_page => self.open_page(at + 1)?,
            Some(guide) if guide + 1 < self.run.guides.len() => {
                self.open_guide(guide + 1)?;
                self.open_page(0)?;
            }
            _ => return Ok(()),
        }
        self.i = 0;
        Ok(())
    }

    /// From the newest version that `query` asks for to older ones, as long as they may reach further.
    fn versions(
        &mut self,
        group: &Key,
        query: &Query,
        reach: u64,
        counts: &impl Fn(u32) -> bool,
        found: &mut impl FnMut(Entry, u32, &Arc<Page>),
    ) -> Result<()> {
        self.seek(&Key { rank: Rank { seq: query.newest.number().saturating_add(1), base: 0 }, ..*group })?;
        let limit = query.extent.end().index().min(group.sector.saturating_add(reach));
        let mut covered = query.extent.start().index();
        while covered < limit && self.back(group, covered)? {
            let Some((_, page)) = &self.page else { return Ok(()) };
            let (key, sectors) = page.key(self.i);
            self.work.entries += 1;
            if !key.is_beside(group) || query.is_before(key.rank) {
                return Ok(());
            }
            let end = key.sector.saturating_add(sectors);
            let source = page.source(self.i);
            if end > covered && counts(source) {
                found(page.entry(self.i)?, source, page);
                covered = end;
            }
        }
        Ok(())
    }

    /// Goes to the entry before. Pages all of whose entries are versions of `group` and end before `covered` are passed over. False: there
    /// is no entry before that could matter.
    fn back(&mut self, group: &Key, covered: u64) -> Result<bool> {
        if self.i > 0 {
            self.i -= 1;
            return Ok(true);
        }
        let Some((mut at, _)) = self.page else { return Ok(false) };
        let matters = |sign: &Sign| group.sector.saturating_add(sign.longest) > covered;
        loop {
            let Some((guide, signs)) = self.guide.clone() else { return Ok(false) };
            while let Some(before) = at.checked_sub(1) {
                let Some(sign) = signs.signs.get(before) else { return Ok(false) };
                if matters(sign) {
                    self.open_page(before)?;
                    self.i = self.page.as_ref().map_or(0, |(_, page)| page.len() - 1);
                    return Ok(true);
                }
                if !sign.key.is_beside(group) {
                    return Ok(false);
                }
                at = before;
            }
            let mut guides = self.run.guides.iter().enumerate().take(guide).rev();
            let Some((before, _)) = guides.find(|(_, p)| matters(&p.sign) || !p.sign.key.is_beside(group)) else {
                return Ok(false);
            };
            at = self.open_guide(before)?.signs.len();
        }
    }

    fn open_guide(&mut self, guide: usize) -> Result<Arc<Guide>> {
        if let Some((_, signs)) = self.guide.as_ref().filter(|(known, _)| *known == guide) {
            return Ok(signs.clone());
        }
        self.work.pages += 1;
        let signs = self.run.guide(guide)?;
        self.guide = Some((guide, signs.clone()));
        self.page = None;
        Ok(signs)
    }

    /// A page of the guide that is open.
    fn open_page(&mut self, at: usize) -> Result<()> {
        if self.page.as_ref().is_some_and(|(known, _)| *known == at) {
            return Ok(());
        }
        let Some((guide, signs)) = &self.guide else { return Ok(()) };
        // The pages of a guide stand right before it.
        let of_guide = self.run.guides.get(*guide).map_or(0, |place| place.page);
        let number = of_guide.saturating_sub((signs.signs.len() - at) as u64);
        self.work.pages += 1;
        self.page = Some((at, self.run.page(number)?));
        Ok(())
    }
}
