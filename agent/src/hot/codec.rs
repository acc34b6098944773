//! Bytes of the log, as `docs/FORMAT.md` says. Pure. What does not encode to the very bytes it was decoded from is not ours:
//! that checks the CRC, and that what has no meaning is zero.

use journal::codec::{Malformed, Reader, Writer};
use journal::types::{BootId, EpochId, GroupId, Sectors, VolumeUuid, WallTime};

use super::{EXTENT_SECTORS, ExtentNo, Head, Subject};

/// Everything in the file but its header's and note's pages is sectors of this size, each written whole or torn.
pub(super) const SECTOR: usize = 512;
/// Where the note stands: in a page of its own, so that writing it never touches another's.
pub(super) const NOTE_AT: usize = 4096;
/// Where the transactions begin.
pub(super) const TRANSACTIONS_AT: usize = 8192;
/// Transactions a file has room for. With its head it is 1 MiB, and never grows: a full disk does not stop it.
pub(super) const ROOM: usize = 2032;
/// Length of the file.
pub(super) const FILE_BYTES: usize = TRANSACTIONS_AT + ROOM * SECTOR;
/// Runs of extents that a transaction has room for.
pub(super) const RUNS_MAX: usize = 58;

const MAGIC: [u8; 8] = *b"BSPLHOT1";
const NOTE_MAGIC: [u8; 4] = *b"BSHN";
const TRANSACTION_MAGIC: [u8; 4] = *b"BSHT";
const VERSION: u16 = 1;
const STATE_ALL: u8 = 1;
const STATE_LISTED: u8 = 2;
const KIND_CHANGE: u8 = 1;
const KIND_ALL: u8 = 2;
/// In a run's length: these turn cold.
const COLD: u32 = 1 << 31;

const _: () = assert!(48 + 8 * RUNS_MAX == SECTOR);
/// A new log has room for all it must list, and as much again nearly, before it has to be written anew.
const _: () = assert!(super::HOT_MAX / RUNS_MAX < ROOM * 2 / 3);

/// When the log was last known to be tended, and how the source looked then. Written often, and not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// Transactions durable by then.
    pub(super) durable: u64,
    /// When, by the wall clock.
    pub(super) at: WallTime,
    /// When the source was last changed, as its file system says.
    pub(super) changed: WallTime,
}

/// Neighbours that turn hot, or cold, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: ExtentNo,
    /// At least 1.
    pub(super) count: u32,
    pub(super) hot: bool,
}

/// What one sector says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Transaction {
    /// From 1.
    pub(super) number: u64,
    /// The last transaction known to be durable when it was written.
    pub(super) durable: u64,
    pub(super) change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// In this order; at most [`RUNS_MAX`].
    Runs(Vec<Run>),
    /// From here on everything counts as hot.
    All,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let Self { subject, boot, salt, is_all } = self;
        let mut out = Writer::with_capacity(SECTOR);
        out.put(&MAGIC).u32(0).u16(VERSION).u8(if *is_all { STATE_ALL } else { STATE_LISTED }).u8(0);
        out.put(&subject.group.0).put(&subject.volume.0).put(&subject.epoch.0).put(&boot.0).put(salt);
        out.u64(subject.size.count()).u64(subject.dev).u64(subject.inode).u64(EXTENT_SECTORS);
        out.pad_to(SECTOR);
        out.finish_with_crc(8, 12)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(bytes);
        fields.magic(MAGIC)?;
        fields.u32()?;
        if fields.u16()? != VERSION {
            return Err(Malformed("it is of a version that this agent does not know"));
        }
        let is_all = fields.u8()? == STATE_ALL;
        fields.reserved(1)?;
        let zero = Malformed("an identity is zero");
        let group = GroupId::new(fields.array()?).ok_or(zero)?;
        let volume = VolumeUuid::new(fields.array()?).ok_or(zero)?;
        let epoch = EpochId::new(fields.array()?).ok_or(zero)?;
        let boot = BootId::new(fields.array()?).ok_or(zero)?;
        let salt = fields.array()?;
        let size = Sectors::new(fields.u64()?).ok_or(Malformed("an impossible size"))?;
        let (dev, inode) = (fields.u64()?, fields.u64()?);
        let head = Self { subject: Subject { group, volume, epoch, size, dev, inode }, boot, salt, is_all };
        same(&head.encode(), bytes).map(|()| head)
    }
}

impl Note {
    pub(super) fn encode(&self, salt: &[u8; 16]) -> Vec<u8> {
        let mut out = Writer::with_capacity(SECTOR);
        out.put(&NOTE_MAGIC).u32(0).put(salt).u64(self.durable).u64(self.at.0).u64(self.changed.0).pad_to(SECTOR);
        out.finish_with_crc(4, 8)
    }

    pub(super) fn decode(bytes: &[u8], salt: &[u8; 16]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(bytes);
        fields.magic(NOTE_MAGIC)?;
        fields.u32()?;
        fields.magic(*salt)?;
        let note = Self { durable: fields.u64()?, at: WallTime(fields.u64()?), changed: WallTime(fields.u64()?) };
        same(&note.encode(salt), bytes).map(|()| note)
    }
}

impl Transaction {
    /// Where it stands.
    pub(super) fn at(number: u64) -> u64 {
        let (start, sector) = (crate::source::bytes(TRANSACTIONS_AT), crate::source::bytes(SECTOR));
        start + sector * number.saturating_sub(1)
    }

    pub(super) fn encode(&self, salt: &[u8; 16]) -> Vec<u8> {
        let mut out = Writer::with_capacity(SECTOR);
        out.put(&TRANSACTION_MAGIC).u32(0).put(salt).u64(self.number).u64(self.durable);
        match &self.change {
            Change::All => out.u8(KIND_ALL),
            Change::Runs(runs) => {
                let count = u16::try_from(runs.len()).expect("few fit in a sector");
                out.u8(KIND_CHANGE).u8(0).u16(count).zeroes(4);
                runs.iter().for_each(|run| {
                    out.u32(run.first).u32(run.count | if run.hot { 0 } else { COLD });
                });
                &mut out
            }
        }
        .pad_to(SECTOR);
        out.finish_with_crc(4, 8)
    }

    pub(super) fn decode(bytes: &[u8], salt: &[u8; 16]) -> Result<Self, Malformed> {
        let mut fields = Reader::new(bytes);
        fields.magic(TRANSACTION_MAGIC)?;
        fields.u32()?;
        fields.magic(*salt)?;
        let (number, durable) = (fields.u64()?, fields.u64()?);
        let change = match fields.u8()? {
            KIND_ALL => Change::All,
            KIND_CHANGE => {
                fields.reserved(1)?;
                let count = usize::from(fields.u16()?);
                fields.reserved(4)?;
                if count > RUNS_MAX {
                    return Err(Malformed("more runs than a sector holds"));
                }
                let run = |_| {
                    let (first, count) = (fields.u32()?, fields.u32()?);
                    Ok(Run { first, count: count & !COLD, hot: count & COLD == 0 })
                };
                Change::Runs((0..count).map(run).collect::<Result<_, Malformed>>()?)
            }
            _ => return Err(Malformed("a kind of transaction that this agent does not know")),
        };
        let transaction = Self { number, durable, change };
        same(&transaction.encode(salt), bytes).map(|()| transaction)
    }
}

fn same(encoded: &[u8], bytes: &[u8]) -> Result<(), Malformed> {
    if encoded == bytes { Ok(()) } else { Err(Malformed("its checksum does not match")) }
}
