//! The stream of one group's order: frames in, what is durable out.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use journal::types::GroupId;
use journal::wire::{FEATURE_ROLLBACK, Message};
use link::{MessageReader, MessageWriter};
use tokio::sync::oneshot;
use tracing::info;

use super::quic::Opener;
use super::state::{Admit, LiveOrder, news, superseded};
use super::{End, Session, check, out_of_place};
use crate::group::{Attachment, Group, Ingest, MarkReply, Order};
use crate::rollback::go_on;

/// Marks that an agent may owe us at once.
const MARKS: usize = 64;

type Reply = oneshot::Sender<MarkReply>;
/// Who waits for which mark.
type Marks = Mutex<HashMap<u64, Reply>>;

/// From `OpenGroup` to the end of the stream.
pub(super) async fn serve(
    session: &Session,
    (id, name): (GroupId, String),
    writer: &mut MessageWriter,
    reader: &mut MessageReader,
    opener: &Opener,
) -> Result<(), End> {
    let group = claim(session, id, name).await?;
    let Attachment { head, mut progress, mut orders, ingest } = group.attach(session.id).await?;
    session.opened(id, ingest.clone());
    info!(group = %group.name(), agent = %session.agent, session = session.id.0, "attached");
    writer.send(&Message::Opened(head)).await?;
    let marks = Marks::default();
    let mut acked = head.map(|head| head.seq);
    let mut requests = 0;
    let mut reading = pin!(read(reader, LiveOrder::new(id, head), &ingest, &marks));
    let may_go_back = session.features & FEATURE_ROLLBACK != 0;
    let mut going_on = pin!(go_on(&group));
    // What is sent is small: while it is, reading may wait. So no message is ever left half sent.
    loop {
        tokio::select! {
            ended = &mut reading => return ended,
            changed = progress.changed() => {
                changed.map_err(|_| End::Gone)?;
                let durable = news(&progress.borrow_and_update(), session.id, acked)?;
                if let Some(head) = durable {
                    acked = Some(head.seq);
                    writer.send(&Message::Durable(head)).await?;
                }
            }
            order = orders.recv() => {
                match order.ok_or_else(superseded)? {
                    Order::Mark { name, locked_until, reply } => {
                        requests += 1;
                        if expect(&marks, requests, reply) {
                            writer.send(&Message::MarkRequest { request: requests, locked_until, name }).await?;
                        }
                    }
                    Order::Rollback { reply } => {
                        let streams = if may_go_back { Some(opener.open().await?) } else { None };
                        // Whoever asked may have gone.
                        let _ = reply.send(streams);
                    }
                }
            }
            never = &mut going_on, if may_go_back => match never {},
        }
    }
}

async fn claim(session: &Session, id: GroupId, name: String) -> Result<Group, End> {
    session.check_enrolled()?;
    let (groups, agent) = (Arc::clone(&session.groups), session.agent.clone());
    // A panic there was reported there.
    let claimed = tokio::task::spawn_blocking(move || groups.claim(&agent, id, &name)).await.map_err(|_| End::Gone)?;
    Ok(claimed?)
}

async fn read(reader: &mut MessageReader, mut order: LiveOrder, ingest: &Ingest, marks: &Marks) -> Result<(), End> {
    while let Some(message) = reader.next().await? {
        match message {
            Message::Frame(bytes) => {
                let frame = check(bytes)?;
                if order.admit(&frame)? == Admit::Next {
                    ingest.live(frame).await?;
                }
            }
            Message::MarkDone { request, seq } => settle(marks, request, Ok(seq))?,
            Message::MarkFailed { request, reason, text } => settle(marks, request, Err((reason, text)))?,
            // The agent ends the stream once it knows that all is durable, or does not want to wait.
            Message::Bye => {}
            other => return Err(out_of_place(&other)),
        }
    }
    Ok(())
}

/// Whether the agent is to be asked; whoever is not waited for is told that by the dropped reply.
fn expect(marks: &Marks, request: u64, reply: Reply) -> bool {
    let mut marks = marks.lock().unwrap_or_else(PoisonError::into_inner);
    marks.retain(|_, reply| !reply.is_closed());
    let room = marks.len() < MARKS;
    if room {
        marks.insert(request, reply);
    }
    room
}

fn settle(marks: &Marks, request: u64, result: MarkReply) -> Result<(), End> {
    let reply = marks.lock().unwrap_or_else(PoisonError::into_inner).remove(&request);
    if let Some(reply) = reply {
        // Whoever asked may have gone.
        let _ = reply.send(result);
    }
    Ok(())
}
