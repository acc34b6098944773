//! What is said about a group: how far it is, and how its agent is.

use super::fields::{self, TEXT_BYTES, put_text, text};
use crate::codec::{Malformed, Reader, Writer};
use crate::limits::GROUP_VOLUMES;
use crate::types::{ChainHead, EpochId, FrameNo, Head, Micros, Seq, VolumeNo, WallTime};

/// Blocks of 64 KiB asked for at once when comparing.
pub const MAX_COMPARE_BLOCKS: u32 = 1024;
/// Blocks of 64 KiB whose pages are asked for at once: as much memory for the answer.
pub const MAX_PAGED_BLOCKS: usize = 128;
/// Pages of 4 KiB in a block.
pub const BLOCK_PAGES: usize = 16;
pub(super) const HEAD_BYTES: usize = 64;
pub(super) const BASE_HEAD_BYTES: usize = 40;
pub(super) const REPORT_BYTES: usize = 126;
pub(super) const VOLUME_REPORT_BYTES: usize = 8;

impl Head {
    /// 64 bytes; all zero: none.
    pub(super) fn encode(head: Option<Self>, w: &mut Writer) {
        match head {
            None => w.zeroes(HEAD_BYTES),
            Some(Self { epoch, seq, frame, chain }) => {
                w.put(&epoch.0).u64(seq.number()).u64(frame.number()).put(&chain.0.0)
            }
        };
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let (epoch, seq, frame) = (EpochId::new(r.array()?), Seq::new(r.u64()?), FrameNo::new(r.u64()?));
        let chain = fields::chain(r)?;
        match (epoch, seq, frame) {
            (Some(epoch), Some(seq), Some(frame)) => Ok(Some(Self { epoch, seq, frame, chain })),
            (None, None, None) if chain == ChainHead::START => Ok(None),
            _ => Err(Malformed("half a head")),
        }
    }
}

/// The end of a base, as the receiver has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseHead {
    /// Number of its last frame.
    pub frame: FrameNo,
    /// The chain head after it.
    pub chain: ChainHead,
}

impl BaseHead {
    /// 40 bytes; all zero: none.
    pub(super) fn encode(head: Option<Self>, w: &mut Writer) {
        match head {
            None => w.zeroes(BASE_HEAD_BYTES),
            Some(Self { frame, chain }) => w.u64(frame.number()).put(&chain.0.0),
        };
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        let (frame, chain) = (FrameNo::new(r.u64()?), fields::chain(r)?);
        match frame {
            Some(frame) => Ok(Some(Self { frame, chain })),
            None if chain == ChainHead::START => Ok(None),
            None => Err(Malformed("half a head")),
        }
    }
}

macro_rules! numbered {
    ($(#[$doc:meta])+ $name:ident, $unknown:literal { $($(#[$item:meta])+ $variant:ident = $number:literal,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$item])+ $variant,)+
        }

        impl $name {
            /// Its number on the wire.
            pub fn number(self) -> u8 {
                match self {
                    $(Self::$variant => $number,)+
                }
            }

            fn from_number(number: u8) -> Result<Self, Malformed> {
                match number {
                    $($number => Ok(Self::$variant),)+
                    _ => Err(Malformed($unknown)),
                }
            }
        }
    };
}

numbered! {
    /// What an agent does for a group: the ladder it steps down, and up again.
    AgentState, "an unknown state" {
        /// First copy.
        Seeding = 1,
        /// All that is captured goes out at once.
        Running = 2,
        /// The link is slower than the host: the spool grows.
        Spooling = 3,
        /// The spool is full: only which blocks changed is kept.
        Tracking = 4,
        /// What changed unseen is being looked for and sent.
        Resync = 5,
        /// Capture has ended.
        Halted = 6,
    }
}

numbered! {
    /// What notices the changes of a volume.
    TrackerKind, "an unknown tracker" {
        /// Every write passes through the agent.
        Tap = 1,
        /// The kernel says which blocks changed.
        Watch = 2,
        /// Reading and hashing.
        Scan = 3,
        /// Clones, compared by their extents.
        Reflink = 4,
    }
}

numbered! {
    /// Why there is no mark.
    NoMark, "an unknown reason" {
        /// There are no points now: a gap is open, or nothing was ever whole.
        NoPoints = 1,
        /// The agent stops.
        Stops = 2,
        /// Something else.
        Other = 3,
    }
}

impl NoMark {
    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let number = u8::try_from(r.u16()?).map_err(|_| Malformed("an unknown reason"))?;
        Self::from_number(number)
    }
}

/// How far a first copy or resync is, in bytes of the volumes; zeroes: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Dealt with.
    pub done_bytes: u64,
    /// In all.
    pub total_bytes: u64,
}

/// How a volume is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeReport {
    /// Which.
    pub volume: VolumeNo,
    /// How.
    pub tracker: TrackerKind,
}

/// How long changes took, in microseconds: a quantile each, 0 while there was none in this session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LagReport {
    /// Half of them took no longer.
    pub p50: Micros,
    /// 99 of 100 took no longer.
    pub p99: Micros,
    /// None took longer.
    pub max: Micros,
}

/// How an agent is, about one group, at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The agent's wall clock when it made the report.
    pub time: WallTime,
    /// What it does.
    pub state: AgentState,
    /// The last `Seq` it gave out.
    pub captured: Option<Seq>,
    /// The last `Seq` that it sent to this receiver, or that was there before.
    pub sent: Option<Seq>,
    /// Age of the oldest change that it does not know to be within a durable point, by a clock that nobody sets; `None`: there is none.
    pub oldest: Option<Micros>,
    /// How long changes took from being captured until they were known to be durable.
    pub lag: LagReport,
    /// What its spool holds.
    pub spool_bytes: u64,
    /// What its spool may hold.
    pub spool_limit_bytes: u64,
    /// Of a first copy or resync.
    pub progress: Progress,
    /// Bytes a second that it may send of the group; `None`: there is no limit.
    pub limit_bytes_per_second: Option<u64>,
    /// The age of `oldest` from which on a person wants to be warned.
    pub rpo_warn: Option<Micros>,
    /// From which on it is an error.
    pub rpo_error: Option<Micros>,
    /// Why it is in this state, for people; empty when there is nothing to say. At most 512 bytes.
    pub why: String,
    /// Its volumes, at most 256.
    pub volumes: Vec<VolumeReport>,
}

impl Report {
    pub(super) fn encode(&self, w: &mut Writer) {
        w.u64(self.time.0).u8(self.state.number()).zeroes(7).u64(Seq::encode(self.captured));
        // What was made just now is not nothing.
        w.u64(self.oldest.map_or(0, |age| age.0.max(1)));
        w.u64(self.lag.p50.0).u64(self.lag.p99.0).u64(self.lag.max.0);
        w.u64(self.spool_bytes).u64(self.spool_limit_bytes);
        w.u64(self.progress.done_bytes).u64(self.progress.total_bytes);
        w.u64(Seq::encode(self.sent)).u64(self.limit_bytes_per_second.unwrap_or(0));
        w.u64(self.rpo_warn.map_or(0, |age| age.0)).u64(self.rpo_error.map_or(0, |age| age.0));
        let count = u16::try_from(self.volumes.len()).unwrap_or(u16::MAX);
        w.u16(count).zeroes(2);
        put_text(w, &self.why, TEXT_BYTES);
        for VolumeReport { volume, tracker } in &self.volumes {
            w.u32(volume.0).u8(tracker.number()).zeroes(3);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let time = WallTime(r.u64()?);
        let state = AgentState::from_number(r.u8()?)?;
        r.reserved(7)?;
        let (captured, oldest) = (Seq::new(r.u64()?), Some(Micros(r.u64()?)).filter(|age| age.0 > 0));
        let lag = LagReport { p50: Micros(r.u64()?), p99: Micros(r.u64()?), max: Micros(r.u64()?) };
        let (spool_bytes, spool_limit_bytes) = (r.u64()?, r.u64()?);
        let progress = Progress { done_bytes: r.u64()?, total_bytes: r.u64()? };
        let sent = Seq::new(r.u64()?);
        let limit_bytes_per_second = Some(r.u64()?).filter(|limit| *limit > 0);
        let [rpo_warn, rpo_error] = [r.u64()?, r.u64()?].map(|age| Some(Micros(age)).filter(|age| age.0 > 0));
        let count = r.u16()?;
        r.reserved(2)?;
        if u32::from(count) > GROUP_VOLUMES {
            return Err(Malformed("more volumes than a group has"));
        }
        let why = text(r, TEXT_BYTES)?;
        let volumes = (0..count).map(|_| VolumeReport::decode(r)).collect::<Result<_, _>>()?;
        Ok(Self {
            time,
            state,
            captured,
            sent,
            oldest,
            lag,
            spool_bytes,
            spool_limit_bytes,
            progress,
            limit_bytes_per_second,
            rpo_warn,
            rpo_error,
            why,
            volumes,
        })
    }
}

impl VolumeReport {
    fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let volume = VolumeNo(r.u32()?);
        let tracker = TrackerKind::from_number(r.u8()?)?;
        r.reserved(3)?;
        Ok(Self { volume, tracker })
    }
}
