//! The list of operations as it happens: in memory, and in a file that outlives a killed workload.
//!
//! One `write(2)` per entry, before sending and after the reply. The reader ignores a torn last entry. Entry, in
//! little-endian words of 64 bits:
//!
//! ```text
//!  0                                   1        2     3       4
//! │ tag, kind, writer (16), check (32) │ number │ at  │ first │ count │
//! ```
//! The first entry describes the volume: kind = fill, writer = percent of holes, number = seed, first = size in bytes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::history::History;
use crate::op::{Kind, Micros, Op, Sectors};
use crate::rng::mix;
use crate::stamp::Fill;
use crate::volume::Volume;

/// Notes operations from many threads. Cheap enough for tens of thousands a second.
#[derive(Debug)]
pub struct Recorder {
    volume: Volume,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    ops: Vec<Op>,
    next_number: u64,
    file: Option<File>,
}

/// An operation that was noted and may now be sent.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// The operation's number, for the stamps.
    pub number: u64,
    /// Its time of submission, for the stamps.
    pub submitted: Micros,
    slot: usize,
}

impl Recorder {
    /// Keeps the list in memory only.
    pub const fn in_memory(volume: Volume) -> Self {
        Self { volume, state: Mutex::new(State { ops: Vec::new(), next_number: 1, file: None }) }
    }

    /// Starts a new file.
    ///
    /// # Errors
    /// When the file exists or cannot be written.
    pub fn create(path: &Path, volume: Volume) -> io::Result<Self> {
        let mut file = File::options().append(true).create_new(true).open(path)?;
        file.write_all(&volume_entry(&volume).encode())?;
        let state = State { ops: Vec::new(), next_number: 1, file: Some(file) };
        Ok(Self { volume, state: Mutex::new(state) })
    }

    /// Goes on with the file of an earlier run, whose unanswered operations stay in doubt.
    ///
    /// # Errors
    /// As [`History::read`], or when the file cannot be written.
    pub fn reopen(path: &Path) -> io::Result<Self> {
        let (volume, ops, whole) = read_log(path)?;
        let file = File::options().append(true).open(path)?;
        file.set_len(whole)?;
        let next_number = ops.iter().map(|op| op.number).max().unwrap_or(0) + 1;
        Ok(Self { volume, state: Mutex::new(State { ops, next_number, file: Some(file) }) })
    }

    /// The volume that is written to.
    pub const fn volume(&self) -> &Volume {
        &self.volume
    }

    /// Notes an operation that is about to be sent.
    ///
    /// # Errors
    /// When the file cannot be written; the operation must not be sent then.
    pub fn submit(&self, kind: Kind, sectors: Sectors, writer: u16) -> io::Result<Ticket> {
        let mut state = self.lock();
        let number = state.next_number;
        let submitted = Micros::now();
        state.append(Entry { tag: Tag::Submitted, code: kind_code(kind), writer, number, at: submitted, sectors })?;
        state.next_number += 1;
        let slot = state.ops.len();
        state.ops.push(Op { number, kind, writer, sectors, submitted, acked: None, settled: None });
        Ok(Ticket { number, submitted, slot })
    }

    /// Notes that the server reported success; `at` was read after its reply.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn ack(&self, ticket: Ticket, at: Micros) -> io::Result<()> {
        let mut state = self.lock();
        state.append(Entry::about(Tag::Acked, ticket.number, at))?;
        state.ops[ticket.slot].acked = Some(at);
        Ok(())
    }

    /// Notes that an operation in doubt is no longer in flight since `at`: the server refused it, or is another one now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn settle(&self, ticket: Ticket, at: Micros) -> io::Result<()> {
        let mut state = self.lock();
        state.append(Entry::about(Tag::Settled, ticket.number, at))?;
        state.ops[ticket.slot].settled = Some(at);
        Ok(())
    }

    /// How many operations were noted so far.
    pub fn begun(&self) -> usize {
        self.lock().ops.len()
    }

    /// What was noted so far, ready to judge by.
    pub fn history(&self) -> History {
        let ops = self.lock().ops.clone();
        History::new(self.volume, ops)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn append(&mut self, entry: Entry) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.write_all(&entry.encode()),
            None => Ok(()),
        }
    }
}

/// The volume, the operations and how many bytes of the file are whole entries.
pub(crate) fn read_log(path: &Path) -> io::Result<(Volume, Vec<Op>, u64)> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    let (entries, _torn) = bytes.as_chunks::<ENTRY_BYTES>();
    let damaged = |at: usize| io::Error::new(io::ErrorKind::InvalidData, format!("entry {at} of the log is damaged"));
    let mut volume = None;
    let mut ops: Vec<Op> = Vec::new();
    let mut slots = HashMap::new();
    for (at, bytes) in entries.iter().enumerate() {
        let entry = Entry::decode(bytes).ok_or_else(|| damaged(at))?;
        if entry.tag == Tag::Volume {
            volume = Some(volume_of(&entry).ok_or_else(|| damaged(at))?);
            continue;
        }
        if entry.tag == Tag::Submitted {
            let Entry { writer, number, sectors, at: submitted, .. } = entry;
            let kind = kind_of(entry.code).ok_or_else(|| damaged(at))?;
            slots.insert(number, ops.len());
            ops.push(Op { number, kind, writer, sectors, submitted, acked: None, settled: None });
            continue;
        }
        let slot = *slots.get(&entry.number).ok_or_else(|| damaged(at))?;
        let field = if entry.tag == Tag::Acked { &mut ops[slot].acked } else { &mut ops[slot].settled };
        *field = Some(entry.at);
    }
    let volume =
        volume.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the log does not name its volume"))?;
    Ok((volume, ops, (entries.len() * ENTRY_BYTES) as u64))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    Volume = 1,
    Submitted,
    Acked,
    Settled,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: Tag,
    code: u8,
    writer: u16,
    number: u64,
    at: Micros,
    sectors: Sectors,
}

impl Entry {
    const fn about(tag: Tag, number: u64, at: Micros) -> Self {
        Self { tag, code: 0, writer: 0, number, at, sectors: Sectors { first: 0, count: 0 } }
    }

    fn encode(&self) -> [u8; ENTRY_BYTES] {
        let [low, high] = self.writer.to_le_bytes();
        let head = [self.tag as u8, self.code, low, high];
        let words = [self.number, self.at.0, self.sectors.first, self.sectors.count];
        let mut out = [0; ENTRY_BYTES];
        out[..4].copy_from_slice(&head);
        out[4..8].copy_from_slice(&check(head, &words));
        for (bytes, word) in out[8..].chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    fn decode(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let (words, _) = bytes.as_chunks::<8>();
        let [[tag, code, low, high, found @ ..], number, at, first, count] = words else { return None };
        let [number, at, first, count] = [number, at, first, count].map(|word| u64::from_le_bytes(*word));
        if *found != check([*tag, *code, *low, *high], &[number, at, first, count]) {
            return None;
        }
        let tag = [Tag::Volume, Tag::Submitted, Tag::Acked, Tag::Settled].into_iter().find(|t| *t as u8 == *tag)?;
        let writer = u16::from_le_bytes([*low, *high]);
        Some(Self { tag, code: *code, writer, number, at: Micros(at), sectors: Sectors { first, count } })
    }
}

fn check(head: [u8; 4], words: &[u64]) -> [u8; 4] {
    let start = mix(u64::from(u32::from_le_bytes(head)));
    let [a, b, c, d, ..] = words.iter().fold(start, |sum, word| mix(sum ^ word)).to_le_bytes();
    [a, b, c, d]
}

fn volume_entry(volume: &Volume) -> Entry {
    Entry {
        tag: Tag::Volume,
        code: volume.fill.code(),
        writer: u16::from(volume.holes_percent),
        number: volume.seed,
        at: Micros(0),
        sectors: Sectors { first: volume.size_bytes, count: 0 },
    }
}

fn volume_of(entry: &Entry) -> Option<Volume> {
    let fill = Fill::from_code(entry.code)?;
    let holes_percent = u8::try_from(entry.writer).ok()?;
    Some(Volume { seed: entry.number, size_bytes: entry.sectors.first, fill, holes_percent })
}

const KINDS: [Kind; 4] = [Kind::Write, Kind::Zero, Kind::Trim, Kind::Flush];

const fn kind_code(kind: Kind) -> u8 {
    match kind {
        Kind::Write => 0,
        Kind::Zero => 1,
        Kind::Trim => 2,
        Kind::Flush => 3,
    }
}

fn kind_of(code: u8) -> Option<Kind> {
    KINDS.get(usize::from(code)).copied()
}

const ENTRY_BYTES: usize = 40;

#[cfg(test)]
mod tests {
    use super::{ENTRY_BYTES, Recorder, read_log};
    use crate::op::{Kind, Micros, Sectors};
    use crate::{Fill, Volume};

    #[test]
    fn a_log_reads_back_cut_at_any_byte_and_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let volume = Volume { fill: Fill::Half, holes_percent: 100, ..Volume::new(9, 1 << 20) };
        let recorder = Recorder::create(&path, volume).unwrap();
        let kinds = [Kind::Write, Kind::Zero, Kind::Trim, Kind::Flush];
        let tickets = kinds.map(|kind| recorder.submit(kind, Sectors { first: 8, count: 16 }, 700).unwrap());
        recorder.ack(tickets[0], Micros::now()).unwrap();
        recorder.settle(tickets[1], Micros::now()).unwrap();
        let expected = recorder.lock().ops.clone();
        let (found, ops, whole) = read_log(&path).unwrap();
        assert_eq!((found, &ops), (volume, &expected));

        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, whole);
        for cut in ENTRY_BYTES..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let (_, ops, whole) = read_log(&path).unwrap();
            let entries = cut / ENTRY_BYTES;
            assert_eq!((ops.len(), whole), ((entries - 1).min(4), (entries * ENTRY_BYTES) as u64));
        }
        // The last cut tore the last entry: the second operation is not settled.
        let again = Recorder::reopen(&path).unwrap();
        let ticket = again.submit(Kind::Write, Sectors { first: 0, count: 1 }, 1).unwrap();
        assert_eq!(ticket.number, 5);
        let (_, ops, _) = read_log(&path).unwrap();
        assert_eq!((ops.len(), ops[0], ops[1].settled), (5, expected[0], None));
    }

    #[test]
    fn a_flipped_byte_in_the_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let recorder = Recorder::create(&path, Volume::new(9, 1 << 20)).unwrap();
        recorder.submit(Kind::Write, Sectors { first: 8, count: 16 }, 7).unwrap();
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            read_log(&path).unwrap_err();
        }
    }
}
