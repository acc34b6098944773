//! Asks the receiver for the hashes of what it has, so that only what differs is sent.

use std::convert::Infallible;

use journal::error::{Error, Result};
use journal::failpoint::{self, Step};
use journal::types::{Extent, Hash, VolumeNo};
use journal::wire::{MAX_COMPARE_BLOCKS, Message};
use link::{MessageReader, MessageWriter};
use tokio::sync::{mpsc, oneshot};

use super::Streams;
use super::base::Base;
use super::live::{next, unexpected};
use crate::base::{BLOCK_BYTES, Hashes};
use crate::run::Group;

/// A question of the reader.
#[derive(Debug)]
pub(super) struct Ask {
    volume: VolumeNo,
    first_block: u64,
    blocks: u64,
    reply: oneshot::Sender<Vec<Hash>>,
}

/// The receiver's hashes, as its reader sees them: it waits for a session, for as long as it takes.
#[derive(Debug)]
pub(super) struct Remote {
    asks: mpsc::Sender<Ask>,
}

impl Remote {
    pub(super) fn new(asks: mpsc::Sender<Ask>) -> Self {
        Self { asks }
    }
}

impl Hashes for Remote {
    fn hashes(&mut self, volume: VolumeNo, extent: Extent) -> Result<Vec<Option<Hash>>> {
        let (first_block, blocks) = (extent.byte() / BLOCK_BYTES, extent.bytes().div_ceil(BLOCK_BYTES));
        let hashes = loop {
            let (reply, answer) = oneshot::channel();
            let ended = |_| Error::unavailable("the base was ended");
            self.asks.blocking_send(Ask { volume, first_block, blocks, reply }).map_err(ended)?;
            // An answer that does not come: the session ended, the next one is asked.
            if let Ok(hashes) = answer.blocking_recv() {
                break hashes;
            }
        };
        Ok(of_blocks(extent, &hashes))
    }
}

/// What the hashes that came say of each block: beyond them the receiver has nothing, and nothing is zeroes.
pub fn of_blocks(extent: Extent, hashes: &[Hash]) -> Vec<Option<Hash>> {
    let zeroes = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or(0)];
    let whole = Hash::of(&zeroes);
    let mut left = extent.bytes();
    let mut known = hashes.iter();
    let mut found = Vec::new();
    while left > 0 {
        let length = left.min(BLOCK_BYTES);
        left -= length;
        let zero = match usize::try_from(length).ok().and_then(|length| zeroes.get(..length)) {
            Some(short) if length < BLOCK_BYTES => Hash::of(short),
            _ => whole,
        };
        found.push(known.next().copied().filter(|hash| *hash != zero));
    }
    found
}

/// Answers the reader's questions until the stream ends, on a stream that is opened for the first one.
pub(super) async fn answer(
    base: &Base,
    group: &Group,
    open: impl AsyncFnOnce() -> Result<Streams>,
) -> Result<Infallible> {
    let mut asks = base.asks.lock().await;
    let Some(at) = base.compared_with else { return std::future::pending().await };
    // All up to there has to be at the receiver.
    group.durable_to(at).await;
    let Some(mut ask) = asks.recv().await else { return std::future::pending().await };
    failpoint::passed(Step::CompareOpening);
    let (mut writer, mut reader) = open().await?;
    writer.send(&Message::OpenCompare { group: group.id(), at }).await?;
    match next(&mut reader).await? {
        Message::CompareReady => {}
        other => return Err(unexpected(other)),
    }
    loop {
        let hashes = fetch(&ask, &mut writer, &mut reader).await?;
        failpoint::passed(Step::HashesCame);
        // A reader that was ended waits for nothing.
        let _ = ask.reply.send(hashes);
        match asks.recv().await {
            Some(next) => ask = next,
            // Nothing more is asked; the base is still on its way.
            None => {
                writer.finish();
                return std::future::pending().await;
            }
        }
    }
}

async fn fetch(ask: &Ask, writer: &mut MessageWriter, reader: &mut MessageReader) -> Result<Vec<Hash>> {
    let end = ask.first_block + ask.blocks;
    let step = u64::from(MAX_COMPARE_BLOCKS);
    let firsts = (ask.first_block..end).step_by(usize::try_from(step).unwrap_or(1));
    // All are asked for at once: what is known of the first must not wait for the way there and back of the last.
    for first_block in firsts.clone() {
        let blocks = u32::try_from(step.min(end - first_block)).unwrap_or(MAX_COMPARE_BLOCKS);
        writer.send(&Message::CompareRange { volume: ask.volume, first_block, blocks }).await?;
    }
    failpoint::passed(Step::HashesAsked);
    let mut all = Vec::new();
    for first in firsts {
        match next(reader).await? {
            Message::BlockHashes { first_block, hashes } if first_block == first => {
                let whole = step.min(end - first);
                let short = u64::try_from(hashes.len()).unwrap_or(u64::MAX);
                if short > whole {
                    return Err(Error::corrupt("more hashes than were asked for"));
                }
                // Behind the end of the receiver's volume there are none, also not for what was asked after it.
                if u64::try_from(all.len()).unwrap_or(0) == first - ask.first_block {
                    all.extend(hashes);
                }
            }
            other => return Err(unexpected(other)),
        }
    }
    Ok(all)
}
