//! The way back up: when a group that only tracks what changes records again, and what is to be read then. Decisions only.
//!
//! | base | recorded again when |
//! |---|---|
//! | sealed | half of the spool is free, or the receiver has all of it |
//! | not sealed | the receiver has all of it, and all that was read so far |
//!
//! Half a spool: room for as much again before the next gap, so that resyncs come no more often than half spools are sent. While a base
//! is not sealed there are no points anyway: it is let come as far as it can, for with each round less is left to read again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use journal::types::{Sectors, VolumeNo};

use crate::base::{BaseVolume, Known};
use crate::capture::Lost;
use crate::dirty::DirtyMap;

/// How far the base of a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is none to be sent, or it is sealed.
    Sealed,
    /// It is not being read yet.
    Wanted,
    /// It is being read.
    Sending {
        /// A receiver has all that was to be read so far durably.
        is_there: bool,
    },
}

/// What the next rung depends on, of a group whose changes are tracked only.
#[derive(Clone, Copy, Debug)]
pub struct Climb {
    /// Its base.
    pub stage: Stage,
    /// Bytes in the spool; `None`: it cannot be written, or there is none.
    pub spool_bytes: Option<u64>,
    /// Bytes that may be in it.
    pub limit_bytes: u64,
    /// A receiver has all that was recorded durably.
    pub is_drained: bool,
}

/// What to do then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Nothing yet.
    Stay,
    /// Record again; what changed meanwhile is read.
    Record,
    /// The spool can neither be written, nor is anything in it wanted: a new one, in a new run.
    Respool,
}

/// The table above.
pub fn rung(climb: Climb) -> Rung {
    let Climb { stage, spool_bytes, limit_bytes, is_drained } = climb;
    let Some(bytes) = spool_bytes else { return if is_drained { Rung::Respool } else { Rung::Stay } };
    let ready = match stage {
        Stage::Sealed => bytes <= limit_bytes / 2 || is_drained,
        Stage::Wanted => false,
        Stage::Sending { is_there } => is_drained && is_there,
    };
    if ready { Rung::Record } else { Rung::Stay }
}

/// What is to be read of what was lost; `place` says where a volume is, and its size.
pub fn parts(lost: Lost, known: &Known, place: impl Fn(VolumeNo) -> Option<(PathBuf, Sectors)>) -> Vec<BaseVolume> {
    let parts = lost.dirty.into_iter().filter_map(|(number, dirty)| {
        let (path, size) = place(number)?;
        Some(BaseVolume { number, path, size, known: known.clone(), part: Some(Arc::new(dirty)) })
    });
    parts.collect()
}

/// All of it once more: each volume once. What was read unasked, or was missed meanwhile, has to be compared.
pub fn again(volumes: Vec<BaseVolume>) -> Vec<BaseVolume> {
    let mut all: BTreeMap<VolumeNo, BaseVolume> = BTreeMap::new();
    for volume in volumes {
        match all.get_mut(&volume.number) {
            None => _ = all.insert(volume.number, volume),
            Some(known) => {
                known.part = match (known.looked_at(), volume.looked_at()) {
                    (Some(one), Some(other)) => {
                        let mut both = DirtyMap::clone(&one);
                        both.merge(&other);
                        Some(Arc::new(both))
                    }
                    _ => None,
                };
                // It may have grown since it was first wanted.
                known.size = known.size.max(volume.size);
                known.known = Known::Compare;
            }
        }
    }
    let compared = |mut volume: BaseVolume| {
        if volume.known == Known::Unknown {
            volume.known = Known::Compare;
        }
        volume
    };
    all.into_values().map(compared).collect()
}

#[cfg(test)]
mod tests {
    use journal::types::Extent;

    use super::*;

    fn volume(number: u32, known: Known, part: Option<&[u64]>) -> BaseVolume {
        let dirty = |blocks: &[u64]| {
            let mut map = DirtyMap::default();
            blocks.iter().for_each(|block| map.mark(Extent::of_bytes(block * 4096, 4096).unwrap()));
            Arc::new(map)
        };
        let (number, size) = (VolumeNo(number), Sectors::of_bytes(1 << 30).unwrap());
        BaseVolume { number, path: "/x".into(), size, known, part: part.map(dirty) }
    }

    /// Number, what is known, and how many bytes of it.
    fn shape(volumes: Vec<BaseVolume>) -> Vec<(u32, Known, u64)> {
        again(volumes).iter().map(|volume| (volume.number.0, volume.known.clone(), volume.to_read_bytes())).collect()
    }

    #[test]
    fn what_starts_over_is_read_once_and_compared_if_anything_was_missed() {
        let whole = 1 << 30;
        assert_eq!(shape(vec![volume(1, Known::Nothing, None)]), [(1, Known::Nothing, whole)]);
        let missed = vec![volume(1, Known::Nothing, None), volume(1, Known::Unknown, Some(&[1, 2]))];
        assert_eq!(shape(missed), [(1, Known::Compare, whole)]);
        let parts = vec![
            volume(1, Known::Compare, Some(&[1, 2])),
            volume(0, Known::Unknown, Some(&[7])),
            volume(1, Known::Unknown, Some(&[2, 3])),
        ];
        assert_eq!(shape(parts), [(0, Known::Compare, 4096), (1, Known::Compare, 3 * 4096)]);
    }

    /// What changed in a part that was not there when the rest was wanted.
    #[test]
    fn what_grew_meanwhile_is_read_as_far_as_it_goes_now() {
        let grown = Sectors::of_bytes(2 << 30).unwrap();
        for part in [None, Some(&[1_u64][..])] {
            let missed = BaseVolume { size: grown, ..volume(1, Known::Compare, Some(&[300_000])) };
            let all = again(vec![volume(1, Known::Compare, part), missed]);
            assert_eq!(all.iter().map(|volume| volume.size).collect::<Vec<_>>(), [grown]);
        }
    }
}
