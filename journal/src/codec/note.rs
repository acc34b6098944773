//! Notes: the variable part of records about the order itself.

use super::bytes::{Malformed, Reader, Writer};
use crate::limits::NAME_BYTES;
use crate::types::{ChainHead, EpochId, Hash, Head, ResyncId, Seq, VolumeUuid, WallTime};

/// A named point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Until when retention must not touch it.
    pub locked_until: Option<WallTime>,
    /// Its name, at most 64 bytes.
    pub name: String,
}

/// Why a stretch of the order has no points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GapReason {
    /// The first copy is not whole yet.
    FirstCopy,
    /// The agent did not stop cleanly: what it missed is being looked for.
    UncleanStart,
    /// The spool had no room left.
    SpoolFull,
    /// The source failed a write or a read.
    SourceError,
    /// The tracker lost sight of the volume.
    TrackerLost,
    /// The volume was written while the agent was stopped.
    ChangedWhileStopped,
}

impl GapReason {
    const ALL: [Self; 6] = [
        Self::FirstCopy,
        Self::UncleanStart,
        Self::SpoolFull,
        Self::SourceError,
        Self::TrackerLost,
        Self::ChangedWhileStopped,
    ];

    /// Its number on disk, from 1.
    pub fn number(self) -> u16 {
        (1u16..).zip(Self::ALL).find_map(|(number, reason)| (reason == self).then_some(number)).unwrap_or(0)
    }

    fn from_number(number: u16) -> Result<Self, Malformed> {
        let place = usize::from(number).checked_sub(1).ok_or(Malformed("a gap without a reason"))?;
        Self::ALL.get(place).copied().ok_or(Malformed("a gap of an unknown reason"))
    }
}

/// From here on there are no points, until something is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Why, for programs.
    pub reason: GapReason,
    /// Why, for people.
    pub text: String,
}

/// A volume joins the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeAdd {
    /// Which, whatever it is called.
    pub uuid: VolumeUuid,
    /// What it is called.
    pub name: String,
}

/// A base is whole: what it read counts from here on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Which base.
    pub resync: ResyncId,
    /// Its chain head after the last frame.
    pub head: ChainHead,
    /// How many frames it has; 0: there was nothing to read.
    pub frames: u64,
}

/// A run of the agent begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochBegin {
    /// The epoch it continues, if there was one.
    pub parent: Option<EpochId>,
    /// The last place of the order before it.
    pub seq: Option<Seq>,
    /// The chain head there.
    pub head: ChainHead,
    /// Whether it is proven that nothing wrote the volumes in between. If not, the points end with the parent: what was written since
    /// nobody knows, and this record's time says nothing of it.
    pub continues: bool,
}

impl Mark {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u64(self.locked_until.map_or(0, |time| time.0)).put(self.name.as_bytes());
        w.finish()
    }

    /// From a note.
    pub fn decode(note: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(note);
        let locked_until = Some(r.u64()?).filter(|&time| time != 0).map(WallTime);
        Ok(Self { locked_until, name: name(r.rest())? })
    }
}

impl Gap {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u16(self.reason.number()).put(self.text.as_bytes());
        w.finish()
    }

    /// From a note.
    pub fn decode(note: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(note);
        Ok(Self { reason: GapReason::from_number(r.u16()?)?, text: text(r.rest())? })
    }
}

impl VolumeAdd {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.put(&self.uuid.0).put(self.name.as_bytes());
        w.finish()
    }

    /// From a note.
    pub fn decode(note: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(note);
        let uuid = VolumeUuid::new(r.array()?).ok_or(Malformed("a volume without an identity"))?;
        Ok(Self { uuid, name: name(r.rest())? })
    }
}

impl Sealed {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.put(&self.resync.0).put(&self.head.0.0).u64(self.frames);
        w.finish()
    }

    /// From a note.
    pub fn decode(note: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(note);
        let resync = ResyncId::new(r.array()?).ok_or(Malformed("a sealed base without an identity"))?;
        let sealed = Self { resync, head: ChainHead(Hash(r.array()?)), frames: r.u64()? };
        r.end()?;
        Ok(sealed)
    }
}

impl EpochBegin {
    /// The first run on a group.
    pub const FIRST: Self = Self { parent: None, seq: None, head: ChainHead::START, continues: false };

    /// Whether it goes on from where `head` stands.
    pub fn follows(&self, head: Option<Head>) -> bool {
        let chain = head.map_or(ChainHead::START, |head| head.chain);
        (self.parent, self.seq, self.head) == (head.map(|head| head.epoch), head.map(|head| head.seq), chain)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.put(&self.parent.map_or([0; 16], |id| id.0)).u64(Seq::encode(self.seq)).put(&self.head.0.0);
        w.u8(u8::from(self.continues));
        w.finish()
    }

    /// From a note.
    pub fn decode(note: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(note);
        let (parent, seq) = (EpochId::new(r.array()?), Seq::new(r.u64()?));
        let head = ChainHead(Hash(r.array()?));
        let continues = match r.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Malformed("an epoch that neither continues nor does not")),
        };
        r.end()?;
        Ok(Self { parent, seq, head, continues })
    }
}

fn text(bytes: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(bytes.to_vec()).map_err(|_| Malformed("a text that is not UTF-8"))
}

/// A name is data: short, printable, never a path.
fn name(bytes: &[u8]) -> Result<String, Malformed> {
    let name = text(bytes)?;
    match !name.is_empty() && name.len() <= NAME_BYTES && !name.chars().any(char::is_control) {
        true => Ok(name),
        false => Err(Malformed("a name that is empty, too long or holds control characters")),
    }
}
