//! The stream by which a receiver takes the sources of a group back: what it sends is written through the tap, and recorded.
//!
//! `run::rollback` has the steps, and decides; here they are taken in order.

use std::sync::Arc;
use std::time::Duration;

use journal::error::{Error, Result};
use journal::failpoint::{self, Step};
use journal::types::Seq;
use journal::wire::{Message, NoRollback, Refusal, RefusalCode, RollbackOpening};
use link::{MessageReader, MessageWriter};
use tokio::time::{sleep, timeout};

use super::Streams;
use super::live::unexpected;
use crate::run::{Denied, Group, Turn};

/// How long a receiver may take for the first message of a stream.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long it rests while the spool is half full.
const REST: Duration = Duration::from_millis(20);

/// Why it ended before its end.
enum End {
    /// The receiver is told.
    Denied(Denied),
    /// There is nobody to tell, or nothing.
    Gone(Error),
}

impl From<Denied> for End {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Gone(error)
    }
}

/// Serves one. An error is a receiver that makes no sense: nobody knows how to talk to it.
pub(super) async fn serve((mut writer, mut reader): Streams, groups: Vec<Arc<Group>>) -> Result<()> {
    let first = timeout(PATIENCE, reader.next()).await.map_err(|_| malformed("the first message did not come"))?;
    let asked = match first? {
        Some(Message::OpenRollback(asked)) => asked,
        Some(other) => return Err(unexpected(other)),
        None => return Ok(()),
    };
    let group = groups.iter().find(|group| group.id() == asked.group);
    let group = group.ok_or_else(|| malformed("a group that is not protected here"))?;
    match rollback(group, &asked, &mut writer, &mut reader).await {
        Ok(()) => {}
        Err(End::Denied(Denied { reason, text })) => {
            // To go on is asked again and again until it is the time.
            if asked.goes_on && matches!(reason, NoRollback::NotLive | NoRollback::Busy) {
                tracing::debug!(group = group.name(), ?reason, text, "the sources are not taken back yet");
            } else {
                tracing::warn!(group = group.name(), ?reason, text, "the sources are not taken back");
            }
            writer.send(&Message::RollbackRefused { reason, text }).await?;
        }
        // The connection's end shows elsewhere.
        Err(End::Gone(error)) => match link::refusal_of(&error) {
            Some(_) => return Err(error),
            None => tracing::warn!(group = group.name(), %error, "taking the sources back was cut off"),
        },
    }
    writer.finish();
    writer.delivered().await;
    Ok(())
}

async fn rollback(
    group: &Arc<Group>,
    asked: &RollbackOpening,
    writer: &mut MessageWriter,
    reader: &mut MessageReader,
) -> std::result::Result<(), End> {
    let turn = group.take_turn().ok_or_else(|| Denied::new(NoRollback::Busy, "another one is under way"))?;
    let turn = Arc::new(turn);
    turn.admit(asked)?;
    let opening = asked.clone();
    let ready = blocking(&turn, move |turn| turn.shut(&opening)).await?;
    let seq = ready.seq.ok_or_else(|| Denied::new(NoRollback::NotLive, "nothing was captured yet"))?;
    tokio::select! {
        heard = turn.heard(seq) => heard?,
        // A receiver that does not want to wait so long: clients are let in again.
        said = reader.next() => return said?.map_or(Ok(()), |said| Err(unexpected(said).into())),
    }
    writer.send(&Message::RollbackReady { seq, clients: ready.clients }).await?;
    let Some(bytes) = plan(asked, reader).await? else { return Ok(()) };
    let opening = asked.clone();
    let begun = blocking(&turn, move |turn| turn.begin(&opening, bytes)).await?;
    heard(&turn, begun, Step::RollbackBeginHeard).await?;
    writer.send(&Message::RollbackBegun { seq: begun }).await?;
    blocks(&turn, writer, reader).await?;
    let sealed = blocking(&turn, |turn| turn.seal()).await?;
    turn.heard(sealed).await?;
    blocking(&turn, |turn| Ok(turn.forget()?)).await?;
    writer.send(&Message::RollbackSealed { seq: sealed }).await?;
    Ok(())
}

/// Bytes that will come; `None`: the receiver has seen enough.
async fn plan(asked: &RollbackOpening, reader: &mut MessageReader) -> Result<Option<u64>> {
    match reader.next().await? {
        None => Ok(None),
        Some(Message::RollbackBegin { bytes, .. }) if !asked.looks_only => Ok(Some(bytes)),
        Some(other) => Err(unexpected(other)),
    }
}

async fn heard(turn: &Turn, seq: Seq, step: Step) -> Result<()> {
    turn.heard(seq).await?;
    failpoint::passed(step);
    Ok(())
}

/// All blocks that come, until their end.
async fn blocks(
    turn: &Arc<Turn>,
    writer: &mut MessageWriter,
    reader: &mut MessageReader,
) -> std::result::Result<(), End> {
    let (mut messages, mut bytes) = (0_u64, 0_u64);
    loop {
        match reader.next().await? {
            Some(Message::RollbackBlocks(blocks)) => {
                while !turn.has_room() {
                    sleep(REST).await;
                }
                messages += 1;
                bytes = bytes.saturating_add(blocks.length.into());
                blocking(turn, move |turn| turn.write(&blocks)).await?;
                writer.send(&Message::RollbackDone { bytes }).await?;
            }
            Some(Message::RollbackEnd { messages: sent, bytes: sent_bytes }) => {
                return match (sent, sent_bytes) == (messages, bytes) {
                    true => Ok(()),
                    false => Err(Denied::new(NoRollback::Senseless, "not all that was sent has come").into()),
                };
            }
            Some(other) => return Err(unexpected(other).into()),
            None => return Err(Error::unavailable("the receiver has ended the stream").into()),
        }
    }
}

/// Does what waits for a disk on a thread that may. It holds the turn: nobody else gets it, and the tap is not opened, before it is done.
async fn blocking<T: Send + 'static>(
    turn: &Arc<Turn>,
    work: impl FnOnce(&Turn) -> std::result::Result<T, Denied> + Send + 'static,
) -> std::result::Result<T, End> {
    let turn = Arc::clone(turn);
    let done = tokio::task::spawn_blocking(move || work(&turn)).await;
    let failed = |error| End::Gone(Error::unavailable("a thread failed").with_source(error));
    Ok(done.map_err(failed)??)
}

fn malformed(what: &str) -> Error {
    Refusal::new(RefusalCode::Malformed, what).into()
}
