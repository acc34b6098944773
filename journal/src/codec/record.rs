//! Records: events in the write order, and what a base read.

use super::bytes::{Malformed, Reader, Writer};
use super::note::{EpochBegin, Gap, Mark, Sealed, VolumeAdd};
use crate::limits::{FRAME_NOTES_BYTES, NOTE_BYTES, UNIT_BYTES, WRITE_SECTORS};
use crate::types::{Extent, Sector, Sectors, Seq, VolumeNo, WallTime};

/// Bytes of a record.
pub const RECORD_BYTES: usize = 48;
const IGNORABLE: u16 = 0x8000;

/// One event: when, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// By the agent's wall clock; never before the previous record's.
    pub time: WallTime,
    /// What happened.
    pub body: Body,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/FORMAT.md has the table; the fields are named as there")]
pub enum Body {
    Write {
        volume: VolumeNo,
        extent: Extent,
        place: UnitPlace,
    },
    Pattern {
        volume: VolumeNo,
        extent: Extent,
        fill: [u8; 8],
    },
    Discard {
        volume: VolumeNo,
        extent: Extent,
    },
    Flush,
    Mark(Mark),
    Point(PointClass),
    Gap(Gap),
    Resize {
        volume: VolumeNo,
        size: Sectors,
    },
    VolumeAdd {
        volume: VolumeNo,
        size: Sectors,
        add: VolumeAdd,
    },
    VolumeRemove {
        volume: VolumeNo,
    },
    Sealed(Sealed),
    RollbackBegin {
        target: Seq,
    },
    RollbackSealed {
        target: Seq,
    },
    Clock(ClockKind),
    EpochBegin(EpochBegin),
    /// Of a kind that this version does not know and may ignore.
    Ignored,
}

/// Where a write's data is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitPlace {
    /// Index in the frame's unit table.
    pub unit: u32,
    /// Byte offset in the decoded unit.
    pub offset: u32,
}

/// How a point came about (`docs/SEMANTICS.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the glossary's")]
pub enum PointClass {
    Write,
    Atomic,
    Frozen,
    Quiet,
}

/// Why there is a clock record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockKind {
    /// All up to its time has been recorded.
    Report,
    /// The wall clock was set.
    Step,
}

/// The fields as they stand on disk.
#[derive(Default)]
struct Fields {
    kind: u16,
    volume: u32,
    sector: u64,
    sectors: u64,
    unit: u32,
    offset: u32,
    argument: u64,
}

impl Record {
    /// Appends its bytes to `w`, and its note to `notes`.
    pub fn encode(&self, w: &mut Writer, notes: &mut Vec<u8>) {
        let mut note = |bytes: Vec<u8>| {
            debug_assert!(bytes.len() <= NOTE_BYTES, "a note of {} bytes", bytes.len());
            let (at, len) = (notes.len() as u64, bytes.len() as u64);
            notes.extend_from_slice(&bytes);
            at | len << 32
        };
        let on = |kind, volume: &VolumeNo, extent: &Extent| Fields {
            kind,
            volume: volume.0,
            sector: extent.start().index(),
            sectors: extent.sectors().count(),
            ..Fields::default()
        };
        let bare = |kind, argument| Fields { kind, argument, ..Fields::default() };
        let sized = |kind, volume: &VolumeNo, size: &Sectors, argument| Fields {
            kind,
            volume: volume.0,
            sectors: size.count(),
            argument,
            ..Fields::default()
        };
        let f = match &self.body {
            Body::Write { volume, extent, place } => {
                Fields { unit: place.unit + 1, offset: place.offset, ..on(1, volume, extent) }
            }
            Body::Pattern { volume, extent, fill } => {
                Fields { argument: u64::from_le_bytes(*fill), ..on(2, volume, extent) }
            }
            Body::Discard { volume, extent } => on(3, volume, extent),
            Body::Flush => bare(4, 0),
            Body::Mark(mark) => bare(5, note(mark.encode())),
            Body::Point(class) => bare(6, class.number()),
            Body::Gap(gap) => bare(7, note(gap.encode())),
            Body::Resize { volume, size } => sized(8, volume, size, 0),
            Body::VolumeAdd { volume, size, add } => sized(9, volume, size, note(add.encode())),
            Body::VolumeRemove { volume } => Fields { volume: volume.0, ..bare(10, 0) },
            Body::Sealed(sealed) => bare(11, note(sealed.encode())),
            Body::RollbackBegin { target } => bare(12, note(target.number().to_le_bytes().to_vec())),
            Body::RollbackSealed { target } => bare(13, note(target.number().to_le_bytes().to_vec())),
            Body::Clock(kind) => bare(14, u64::from(*kind == ClockKind::Step)),
            Body::EpochBegin(begin) => bare(15, note(begin.encode())),
            Body::Ignored => bare(IGNORABLE, 0),
        };
        w.u16(f.kind).u16(0).u32(f.volume).u64(f.sector).u64(f.sectors).u64(self.time.0);
        w.u32(f.unit).u32(f.offset).u64(f.argument);
    }

    /// Checked against what its kind allows; `notes` are the frame's.
    pub fn decode(r: &mut Reader<'_>, notes: &[u8]) -> Result<Self, Malformed> {
        let kind = r.u16()?;
        r.reserved(2)?;
        let (volume, sector, sectors) = (r.u32()?, r.u64()?, r.u64()?);
        let time = WallTime(r.u64()?);
        let f = Fields { kind, volume, sector, sectors, unit: r.u32()?, offset: r.u32()?, argument: r.u64()? };
        Ok(Self { time, body: f.body(notes)? })
    }
}

impl Fields {
    fn body(&self, notes: &[u8]) -> Result<Body, Malformed> {
        if self.kind & IGNORABLE != 0 {
            return Ok(Body::Ignored);
        }
        if self.kind != 1 && (self.unit != 0 || self.offset != 0) {
            return Err(Malformed("a record with data of a kind that has none"));
        }
        let volume = VolumeNo(self.volume);
        Ok(match self.kind {
            1 => self.write()?,
            2 => Body::Pattern { volume, extent: self.extent()?, fill: self.argument.to_le_bytes() },
            3 if self.argument == 0 => Body::Discard { volume, extent: self.extent()? },
            8 if self.argument == 0 && self.sector == 0 => Body::Resize { volume, size: self.size()? },
            9 if self.sector == 0 => {
                Body::VolumeAdd { volume, size: self.size()?, add: VolumeAdd::decode(self.note(notes)?)? }
            }
            10 if self.sector == 0 && self.sectors == 0 && self.argument == 0 => Body::VolumeRemove { volume },
            _ if self.volume != 0 || self.sector != 0 || self.sectors != 0 => {
                return Err(Malformed("a record with an address, of a kind that has none"));
            }
            4 if self.argument == 0 => Body::Flush,
            5 => Body::Mark(Mark::decode(self.note(notes)?)?),
            6 => Body::Point(PointClass::from_number(self.argument)?),
            7 => Body::Gap(Gap::decode(self.note(notes)?)?),
            11 => Body::Sealed(Sealed::decode(self.note(notes)?)?),
            12 => Body::RollbackBegin { target: self.target(notes)? },
            13 => Body::RollbackSealed { target: self.target(notes)? },
            14 if self.argument <= 1 => {
                Body::Clock(if self.argument == 0 { ClockKind::Report } else { ClockKind::Step })
            }
            15 => Body::EpochBegin(EpochBegin::decode(self.note(notes)?)?),
            _ => return Err(Malformed("a record of an unknown kind that may not be ignored")),
        })
    }

    fn write(&self) -> Result<Body, Malformed> {
        let unit = self.unit.checked_sub(1).ok_or(Malformed("a write without data"))?;
        let extent = self.extent()?;
        if extent.sectors().count() > WRITE_SECTORS || self.argument != 0 {
            return Err(Malformed("a write longer than writes are"));
        }
        let fits = u64::from(self.offset) + extent.bytes() <= UNIT_BYTES as u64 && self.offset.is_multiple_of(512);
        if !fits {
            return Err(Malformed("a write whose data lies outside its unit"));
        }
        Ok(Body::Write { volume: VolumeNo(self.volume), extent, place: UnitPlace { unit, offset: self.offset } })
    }

    fn extent(&self) -> Result<Extent, Malformed> {
        let start = Sector::new(self.sector).ok_or(Malformed("a record far beyond any volume"))?;
        let count = Sectors::new(self.sectors).ok_or(Malformed("a record longer than any volume"))?;
        Extent::new(start, count).ok_or(Malformed("a record of an impossible extent"))
    }

    fn size(&self) -> Result<Sectors, Malformed> {
        Sectors::new(self.sectors).ok_or(Malformed("a volume larger than volumes are"))
    }

    fn note<'n>(&self, notes: &'n [u8]) -> Result<&'n [u8], Malformed> {
        let range = || {
            let at = usize::try_from(self.argument & 0xffff_ffff).ok()?;
            let len = usize::try_from(self.argument >> 32).ok()?;
            (len <= NOTE_BYTES && at <= FRAME_NOTES_BYTES).then(|| notes.get(at..at + len)).flatten()
        };
        range().ok_or(Malformed("a note that lies outside its frame"))
    }

    fn target(&self, notes: &[u8]) -> Result<Seq, Malformed> {
        let mut r = Reader::new(self.note(notes)?);
        let target = Seq::new(r.u64()?).ok_or(Malformed("a rollback to nowhere"))?;
        r.end()?;
        Ok(target)
    }
}

impl PointClass {
    /// Its number on disk.
    pub(super) fn number(self) -> u64 {
        match self {
            Self::Write => 1,
            Self::Atomic => 2,
            Self::Frozen => 3,
            Self::Quiet => 4,
        }
    }

    /// The class with this number.
    pub(super) fn from_number(number: u64) -> Result<Self, Malformed> {
        Ok(match number {
            1 => Self::Write,
            2 => Self::Atomic,
            3 => Self::Frozen,
            4 => Self::Quiet,
            _ => return Err(Malformed("a point of an unknown class")),
        })
    }

    /// Its name in the command line's JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Atomic => "atomic",
            Self::Frozen => "frozen",
            Self::Quiet => "quiet",
        }
    }
}
