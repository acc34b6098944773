//! Entries of the manifest, the only root of a group's directory.

use super::bytes::{Malformed, Reader, Writer, check_crc};
use crate::types::{ChainHead, FrameNo, GroupId, Hash, ResyncId, Salt, SegmentNo, Seq, WallTime};

/// Bytes of an entry: a sector, so that a torn one takes no other with it.
pub const MANIFEST_ENTRY_BYTES: usize = 512;
const MAGIC: [u8; 4] = *b"BSMF";
const VERSION: u16 = 1;

/// An entry with its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestLine {
    /// From 0, without a hole.
    pub number: u64,
    /// Guards against a file of another group.
    pub group: GroupId,
    /// What it says.
    pub entry: ManifestEntry,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "each is a sector on disk, and few are in memory at a time")]
pub enum ManifestEntry {
    /// The first one.
    Header {
        /// Random.
        salt: Salt,
    },
    /// A segment exists, with a durable header, and may hold frames.
    Created(SegmentCreated),
    /// A segment will not change any more, and ends in its index.
    Sealed(SegmentSealed),
    /// A segment is not part of the group any more; its file may be gone.
    Dropped(SegmentNo),
    /// A clean stop.
    Stopped(Stopped),
    /// A compacted segment stands for others.
    Replaced(Replaced),
    /// Below a place only listed points are points.
    Thinned(Thinned),
}

/// A segment exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentCreated {
    /// Its number.
    pub number: SegmentNo,
    /// As in its header.
    pub salt: Salt,
    /// Base: which resync.
    pub resync: Option<ResyncId>,
    /// Live: its first `Seq`.
    pub first: Option<Seq>,
    /// Where it stands: its own number, or that of the first one it stands for.
    pub place: SegmentNo,
}

/// A segment will not change any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSealed {
    /// Its number.
    pub number: SegmentNo,
    /// Length of the file.
    pub file_bytes: u64,
    /// One past its last `Seq`; base: none.
    pub end: Option<Seq>,
    /// Chain head after its last frame.
    pub head: ChainHead,
    /// Number of its last frame.
    pub last_frame: FrameNo,
    /// Times of its first and last record.
    pub times: (WallTime, WallTime),
}

/// A compacted segment exists, and stands for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// As in its header.
    pub created: SegmentCreated,
    /// How it ends: chain and number of its own last frame.
    pub sealed: SegmentSealed,
    /// Those that are gone by this; 0: none.
    pub numbers: [SegmentNo; REPLACED_MAX],
}

/// How many segments one can stand for in one step.
pub const REPLACED_MAX: usize = 32;

/// Up to where there are only listed points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thinned {
    /// Number of the list.
    pub list: SegmentNo,
    /// The first place that was not thinned.
    pub upto: Seq,
}

/// Where the order stood at a clean stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Live head.
    pub seq: Option<Seq>,
    /// Its chain head.
    pub head: ChainHead,
    /// The keeper's clock.
    pub wall: WallTime,
}

impl ManifestLine {
    /// Whether these bytes are as somebody wrote them. If they cannot be decoded all the same, a newer version did.
    pub fn is_intact(bytes: &[u8; MANIFEST_ENTRY_BYTES]) -> bool {
        bytes.starts_with(&MAGIC) && check_crc(bytes, 4, 8).is_ok()
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::with_capacity(MANIFEST_ENTRY_BYTES);
        w.put(&MAGIC).u32(0).u64(self.number).put(&self.group.0);
        let mut kind = |number: u16| {
            w.u16(number).zeroes(6);
        };
        match &self.entry {
            ManifestEntry::Header { salt } => {
                kind(1);
                w.u16(VERSION).zeroes(6).u64(0).u64(0).put(&salt.0);
            }
            ManifestEntry::Created(c) => {
                kind(2);
                put_created(&mut w, if c.resync.is_some() { 2 } else { 1 }, c);
            }
            ManifestEntry::Sealed(s) => {
                kind(3);
                w.u64(s.number.0);
                put_end(&mut w, s);
            }
            ManifestEntry::Dropped(number) => {
                kind(4);
                w.u64(number.0);
            }
            ManifestEntry::Stopped(s) => {
                kind(5);
                w.u64(Seq::encode(s.seq)).put(&s.head.0.0).u64(s.wall.0);
            }
            ManifestEntry::Replaced(r) => {
                kind(6);
                put_created(&mut w, 3, &r.created);
                put_end(&mut w, &r.sealed);
                let count = r.numbers.iter().filter(|number| number.0 > 0).count();
                w.u64(r.created.place.0).u16(u16::try_from(count).unwrap_or(u16::MAX)).zeroes(6);
                for number in &r.numbers {
                    w.u64(number.0);
                }
            }
            ManifestEntry::Thinned(t) => {
                kind(7);
                w.u64(t.list.0).u64(t.upto.number());
            }
        }
        w.pad_to(MANIFEST_ENTRY_BYTES);
        w.finish_with_crc(4, 8)
    }

    /// Checked: CRC, version, and that the rest is empty.
    pub fn decode(bytes: &[u8; MANIFEST_ENTRY_BYTES]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        r.magic(MAGIC)?;
        check_crc(bytes, 4, 8)?;
        r.u32()?;
        let number = r.u64()?;
        let group = GroupId::new(r.array()?).ok_or(Malformed("a manifest without a group"))?;
        let kind = r.u16()?;
        r.reserved(6)?;
        let entry = match kind {
            1 => ManifestEntry::Header { salt: header(&mut r)? },
            2 => ManifestEntry::Created(created(&mut r, false)?),
            3 => {
                let number = SegmentNo(r.u64()?);
                ManifestEntry::Sealed(end(&mut r, number)?)
            }
            4 => ManifestEntry::Dropped(SegmentNo(r.u64()?)),
            5 => ManifestEntry::Stopped(Stopped {
                seq: Seq::new(r.u64()?),
                head: ChainHead(Hash(r.array()?)),
                wall: WallTime(r.u64()?),
            }),
            6 => ManifestEntry::Replaced(replaced(&mut r)?),
            7 => ManifestEntry::Thinned(Thinned {
                list: SegmentNo(r.u64()?),
                upto: Seq::new(r.u64()?).ok_or(Malformed("history that is thinned up to nowhere"))?,
            }),
            _ => return Err(Malformed("a manifest entry of an unknown kind: made by a newer version?")),
        };
        r.reserved(r.rest().len())?;
        Ok(Self { number, group, entry })
    }
}

fn header(r: &mut Reader<'_>) -> Result<Salt, Malformed> {
    if r.u16()? != VERSION {
        return Err(Malformed("a manifest of another version"));
    }
    r.reserved(6)?;
    if r.u64()? != 0 {
        return Err(Malformed("a manifest that requires a feature this version does not have"));
    }
    r.u64()?;
    Ok(Salt(r.array()?))
}

fn put_created(w: &mut Writer, kind: u8, c: &SegmentCreated) {
    w.u64(c.number.0).u8(kind).zeroes(7).put(&c.salt.0);
    w.put(&c.resync.map_or([0; 16], |id| id.0)).u64(Seq::encode(c.first));
}

fn put_end(w: &mut Writer, s: &SegmentSealed) {
    w.u64(s.file_bytes).u64(Seq::encode(s.end)).put(&s.head.0.0);
    w.u64(s.last_frame.number()).u64(s.times.0.0).u64(s.times.1.0);
}

fn created(r: &mut Reader<'_>, is_compacted: bool) -> Result<SegmentCreated, Malformed> {
    let number = SegmentNo(r.u64()?);
    let kind = r.u8()?;
    r.reserved(7)?;
    let (salt, resync, first) = (Salt(r.array()?), ResyncId::new(r.array()?), Seq::new(r.u64()?));
    match (kind, is_compacted, resync, first) {
        (1, false, None, Some(_)) | (2, false, Some(_), None) | (3, true, None, Some(_)) | (3, true, Some(_), None) => {
            Ok(SegmentCreated { number, salt, resync, first, place: number })
        }
        _ => Err(Malformed("a segment of no known kind")),
    }
}

fn replaced(r: &mut Reader<'_>) -> Result<Replaced, Malformed> {
    let created = created(r, true)?;
    let sealed = end(r, created.number)?;
    let place = SegmentNo(r.u64()?);
    let count = usize::from(r.u16()?);
    r.reserved(6)?;
    let mut numbers = [SegmentNo(0); REPLACED_MAX];
    for number in &mut numbers {
        *number = SegmentNo(r.u64()?);
    }
    let (some, none) = numbers.split_at_checked(count).ok_or(Malformed("a segment that stands for too many"))?;
    if place.0 == 0 || some.iter().any(|number| number.0 == 0) || none.iter().any(|number| number.0 != 0) {
        return Err(Malformed("a segment that stands for what is none"));
    }
    Ok(Replaced { created: SegmentCreated { place, ..created }, sealed, numbers })
}

fn end(r: &mut Reader<'_>, number: SegmentNo) -> Result<SegmentSealed, Malformed> {
    Ok(SegmentSealed {
        number,
        file_bytes: r.u64()?,
        end: Seq::new(r.u64()?),
        head: ChainHead(Hash(r.array()?)),
        last_frame: FrameNo::new(r.u64()?).ok_or(Malformed("a sealed segment without frames"))?,
        times: (WallTime(r.u64()?), WallTime(r.u64()?)),
    })
}
