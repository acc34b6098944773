//! The messages themselves: bodies to values and back.

use bytes::Bytes;

use super::fields::{self, TEXT_BYTES, put_text, put_time, text};
use super::group::{BaseHead, MAX_COMPARE_BLOCKS, MAX_PAGED_BLOCKS, NoMark, Report};
use super::handshake::{Hello, Welcome};
use super::header::{MESSAGE_HEADER_BYTES, MessageHeader, Tag};
use super::refusal::Refusal;
use super::rollback::{NoRollback, RollbackBlocks, RollbackOpening};
use crate::codec::{Malformed, Reader, Writer};
use crate::limits::NAME_BYTES;
use crate::types::{Changed, GroupId, Hash, Head, ResyncId, Seq, VolumeNo, WallTime};

/// Everything that is said on a session's streams. Which may be said where stands in `docs/PROTOCOL.md`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The agent's first word.
    Hello(Hello),
    /// The receiver's answer to it.
    Welcome(Welcome),
    /// No, and why: the answer to any opening.
    Refused(Refusal),
    /// The agent wants to send a group's order.
    OpenGroup {
        /// Which.
        group: GroupId,
        /// What people call it.
        name: String,
    },
    /// How far the receiver has it, durably; `None`: it has nothing of it yet.
    Opened(Option<Head>),
    /// A frame, of the group's order or of a base. Not looked into here: [`Frame::check`](crate::frame::Frame::check) is.
    Frame(Bytes),
    /// How the agent is.
    Report {
        /// About which group.
        group: GroupId,
        /// How.
        report: Report,
    },
    /// The mark is in the order.
    MarkDone {
        /// Which request.
        request: u64,
        /// The mark's place.
        seq: Seq,
    },
    /// There will be no mark.
    MarkFailed {
        /// Which request.
        request: u64,
        /// Why, for programs.
        reason: NoMark,
        /// Why, for people.
        text: String,
    },
    /// The agent stops of its own will; all is sent.
    Bye,
    /// What survived `fdatasync` at the receiver, with everything needed to find it.
    Durable(Head),
    /// The receiver asks for a mark.
    MarkRequest {
        /// Answers name it.
        request: u64,
        /// Until when retention must not touch it.
        locked_until: Option<WallTime>,
        /// The mark's name, at most 64 bytes.
        name: String,
    },
    /// The agent wants to send a base.
    OpenBase {
        /// Of which group.
        group: GroupId,
        /// Which first copy or resync.
        resync: ResyncId,
    },
    /// How far the receiver has it, durably; `None`: it has nothing of it yet.
    BaseOpened(Option<BaseHead>),
    /// How much of the base survived `fdatasync`.
    BaseDurable(BaseHead),
    /// The agent wants to compare.
    OpenCompare {
        /// Which group.
        group: GroupId,
        /// As of which place in the order.
        at: Seq,
    },
    /// It may.
    CompareReady,
    /// Asks for the hashes of some blocks of 64 KiB.
    CompareRange {
        /// Of which volume.
        volume: VolumeNo,
        /// From which block on.
        first_block: u64,
        /// How many, 1..=1024.
        blocks: u32,
    },
    /// The hashes asked for; fewer where the volume ends earlier.
    BlockHashes {
        /// The first block asked for.
        first_block: u64,
        /// BLAKE3 of each block's bytes.
        hashes: Vec<Hash>,
    },
    /// The agent wants to know which extents changed after `after`, and up to `at`.
    OpenChanged {
        /// Of which group.
        group: GroupId,
        /// From the record after this one on; `None`: from the first.
        after: Option<Seq>,
        /// Up to this record, which has to be durable at the receiver.
        at: Seq,
    },
    /// It may ask; when the record at `at` was made.
    ChangedReady(WallTime),
    /// Asks for changed extents.
    ChangedFrom {
        /// Of which volume.
        volume: VolumeNo,
        /// From this extent on.
        first: u32,
    },
    /// Those that changed.
    ChangedExtents(Changed),
    /// Asks for the hashes of all pages of 4 KiB of some blocks of 64 KiB.
    ComparePages {
        /// Of which volume.
        volume: VolumeNo,
        /// Which blocks, in order: 1..=128.
        blocks: Vec<u64>,
    },
    /// The hashes asked for, one block's after the other's; fewer where the volume ends earlier.
    PageHashes {
        /// The first block asked for.
        first_block: u64,
        /// BLAKE3 of each page's bytes.
        hashes: Vec<Hash>,
    },
    /// The receiver wants to take the sources of a group back.
    OpenRollback(RollbackOpening),
    /// Nobody writes to the sources, but for who sends this and what is sent to it.
    RollbackReady {
        /// As of which place the order says what they hold: durable.
        seq: Seq,
        /// Clients that were put out, or would be.
        clients: u32,
    },
    /// What will be sent is known, and begins.
    RollbackBegin {
        /// Blocks of 4 KiB that differ.
        blocks: u64,
        /// Bytes that differ.
        bytes: u64,
    },
    /// The order says durably that it began.
    RollbackBegun {
        /// Where.
        seq: Seq,
    },
    /// What blocks are to hold.
    RollbackBlocks(RollbackBlocks),
    /// How much of what was sent is on the sources and in the order.
    RollbackDone {
        /// Bytes of all messages so far.
        bytes: u64,
    },
    /// All was sent.
    RollbackEnd {
        /// Messages.
        messages: u64,
        /// Bytes of all of them.
        bytes: u64,
    },
    /// The sources are there, durably, and the order says so, durably.
    RollbackSealed {
        /// Where.
        seq: Seq,
    },
    /// The sources do not go back, or not now.
    RollbackRefused {
        /// Why, for programs.
        reason: NoRollback,
        /// Why, for people.
        text: String,
    },
}

impl Message {
    /// Which it is.
    pub fn tag(&self) -> Tag {
        match self {
            Self::Hello(_) => Tag::Hello,
            Self::Welcome(_) => Tag::Welcome,
            Self::Refused(_) => Tag::Refused,
            Self::OpenGroup { .. } => Tag::OpenGroup,
            Self::Opened(_) => Tag::Opened,
            Self::Frame(_) => Tag::Frame,
            Self::Report { .. } => Tag::Report,
            Self::MarkDone { .. } => Tag::MarkDone,
            Self::MarkFailed { .. } => Tag::MarkFailed,
            Self::Bye => Tag::Bye,
            Self::Durable(_) => Tag::Durable,
            Self::MarkRequest { .. } => Tag::MarkRequest,
            Self::OpenBase { .. } => Tag::OpenBase,
            Self::BaseOpened(_) => Tag::BaseOpened,
            Self::BaseDurable(_) => Tag::BaseDurable,
            Self::OpenCompare { .. } => Tag::OpenCompare,
            Self::CompareReady => Tag::CompareReady,
            Self::CompareRange { .. } => Tag::CompareRange,
            Self::BlockHashes { .. } => Tag::BlockHashes,
            Self::OpenChanged { .. } => Tag::OpenChanged,
            Self::ChangedReady(_) => Tag::ChangedReady,
            Self::ChangedFrom { .. } => Tag::ChangedFrom,
            Self::ChangedExtents(_) => Tag::ChangedExtents,
            Self::ComparePages { .. } => Tag::ComparePages,
            Self::PageHashes { .. } => Tag::PageHashes,
            Self::OpenRollback(_) => Tag::OpenRollback,
            Self::RollbackReady { .. } => Tag::RollbackReady,
            Self::RollbackBegin { .. } => Tag::RollbackBegin,
            Self::RollbackBegun { .. } => Tag::RollbackBegun,
            Self::RollbackBlocks(_) => Tag::RollbackBlocks,
            Self::RollbackDone { .. } => Tag::RollbackDone,
            Self::RollbackEnd { .. } => Tag::RollbackEnd,
            Self::RollbackSealed { .. } => Tag::RollbackSealed,
            Self::RollbackRefused { .. } => Tag::RollbackRefused,
        }
    }

    /// Header and body. Texts for people are cut to their limit.
    ///
    /// # Panics
    /// If a name or a list is longer than its limit: whoever made it did not check it.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.zeroes(MESSAGE_HEADER_BYTES);
        self.encode_body(&mut w);
        let header = MessageHeader::new(self.tag(), w.len() - MESSAGE_HEADER_BYTES);
        let mut bytes = w.finish();
        if let Some(room) = bytes.first_chunk_mut() {
            *room = header.encode();
        }
        bytes
    }

    fn encode_body(&self, w: &mut Writer) {
        match self {
            Self::Hello(hello) => hello.encode(w),
            Self::Welcome(welcome) => welcome.encode(w),
            Self::Refused(refusal) => refusal.encode(w),
            Self::OpenGroup { group, name } => put_text(w.put(&group.0), name, NAME_BYTES),
            Self::Opened(head) => Head::encode(*head, w),
            Self::Frame(bytes) => {
                w.put(bytes);
            }
            Self::Report { group, report } => report.encode(w.put(&group.0)),
            Self::MarkDone { request, seq } => {
                w.u64(*request).u64(seq.number());
            }
            Self::MarkFailed { request, reason, text } => {
                put_text(w.u64(*request).u16(reason.number().into()), text, TEXT_BYTES);
            }
            Self::Bye | Self::CompareReady => {}
            Self::Durable(head) => Head::encode(Some(*head), w),
            Self::MarkRequest { request, locked_until, name } => {
                put_time(w.u64(*request), *locked_until);
                put_text(w, name, NAME_BYTES);
            }
            Self::OpenBase { group, resync } => {
                w.put(&group.0).put(&resync.0);
            }
            Self::BaseOpened(head) => BaseHead::encode(*head, w),
            Self::BaseDurable(head) => BaseHead::encode(Some(*head), w),
            Self::OpenCompare { group, at } => {
                w.put(&group.0).u64(at.number());
            }
            Self::CompareRange { volume, first_block, blocks } => {
                w.u32(volume.0).u32(*blocks).u64(*first_block);
            }
            Self::BlockHashes { first_block, hashes } | Self::PageHashes { first_block, hashes } => {
                w.u64(*first_block);
                for hash in hashes {
                    w.put(&hash.0);
                }
            }
            Self::OpenChanged { group, after, at } => {
                w.put(&group.0).u64(Seq::encode(*after)).u64(at.number());
            }
            Self::ChangedReady(time) => {
                w.u64(time.0);
            }
            Self::ChangedFrom { volume, first } => {
                w.u32(volume.0).u32(*first);
            }
            Self::ChangedExtents(changed) => changed.encode(w),
            Self::ComparePages { volume, blocks } => {
                w.u32(volume.0).u32(0);
                for block in blocks {
                    w.u64(*block);
                }
            }
            Self::OpenRollback(opening) => opening.encode(w),
            Self::RollbackReady { seq, clients } => {
                w.u64(seq.number()).u32(*clients).u32(0);
            }
            Self::RollbackBegin { blocks: one, bytes: two } | Self::RollbackEnd { messages: one, bytes: two } => {
                w.u64(*one).u64(*two);
            }
            Self::RollbackBegun { seq } | Self::RollbackSealed { seq } => {
                w.u64(seq.number());
            }
            Self::RollbackBlocks(blocks) => blocks.encode(w),
            Self::RollbackDone { bytes } => {
                w.u64(*bytes);
            }
            Self::RollbackRefused { reason, text } => {
                put_text(w.u16(reason.number().into()), text, TEXT_BYTES);
            }
        }
    }

    /// The message with this tag and body; a frame keeps the body, and so do blocks: nothing is copied.
    pub fn decode(tag: Tag, body: Bytes) -> Result<Self, Malformed> {
        if !tag.body_bytes().contains(&body.len()) {
            return Err(Malformed("a message of a length it cannot have"));
        }
        if tag == Tag::Frame {
            return Ok(Self::Frame(body));
        }
        if tag == Tag::RollbackBlocks {
            return RollbackBlocks::decode(body).map(Self::RollbackBlocks);
        }
        let mut r = Reader::new(&body);
        let message = Self::decode_body(tag, &mut r)?;
        r.end()?;
        Ok(message)
    }

    fn decode_body(tag: Tag, r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(match tag {
            Tag::Hello => Self::Hello(Hello::decode(r)?),
            Tag::Welcome => Self::Welcome(Welcome::decode(r)?),
            Tag::Refused => Self::Refused(Refusal::decode(r)?),
            Tag::OpenGroup => Self::OpenGroup { group: fields::group(r)?, name: fields::name(r)? },
            Tag::Opened => Self::Opened(Head::decode(r)?),
            Tag::Frame | Tag::RollbackBlocks => return Err(Malformed("data is not decoded here")),
            Tag::Report => Self::Report { group: fields::group(r)?, report: Report::decode(r)? },
            Tag::MarkDone => Self::MarkDone { request: r.u64()?, seq: fields::seq(r)? },
            Tag::MarkFailed => {
                Self::MarkFailed { request: r.u64()?, reason: NoMark::decode(r)?, text: text(r, TEXT_BYTES)? }
            }
            Tag::Bye => Self::Bye,
            Tag::Durable => Self::Durable(Head::decode(r)?.ok_or(Malformed("nothing is durable"))?),
            Tag::MarkRequest => Self::MarkRequest {
                request: r.u64()?,
                locked_until: fields::time(r)?,
                name: Some(text(r, NAME_BYTES)?).filter(|name| !name.is_empty()).ok_or(Malformed("no name"))?,
            },
            Tag::OpenBase => Self::OpenBase { group: fields::group(r)?, resync: resync(r)? },
            Tag::BaseOpened => Self::BaseOpened(BaseHead::decode(r)?),
            Tag::BaseDurable => Self::BaseDurable(BaseHead::decode(r)?.ok_or(Malformed("nothing is durable"))?),
            Tag::OpenCompare => Self::OpenCompare { group: fields::group(r)?, at: fields::seq(r)? },
            Tag::CompareReady => Self::CompareReady,
            Tag::CompareRange => Self::decode_range(r)?,
            Tag::BlockHashes => {
                let (first_block, hashes) = Self::decode_hashes(r)?;
                Self::BlockHashes { first_block, hashes }
            }
            Tag::OpenChanged => {
                Self::OpenChanged { group: fields::group(r)?, after: Seq::new(r.u64()?), at: fields::seq(r)? }
            }
            Tag::ChangedReady => Self::ChangedReady(WallTime(r.u64()?)),
            Tag::ChangedFrom => Self::ChangedFrom { volume: VolumeNo(r.u32()?), first: r.u32()? },
            Tag::ChangedExtents => Self::ChangedExtents(Changed::decode(r)?),
            Tag::ComparePages => Self::decode_pages(r)?,
            Tag::PageHashes => {
                let (first_block, hashes) = Self::decode_hashes(r)?;
                Self::PageHashes { first_block, hashes }
            }
            Tag::OpenRollback => Self::OpenRollback(RollbackOpening::decode(r)?),
            Tag::RollbackReady => {
                let ready = Self::RollbackReady { seq: fields::seq(r)?, clients: r.u32()? };
                r.reserved(4)?;
                ready
            }
            Tag::RollbackBegin => Self::RollbackBegin { blocks: r.u64()?, bytes: r.u64()? },
            Tag::RollbackBegun => Self::RollbackBegun { seq: fields::seq(r)? },
            Tag::RollbackDone => Self::RollbackDone { bytes: r.u64()? },
            Tag::RollbackEnd => Self::RollbackEnd { messages: r.u64()?, bytes: r.u64()? },
            Tag::RollbackSealed => Self::RollbackSealed { seq: fields::seq(r)? },
            Tag::RollbackRefused => {
                Self::RollbackRefused { reason: NoRollback::decode(r)?, text: text(r, TEXT_BYTES)? }
            }
        })
    }

    fn decode_range(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let (volume, blocks, first_block) = (VolumeNo(r.u32()?), r.u32()?, r.u64()?);
        let possible = (1..=MAX_COMPARE_BLOCKS).contains(&blocks) && first_block < BLOCKS;
        if possible { Ok(Self::CompareRange { volume, first_block, blocks }) } else { Err(Malformed("no such blocks")) }
    }

    fn decode_pages(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let volume = VolumeNo(r.u32()?);
        r.reserved(4)?;
        let (blocks, rest) = r.rest().as_chunks();
        let blocks: Vec<u64> = blocks.iter().map(|&block| u64::from_le_bytes(block)).collect();
        let in_order = blocks.is_sorted_by(|block, next| block < next);
        let possible =
            (1..=MAX_PAGED_BLOCKS).contains(&blocks.len()) && blocks.last().is_some_and(|&last| last < BLOCKS);
        if !rest.is_empty() || !in_order || !possible {
            return Err(Malformed("no such blocks"));
        }
        *r = Reader::new(rest);
        Ok(Self::ComparePages { volume, blocks })
    }

    fn decode_hashes(r: &mut Reader<'_>) -> Result<(u64, Vec<Hash>), Malformed> {
        let first_block = r.u64()?;
        let (hashes, rest) = r.rest().as_chunks();
        if !rest.is_empty() {
            return Err(Malformed("half a hash"));
        }
        let hashes = hashes.iter().map(|&hash| Hash(hash)).collect();
        *r = Reader::new(rest);
        Ok((first_block, hashes))
    }
}

/// 2^47 blocks of 64 KiB are more bytes than a volume can have: sums and products of what is below do not overflow.
const BLOCKS: u64 = 1 << 47;

fn resync(r: &mut Reader<'_>) -> Result<ResyncId, Malformed> {
    ResyncId::new(r.array()?).ok_or(Malformed("no resync"))
}
