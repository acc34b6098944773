//! How a group goes on with a receiver: what the spool and the state know of its head, for [`decide`](journal::wire::decide).

use journal::codec::Body;
use journal::frame::Frame;
use journal::types::{FrameNo, Head};
use journal::wire::{Facts, OwnEpoch};

use crate::sender::state::{Next, Stream};
use crate::spool::Spool;
use crate::state::{GroupState, OpenedEpoch};
use crate::{ErrorKind, Result};

/// What is known beside the order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Said {
    /// As in [`Facts`].
    pub copied: bool,
    /// As in [`Facts`].
    pub disturbed: bool,
    /// As in [`Facts`].
    pub take_over: bool,
}

/// Decides how to go on with a receiver that is at `receiver`; `acked` is what one called durable in this process. The first frame of the
/// epoch has to be in the spool, if it was not dropped. Reads the spool.
pub fn go_on(
    spool: &Spool,
    state: &GroupState,
    acked: Option<Head>,
    receiver: Option<Head>,
    said: Said,
    stream: &mut Stream,
) -> Result<Next> {
    let Said { copied, disturbed, take_over } = said;
    let head = last_head(spool)?;
    let (found, dropped) = held(spool, receiver, head)?;
    let epochs: Vec<OwnEpoch> = state.epochs.iter().map(own_epoch).collect();
    let acked = further(acked, state.durable);
    // On which side of the receiver's head the tail lies is all that is asked of it.
    let tail = if dropped { head } else { None };
    let facts = Facts { epochs: &epochs, tail, head, acked, receiver, found, copied, disturbed, take_over };
    let next = stream.opened(&facts);
    if matches!(next, Next::Send { .. }) {
        spool.goes_on_from(receiver.map(|head| head.seq))?;
    }
    Ok(next)
}

/// The further of two heads.
fn further(one: Option<Head>, other: Option<Head>) -> Option<Head> {
    if other.map(|head| head.seq) > one.map(|head| head.seq) { other } else { one }
}

/// The end of the spool.
fn last_head(spool: &Spool) -> Result<Option<Head>> {
    let Some(spooled) = spool.status().spooled else { return Ok(None) };
    Ok(spool.next_after(spooled.before())?.as_ref().and_then(Frame::end))
}

/// What the spool has at the receiver's head, if a frame ends there, and whether what follows it was dropped.
fn held(spool: &Spool, receiver: Option<Head>, end: Option<Head>) -> Result<(Option<Head>, bool)> {
    let seq = receiver.map(|head| head.seq);
    let following = match spool.next_after(seq) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok((None, true)),
        following => following?,
    };
    let Some(seq) = seq else { return Ok((None, false)) };
    let Some(frame) = following else { return Ok((end.filter(|end| end.seq == seq), false)) };
    if frame.first_seq() != Some(seq.after(1)) {
        return Ok((None, false));
    }
    let header = frame.header();
    let epoch = match frame.records().next().map(|record| record.body) {
        Some(Body::EpochBegin(begin)) => begin.parent,
        _ => Some(header.epoch),
    };
    let before = FrameNo::new(header.number.number() - 1);
    Ok((epoch.zip(before).map(|(epoch, frame)| Head { epoch, seq, frame, chain: header.prev }), false))
}

fn own_epoch(opened: &OpenedEpoch) -> OwnEpoch {
    // Of a parent only the epoch and the place are ever asked; the frame's number is not remembered.
    let parent = opened.parent.zip(opened.seq);
    let parent = parent.map(|(epoch, seq)| Head { epoch, seq, frame: FrameNo::FIRST, chain: opened.chain });
    OwnEpoch { id: opened.id, parent }
}
