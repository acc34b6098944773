//! What an agent may say, and what a frame must be to be taken. Decisions only: no I/O, no clock.
//!
//! ```text
//!   first message of a stream    and then                                   answers
//!   OpenGroup                    Frame (live), MarkDone/Failed, Bye           Opened, Durable, MarkRequest
//!   OpenBase                     Frame (base)                                 BaseOpened, BaseDurable
//!   OpenCompare                  CompareRange, ComparePages                   CompareReady, BlockHashes, PageHashes
//!   OpenChanged                  ChangedFrom                                  ChangedReady, ChangedExtents
//! ```
//!
//! **Invariant:** a frame that was admitted continues exactly what is already there, or changes nothing.

use journal::codec::{Body, FrameHeader, FrameKind};
use journal::frame::Frame;
use journal::types::{ChainHead, FrameNo, GroupId, Head, ResyncId, Seq, SessionId};
use journal::wire::{BaseHead, Message, Refusal, RefusalCode};

use crate::group::Progress;

/// What a stream is for, as its first message says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the messages")]
pub enum Opening {
    /// A group's order.
    Group { group: GroupId, name: String },
    /// A first copy or resync.
    Base { group: GroupId, resync: ResyncId },
    /// Hashes of what is here.
    Compare { group: GroupId, at: Seq },
    /// What changed after a place.
    Changed { group: GroupId, after: Option<Seq>, at: Seq },
}

impl Opening {
    /// What the first message of a stream opens.
    pub fn of(first: Message) -> Result<Self, Refusal> {
        match first {
            Message::OpenGroup { group, name } => Ok(Self::Group { group, name }),
            Message::OpenBase { group, resync } => Ok(Self::Base { group, resync }),
            Message::OpenCompare { group, at } => Ok(Self::Compare { group, at }),
            Message::OpenChanged { group, after, at } => Ok(Self::Changed { group, after, at }),
            other => Err(out_of_place(&other)),
        }
    }
}

/// A message that may not come here.
pub fn out_of_place(message: &Message) -> Refusal {
    Refusal::new(RefusalCode::Malformed, format!("{:?} is out of place", message.tag()))
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admit {
    /// It is the next one: append it.
    Next,
    /// It is here already: nothing changes.
    Again,
}

/// The order of one group, as a session brings it.
#[derive(Debug)]
pub struct LiveOrder {
    group: GroupId,
    head: Option<Head>,
}

impl LiveOrder {
    /// Goes on from `head`.
    pub fn new(group: GroupId, head: Option<Head>) -> Self {
        Self { group, head }
    }

    /// Whether this is the frame that comes next. A hole, another chain, or an epoch that does not say what it continues
    /// is refused.
    pub fn admit(&mut self, frame: &Frame) -> Result<Admit, Refusal> {
        let header = frame.header();
        let (FrameKind::Live { first }, Some(last)) = (header.kind, frame.last_seq()) else {
            return Err(malformed("a frame of a base among live ones"));
        };
        check_group(header, self.group)?;
        let head = self.head;
        if admit(header, head.map(|head| head.frame), head.map_or(ChainHead::START, |head| head.chain), frame.head())?
            == Admit::Again
        {
            return Ok(Admit::Again);
        }
        if first != Seq::following(head.map(|head| head.seq)) || header.durable.is_some_and(|durable| durable >= first)
        {
            return Err(chain_broken(header));
        }
        if head.map(|head| head.epoch) != Some(header.epoch) {
            check_epoch(head, frame)?;
        }
        self.head = Some(Head { epoch: header.epoch, seq: last, frame: header.number, chain: frame.head() });
        Ok(Admit::Next)
    }
}

/// The frames of one base, as a session brings them.
#[derive(Debug)]
pub struct BaseOrder {
    group: GroupId,
    resync: ResyncId,
    head: Option<BaseHead>,
}

impl BaseOrder {
    /// Goes on from `head`.
    pub fn new(group: GroupId, resync: ResyncId, head: Option<BaseHead>) -> Self {
        Self { group, resync, head }
    }

    /// Whether this is the frame that comes next.
    pub fn admit(&mut self, frame: &Frame) -> Result<Admit, Refusal> {
        let header = frame.header();
        match header.kind {
            FrameKind::Base { resync, .. } if resync == self.resync => {}
            _ => return Err(malformed("a frame that is none of this base")),
        }
        check_group(header, self.group)?;
        let (last, chain) = (self.head.map(|head| head.frame), self.head.map_or(ChainHead::START, |head| head.chain));
        let admitted = admit(header, last, chain, frame.head())?;
        if admitted == Admit::Next {
            self.head = Some(BaseHead { frame: header.number, chain: frame.head() });
        }
        Ok(admitted)
    }
}

/// What is durable and not yet acknowledged, or why the session is over.
pub fn news(now: &Progress, session: SessionId, acked: Option<Seq>) -> Result<Option<Head>, Refusal> {
    check_session(now, session)?;
    Ok(now.head.filter(|head| Some(head.seq) > acked))
}

/// What of a base is durable and not yet acknowledged, or why the session is over.
pub fn base_news(
    now: &Progress,
    session: SessionId,
    resync: ResyncId,
    acked: Option<FrameNo>,
) -> Result<Option<BaseHead>, Refusal> {
    check_session(now, session)?;
    let head = now.bases.iter().find(|(known, _)| *known == resync).map(|(_, head)| super::wire_base(*head));
    Ok(head.filter(|head| Some(head.frame) > acked))
}

/// What was made durable before a refusal is known to the agent from the head at its next opening.
fn check_session(now: &Progress, session: SessionId) -> Result<(), Refusal> {
    if now.session != session {
        return Err(superseded());
    }
    now.refused.clone().map_or(Ok(()), Err)
}

/// Another session has taken the group.
pub fn superseded() -> Refusal {
    Refusal::new(RefusalCode::Superseded, "")
}

fn check_group(header: &FrameHeader, group: GroupId) -> Result<(), Refusal> {
    if header.group == group { Ok(()) } else { Err(malformed("a frame of another group")) }
}

/// The place of a frame with this header in a chain that ends with number `last` and head `chain`.
fn admit(header: &FrameHeader, last: Option<FrameNo>, chain: ChainHead, after: ChainHead) -> Result<Admit, Refusal> {
    if last.is_some_and(|last| header.number <= last) {
        // Of older ones nothing but the number is known; they change nothing either.
        let differs = last == Some(header.number) && after != chain;
        return if differs { Err(Refusal::new(RefusalCode::Sibling, "")) } else { Ok(Admit::Again) };
    }
    if header.number != FrameNo::following(last) || header.prev != chain {
        return Err(chain_broken(header));
    }
    Ok(Admit::Next)
}

/// The first frame of an epoch says what it continues; that has to be what is here.
fn check_epoch(head: Option<Head>, frame: &Frame) -> Result<(), Refusal> {
    match frame.records().next().map(|record| record.body) {
        Some(Body::EpochBegin(begin)) if begin.follows(head) => Ok(()),
        _ => Err(Refusal::new(RefusalCode::Sibling, "an epoch that does not continue what is here")),
    }
}

fn chain_broken(header: &FrameHeader) -> Refusal {
    Refusal::new(RefusalCode::ChainBroken, format!("frame {} does not continue what is here", header.number))
}

fn malformed(what: &str) -> Refusal {
    Refusal::new(RefusalCode::Malformed, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::codec::EpochBegin;
    use journal::frame::{FrameBuilder, FrameSeal};
    use journal::types::{BootId, EpochId, WallTime};

    const GROUP: GroupId = GroupId([1; 16]);
    const RESYNC: ResyncId = ResyncId([2; 16]);

    fn build(kind: FrameKind, epoch: u8, number: u64, prev: ChainHead, body: Body) -> Frame {
        let mut builder = FrameBuilder::new();
        builder.push(WallTime(1), body);
        builder.finish(&FrameSeal {
            kind,
            group: GROUP,
            epoch: EpochId([epoch; 16]),
            number: FrameNo::new(number).unwrap(),
            prev,
            durable: None,
            wall: WallTime(1),
            boottime: WallTime(1),
            boot: BootId([9; 16]),
            compress: false,
        })
    }

    fn live(epoch: u8, number: u64, prev: ChainHead, body: Body) -> Frame {
        build(FrameKind::Live { first: Seq::new(number).unwrap() }, epoch, number, prev, body)
    }

    fn begin(head: Option<Head>) -> Body {
        let (parent, seq) = (head.map(|head| head.epoch), head.map(|head| head.seq));
        let head = head.map_or(ChainHead::START, |head| head.chain);
        Body::EpochBegin(EpochBegin { parent, seq, head, continues: false })
    }

    #[track_caller]
    fn refused(order: &mut LiveOrder, frame: &Frame, code: RefusalCode) {
        let before = order.head;
        assert_eq!(order.admit(frame).map_err(|refusal| refusal.code), Err(code));
        assert_eq!(order.head, before, "a refused frame changes nothing");
    }

    #[test]
    fn frames_follow_one_another_and_come_again_without_effect() {
        let mut order = LiveOrder::new(GROUP, None);
        let first = live(1, 1, ChainHead::START, begin(None));
        let second = live(1, 2, first.head(), Body::Flush);
        let third = live(1, 3, second.head(), Body::Flush);
        assert_eq!(order.admit(&first), Ok(Admit::Next));
        refused(&mut order, &third, RefusalCode::ChainBroken);
        assert_eq!(order.admit(&second), Ok(Admit::Next));
        for old in [&first, &second] {
            assert_eq!(order.admit(old), Ok(Admit::Again));
        }
        assert_eq!(order.admit(&third), Ok(Admit::Next));
    }

    #[test]
    fn an_epoch_continues_exactly_what_is_here() {
        let mut order = LiveOrder::new(GROUP, None);
        refused(&mut order, &live(1, 1, ChainHead::START, Body::Flush), RefusalCode::Sibling);
        let first = live(1, 1, ChainHead::START, begin(None));
        assert_eq!(order.admit(&first), Ok(Admit::Next));
        let head = order.head;
        refused(&mut order, &live(2, 2, first.head(), begin(None)), RefusalCode::Sibling);
        refused(&mut order, &live(2, 2, first.head(), Body::Flush), RefusalCode::Sibling);
        refused(&mut order, &live(2, 1, ChainHead::START, begin(None)), RefusalCode::Sibling);
        assert_eq!(order.admit(&live(2, 2, first.head(), begin(head))), Ok(Admit::Next));
    }

    #[test]
    fn what_belongs_elsewhere_is_refused() {
        let mut order = LiveOrder::new(GroupId([7; 16]), None);
        refused(&mut order, &live(1, 1, ChainHead::START, begin(None)), RefusalCode::Malformed);
        let base = build(
            FrameKind::Base { resync: RESYNC, as_of: None },
            1,
            1,
            ChainHead::START,
            Body::Pattern {
                volume: journal::types::VolumeNo(0),
                extent: journal::types::Extent::of_bytes(0, 512).unwrap(),
                fill: [0; 8],
            },
        );
        refused(&mut LiveOrder::new(GROUP, None), &base, RefusalCode::Malformed);
        let mut other = BaseOrder::new(GROUP, ResyncId([3; 16]), None);
        assert_eq!(other.admit(&base).map_err(|refusal| refusal.code), Err(RefusalCode::Malformed));
        let mut ours = BaseOrder::new(GROUP, RESYNC, None);
        assert_eq!(ours.admit(&base), Ok(Admit::Next));
        assert_eq!(ours.admit(&base), Ok(Admit::Again));
    }

    #[test]
    fn a_stream_opens_with_an_opening() {
        assert!(matches!(Opening::of(Message::OpenBase { group: GROUP, resync: RESYNC }), Ok(Opening::Base { .. })));
        assert_eq!(Opening::of(Message::Bye).map_err(|refusal| refusal.code), Err(RefusalCode::Malformed));
    }
}
