//! The pages of a run: entries, and guides to where which entries are.

use crate::codec::{Malformed, Reader, Writer};
use crate::index::entry::{Entry, Rank};
use crate::types::Salt;

/// Bytes of a page: small enough to be read for one entry, large enough that guides are a four-hundredth.
pub(super) const PAGE_BYTES: usize = 16 * 1024;
/// An entry and the source it came from.
pub(super) const ITEM_BYTES: usize = Entry::BYTES + 4;
/// What a guide says of a page.
pub(super) const SIGN_BYTES: usize = 40;
pub(super) const HEAD_BYTES: usize = 40;
/// Pages that one guide leads to.
pub(super) const GUIDE_PAGES: usize = (PAGE_BYTES - HEAD_BYTES) / SIGN_BYTES;
const DATA_MAGIC: [u8; 4] = *b"BSRD";
const GUIDE_MAGIC: [u8; 4] = *b"BSRG";

/// What entries are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) class: u32,
    pub(crate) volume: u32,
    pub(crate) sector: u64,
    pub(crate) rank: Rank,
}

impl Key {
    pub(crate) fn of(entry: &Entry) -> Self {
        Self { class: entry.class(), volume: entry.volume, sector: entry.sector, rank: entry.rank }
    }

    /// Whether both are versions of extents with the same start and class.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        (self.class, self.volume, self.sector) == (other.class, other.volume, other.sector)
    }
}

/// What a guide says of a page, or the list of guides of a guide page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sign {
    /// Its first entry's.
    pub(super) key: Key,
    /// Sectors of its longest entry.
    pub(super) longest: u64,
}

impl Sign {
    pub(super) fn encode(&self, w: &mut Writer) {
        let Key { class, volume, sector, rank } = self.key;
        w.u32(class).u32(volume).u64(sector).u64(rank.seq).u32(rank.base).u32(0).u64(self.longest);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (class, volume, sector, seq, base) = (r.u32()?, r.u32()?, r.u64()?, r.u64()?, r.u32()?);
        r.reserved(4)?;
        Ok(Self { key: Key { class, volume, sector, rank: Rank { seq, base } }, longest: r.u64()? })
    }
}

/// A checked page of entries, and the CRCs of their units.
#[derive(Debug)]
pub(crate) struct Page {
    bytes: Box<[u8]>,
    entries: usize,
}

/// A checked page of signs.
#[derive(Debug)]
pub(crate) struct Guide {
    pub(super) signs: Vec<Sign>,
}

impl Page {
    /// The page if it is the one with this number in the run with this salt, and whole.
    pub(super) fn check(bytes: Box<[u8]>, number: u64, salt: Salt) -> Result<Self, Malformed> {
        let (entries, crcs) = check_head(&bytes, DATA_MAGIC, number, salt)?;
        if entries == 0 || HEAD_BYTES + entries * ITEM_BYTES + crcs * 4 > PAGE_BYTES {
            return Err(Malformed("a page of a run with more than fits"));
        }
        Ok(Self { bytes, entries })
    }

    /// Entries in it.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// What the i-th entry is sorted by, and how many sectors it has.
    pub(super) fn key(&self, i: usize) -> (Key, u64) {
        let item = self.item(i);
        let (sector, seq, base) = (field(item, 0), field(item, 8), half(item, 16));
        let (volume, sectors) = (half(item, 20), field(item, 24));
        // As an entry's, without a number that could be too large for it.
        let class = u64::BITS - (sectors.max(1) - 1).leading_zeros();
        (Key { class, volume, sector, rank: Rank { seq, base } }, sectors)
    }

    /// Which of the run's sources the i-th entry came from.
    pub(super) fn source(&self, i: usize) -> u32 {
        half(self.item(i), Entry::BYTES)
    }

    /// The i-th entry; CRCs of its unit are in this page.
    pub(super) fn entry(&self, i: usize) -> Result<Entry, Malformed> {
        Entry::decode(&mut Reader::new(self.item(i)))
    }

    /// How many entries are before `key`.
    pub(super) fn before(&self, key: &Key) -> usize {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.key(middle).0 < *key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// A CRC, by its place in the page.
    pub(crate) fn crc(&self, place: usize) -> Option<u32> {
        let at = HEAD_BYTES + self.entries * ITEM_BYTES + place.checked_mul(4)?;
        Some(u32::from_le_bytes(*self.bytes.get(at..)?.first_chunk()?))
    }

    /// Bytes it takes in memory.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.len()
    }

    fn item(&self, i: usize) -> &[u8] {
        let at = HEAD_BYTES + i * ITEM_BYTES;
        &self.bytes[at..at + ITEM_BYTES]
    }
}

impl Guide {
    /// As [`Page::check`].
    pub(super) fn check(bytes: &[u8], number: u64, salt: Salt) -> Result<Self, Malformed> {
        let (count, _) = check_head(bytes, GUIDE_MAGIC, number, salt)?;
        // The pages that it is about stand before it.
        if count == 0 || count > GUIDE_PAGES || (count as u64) > number {
            return Err(Malformed("a guide with more than fits"));
        }
        let mut r = Reader::new(bytes.get(HEAD_BYTES..).unwrap_or_default());
        let signs = (0..count).map(|_| Sign::decode(&mut r)).collect::<Result<Vec<_>, _>>()?;
        if !signs.is_sorted_by_key(|sign| sign.key) {
            return Err(Malformed("a guide out of order"));
        }
        Ok(Self { signs })
    }
}

/// Whether it says of itself that it is a guide; not checked.
pub(super) fn is_guide(bytes: &[u8]) -> bool {
    bytes.starts_with(&GUIDE_MAGIC)
}

/// A page of entries: items, then CRCs.
pub(super) fn encode_data(number: u64, salt: Salt, items: &[u8], crcs: &[u32]) -> Vec<u8> {
    let count = u32::try_from(items.len() / ITEM_BYTES).unwrap_or(u32::MAX);
    let mut w = head(DATA_MAGIC, number, salt, count, u32::try_from(crcs.len()).unwrap_or(u32::MAX));
    w.put(items);
    crcs.iter().for_each(|crc| _ = w.u32(*crc));
    w.pad_to(PAGE_BYTES);
    w.finish_with_crc(4, 8)
}

/// A page of signs.
pub(super) fn encode_guide(number: u64, salt: Salt, signs: &[Sign]) -> Vec<u8> {
    let mut w = head(GUIDE_MAGIC, number, salt, u32::try_from(signs.len()).unwrap_or(u32::MAX), 0);
    signs.iter().for_each(|sign| sign.encode(&mut w));
    w.pad_to(PAGE_BYTES);
    w.finish_with_crc(4, 8)
}

fn head(magic: [u8; 4], number: u64, salt: Salt, count: u32, crcs: u32) -> Writer {
    let mut w = Writer::with_capacity(PAGE_BYTES);
    w.put(&magic).u32(0).u64(number).put(&salt.0).u32(count).u32(crcs);
    w
}

/// Both counts of a page that is what it has to be.
fn check_head(bytes: &[u8], magic: [u8; 4], number: u64, salt: Salt) -> Result<(usize, usize), Malformed> {
    let mut r = Reader::new(bytes);
    r.magic(magic)?;
    let crc = r.u32()?;
    if bytes.len() != PAGE_BYTES || crc32fast::hash(r.rest()) != crc {
        return Err(Malformed("a page of a run that does not match its checksum"));
    }
    if r.u64()? != number || Salt(r.array()?) != salt {
        return Err(Malformed("a page of a run that belongs elsewhere"));
    }
    let count = |count| usize::try_from(count).unwrap_or(usize::MAX);
    let counts = (count(r.u32()?), count(r.u32()?));
    // Far below what could overflow.
    if counts.0.max(counts.1) > PAGE_BYTES {
        return Err(Malformed("a page of a run with more than fits"));
    }
    Ok(counts)
}

fn field(item: &[u8], at: usize) -> u64 {
    item.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn half(item: &[u8], at: usize) -> u32 {
    item.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
