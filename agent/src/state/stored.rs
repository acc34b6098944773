//! `state.json`: the group's state as text. Parsed into the real types at once, or refused.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use journal::log::Head;
use journal::types::{ChainHead, EpochId, FrameNo, GroupId, Hash, Sectors, Seq, VolumeNo, VolumeUuid};
use serde::{Deserialize, Serialize};

use super::{GroupState, OpenedEpoch, Place, Stopped, UNREAD_RANGES, Volume};
use crate::source::{FileProof, Identity};
use crate::{Error, Result};

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    group: String,
    name: String,
    volumes: Vec<StoredVolume>,
    next_volume: u32,
    epochs: Vec<StoredEpoch>,
    durable: Option<StoredHead>,
    #[serde(default)]
    place: Option<Place>,
    stopped: Option<StoredStop>,
    /// A version that does not know of it must not let anybody write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rollback: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredVolume {
    number: u32,
    uuid: String,
    name: String,
    path: PathBuf,
    size_sectors: u64,
    #[serde(default)]
    identity: Option<Identity>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredEpoch {
    id: String,
    parent: Option<String>,
    seq: Option<u64>,
    chain: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredHead {
    epoch: String,
    seq: u64,
    frame: u64,
    chain: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredStop {
    head: StoredHead,
    proofs: BTreeMap<u32, FileProof>,
    /// `FIRST+BYTES,FIRST+BYTES` of each volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unread: Option<BTreeMap<u32, String>>,
}

/// Only the version: a newer file may have anything else in it.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl GroupState {
    /// As text.
    pub(super) fn encode(&self) -> Result<Vec<u8>> {
        let volumes = self.volumes.iter().map(|(number, volume)| StoredVolume {
            number: number.0,
            uuid: volume.uuid.to_string(),
            name: volume.name.clone(),
            path: volume.path.clone(),
            size_sectors: volume.size.count(),
            identity: volume.identity.clone(),
        });
        let epochs = self.epochs.iter().map(|epoch| StoredEpoch {
            id: epoch.id.to_string(),
            parent: epoch.parent.map(|id| id.to_string()),
            seq: epoch.seq.map(Seq::number),
            chain: epoch.chain.to_string(),
        });
        let stopped = self.stopped.as_ref().map(|stopped| StoredStop {
            head: StoredHead::of(&stopped.head),
            proofs: stopped.proofs.iter().map(|(number, proof)| (number.0, *proof)).collect(),
            unread: stopped
                .unread
                .as_ref()
                .map(|unread| unread.iter().map(|(number, ranges)| (number.0, ranges_text(ranges))).collect()),
        });
        let file = File {
            version: VERSION,
            group: self.id.to_string(),
            name: self.name.clone(),
            volumes: volumes.collect(),
            next_volume: self.next_volume.0,
            epochs: epochs.collect(),
            durable: self.durable.as_ref().map(StoredHead::of),
            place: self.place.clone(),
            stopped,
            rollback: self.rollback.map(Seq::number),
        };
        let failed = |error| Error::invalid("the state cannot be written as text").with_source(error);
        serde_json::to_vec_pretty(&file).map_err(failed)
    }

    /// From text.
    pub(super) fn decode(text: &[u8]) -> Result<Self> {
        let failed = |error| Error::corrupt("not a state of ours").with_source(error);
        let Version { version } = serde_json::from_slice(text).map_err(failed)?;
        if version != VERSION {
            return Err(Error::unsupported(format!("a state of version {version}, this agent knows {VERSION}")));
        }
        let file: File = serde_json::from_slice(text).map_err(failed)?;
        file.parse().ok_or_else(|| Error::corrupt("a state with an impossible number or identity in it"))
    }
}

impl File {
    fn parse(self) -> Option<GroupState> {
        let volumes = self.volumes.into_iter().map(|stored| {
            let uuid = VolumeUuid::parse(&stored.uuid)?;
            let size = Sectors::new(stored.size_sectors)?;
            let StoredVolume { name, path, identity, .. } = stored;
            Some((VolumeNo(stored.number), Volume { uuid, name, path, size, identity }))
        });
        let epochs = self.epochs.iter().map(|stored| {
            Some(OpenedEpoch {
                id: EpochId::parse(&stored.id)?,
                parent: match &stored.parent {
                    Some(id) => Some(EpochId::parse(id)?),
                    None => None,
                },
                seq: match stored.seq {
                    Some(number) => Some(Seq::new(number)?),
                    None => None,
                },
                chain: chain(&stored.chain)?,
            })
        });
        Some(GroupState {
            id: GroupId::parse(&self.group)?,
            name: self.name,
            volumes: volumes.collect::<Option<_>>()?,
            next_volume: VolumeNo(self.next_volume),
            epochs: epochs.collect::<Option<_>>()?,
            durable: match self.durable {
                Some(head) => Some(head.parse()?),
                None => None,
            },
            place: self.place,
            stopped: match self.stopped {
                Some(StoredStop { head, proofs, unread }) => Some(Stopped {
                    head: head.parse()?,
                    proofs: proofs.into_iter().map(|(number, proof)| (VolumeNo(number), proof)).collect(),
                    unread: match unread {
                        Some(unread) => {
                            let parsed = unread.iter().map(|(number, text)| Some((VolumeNo(*number), ranges(text)?)));
                            Some(parsed.collect::<Option<_>>()?)
                        }
                        None => None,
                    },
                }),
                None => None,
            },
            rollback: match self.rollback {
                Some(target) => Some(Seq::new(target)?),
                None => None,
            },
        })
    }
}

impl StoredHead {
    fn of(head: &Head) -> Self {
        Self {
            epoch: head.epoch.to_string(),
            seq: head.seq.number(),
            frame: head.frame.number(),
            chain: head.chain.to_string(),
        }
    }

    fn parse(&self) -> Option<Head> {
        Some(Head {
            epoch: EpochId::parse(&self.epoch)?,
            seq: Seq::new(self.seq)?,
            frame: FrameNo::new(self.frame)?,
            chain: chain(&self.chain)?,
        })
    }
}

fn ranges_text(ranges: &[Range<u64>]) -> String {
    let texts: Vec<_> = ranges.iter().map(|range| format!("{}+{}", range.start, range.end - range.start)).collect();
    texts.join(",")
}

/// In order, apart, not empty, and not too many.
fn ranges(text: &str) -> Option<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (start, length) = part.split_once('+')?;
        let (start, length) = (start.parse().ok()?, length.parse::<u64>().ok().filter(|length| *length > 0)?);
        let range = start..u64::checked_add(start, length)?;
        if ranges.len() == UNREAD_RANGES || ranges.last().is_some_and(|last| last.end >= range.start) {
            return None;
        }
        ranges.push(range);
    }
    Some(ranges)
}

fn chain(text: &str) -> Option<ChainHead> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(ChainHead(Hash(hash)))
}
