//! The operations of one volume, indexed so that judging an image looks only at what touches each block.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::Path;

use crate::log::read_log;
use crate::op::{Kind, Micros, Op};
use crate::stamp::SECTOR_BYTES;
use crate::volume::Volume;

/// What happened to a volume. Judges images: see [`History::judge`] and [`History::judge_crash`].
#[derive(Debug)]
pub struct History {
    volume: Volume,
    /// In order of submission; an `OpId` is a place here, so comparing ids compares times of submission.
    ops: Vec<Op>,
    by_number: HashMap<u64, OpId>,
    /// For each 4 KiB block that was ever changed: where in `touching` its operations are.
    blocks: HashMap<u64, Range<usize>>,
    /// Ids per block, ascending.
    touching: Vec<OpId>,
    /// For each operation that shares sectors *and* time with others: those others. Their order is not known.
    rivals: HashMap<OpId, Vec<OpId>>,
    /// Times of acknowledgement of everything that changes content, ascending.
    acks: Vec<Micros>,
    /// Times of submission of everything that changes content, ascending.
    submits: Vec<Micros>,
}

/// A place in the order of submission.
pub(crate) type OpId = usize;

impl History {
    /// Indexes `ops`, in any order. Numbers must be unique.
    pub fn new(volume: Volume, mut ops: Vec<Op>) -> Self {
        ops.sort_by_key(|op| (op.submitted, op.number));
        let by_number = ops.iter().enumerate().map(|(id, op)| (op.number, id)).collect();
        let changing = || ops.iter().filter(|op| op.kind != Kind::Flush);
        let mut acks: Vec<Micros> = changing().filter_map(|op| op.acked).collect();
        acks.sort_unstable();
        let submits = changing().map(|op| op.submitted).collect();

        let mut pairs: Vec<(u64, OpId)> = Vec::new();
        for (id, op) in ops.iter().enumerate().filter(|(_, op)| op.kind != Kind::Flush && op.sectors.count > 0) {
            let blocks = op.sectors.first / BLOCK_SECTORS..=(op.sectors.end() - 1) / BLOCK_SECTORS;
            pairs.extend(blocks.map(|block| (block, id)));
        }
        pairs.sort_unstable();
        let mut blocks = HashMap::new();
        let mut start = 0;
        for run in pairs.chunk_by(|a, b| a.0 == b.0) {
            blocks.insert(run[0].0, start..start + run.len());
            start += run.len();
        }
        let touching: Vec<OpId> = pairs.into_iter().map(|(_, id)| id).collect();
        let rivals = find_rivals(&ops, blocks.values().map(|range| &touching[range.clone()]));
        Self { volume, ops, by_number, blocks, touching, rivals, acks, submits }
    }

    /// Reads the file that a [`crate::Recorder`] wrote, whether or not its process came to an orderly end.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged elsewhere than in a torn last entry.
    pub fn read(path: &Path) -> io::Result<Self> {
        let (volume, ops, _) = read_log(path)?;
        Ok(Self::new(volume, ops))
    }

    /// The volume.
    pub const fn volume(&self) -> &Volume {
        &self.volume
    }

    /// All operations in order of submission.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub(crate) fn find(&self, number: u64) -> Option<OpId> {
        self.by_number.get(&number).copied()
    }

    /// Ids of what changed anything in a block, ascending.
    pub(crate) fn touching(&self, block: u64) -> &[OpId] {
        self.blocks.get(&block).map_or(&[], |range| &self.touching[range.clone()])
    }

    pub(crate) fn rivals(&self, id: OpId) -> &[OpId] {
        self.rivals.get(&id).map_or(&[], Vec::as_slice)
    }

    /// How many changing operations were acknowledged at `at` or before.
    pub(crate) fn acked_by(&self, at: Micros) -> u64 {
        self.acks.partition_point(|ack| *ack <= at) as u64
    }

    /// How many changing operations were submitted at `at` or before.
    pub(crate) fn submitted_by(&self, at: Micros) -> u64 {
        self.submits.partition_point(|submit| *submit <= at) as u64
    }

    pub(crate) fn last_ack(&self) -> Option<Micros> {
        self.acks.last().copied()
    }
}

fn find_rivals<'a>(ops: &[Op], blocks: impl Iterator<Item = &'a [OpId]>) -> HashMap<OpId, Vec<OpId>> {
    let mut rivals: HashMap<OpId, Vec<OpId>> = HashMap::new();
    let mut active: Vec<OpId> = Vec::new();
    for list in blocks {
        active.clear();
        for &id in list {
            let op = &ops[id];
            active.retain(|other| ops[*other].end() >= op.submitted);
            for &other in active.iter().filter(|other| ops[**other].sectors.overlaps(op.sectors)) {
                rivals.entry(id).or_default().push(other);
                rivals.entry(other).or_default().push(id);
            }
            active.push(id);
        }
    }
    for list in rivals.values_mut() {
        // Two operations meet once per block that they share.
        list.sort_unstable();
        list.dedup();
    }
    rivals
}

/// The index is by blocks of this size.
pub(crate) const BLOCK_BYTES: usize = 4096;
/// The same in sectors.
pub(crate) const BLOCK_SECTORS: u64 = (BLOCK_BYTES / SECTOR_BYTES) as u64;
