//! Asks the receiver for the hashes of what it has, so that only what differs is sent. Many questions are on their way at once; those
//! of a session that ended are asked again in the next one.

use std::collections::VecDeque;
use std::convert::Infallible;

use journal::error::{Error, Result};
use journal::failpoint::{self, Step};
use journal::types::{Extent, Hash, VolumeNo};
use journal::wire::{BLOCK_PAGES, FEATURE_PAGES, Message};
use link::MessageWriter;
use tokio::sync::{mpsc, oneshot};

use super::Streams;
use super::base::Base;
use super::live::{next, unexpected};
use crate::base::{Answer, BLOCK_BYTES, Hashes, PAGE_BYTES};
use crate::run::Group;

/// Questions that may be unanswered. Their answers are less than what a stream may have on its way, and so never stop it.
const UNANSWERED: usize = 128;
/// Questions that wait to be asked.
pub(super) const ASKS: usize = 16;

/// A question of the reader.
#[derive(Debug)]
pub(super) struct Ask {
    what: What,
    /// `None`: this receiver cannot tell.
    reply: oneshot::Sender<Option<Vec<Hash>>>,
}

#[derive(Debug)]
enum What {
    Blocks { volume: VolumeNo, first: u64, count: u32 },
    Pages { volume: VolumeNo, blocks: Vec<u64> },
}

/// The receiver's hashes, as its reader sees them: it waits for a session, for as long as it takes.
#[derive(Debug)]
pub(super) struct Remote {
    asks: mpsc::Sender<Ask>,
}

/// The other end: what the reader asks, and what it was not told yet. Each sort is answered in its order.
#[derive(Debug)]
pub(super) struct Asked {
    asks: mpsc::Receiver<Ask>,
    blocks: VecDeque<Ask>,
    pages: VecDeque<Ask>,
}

impl Remote {
    pub(super) fn new() -> (Self, Asked) {
        let (asks, asked) = mpsc::channel(ASKS);
        (Self { asks }, Asked { asks: asked, blocks: VecDeque::new(), pages: VecDeque::new() })
    }

    fn ask(&self, what: What) -> Result<oneshot::Receiver<Option<Vec<Hash>>>> {
        let (reply, answer) = oneshot::channel();
        self.asks.blocking_send(Ask { what, reply }).map_err(|_| ended())?;
        Ok(answer)
    }
}

fn ended() -> Error {
    Error::unavailable("the base was ended")
}

impl Hashes for Remote {
    fn blocks(&mut self, volume: VolumeNo, extent: Extent) -> Result<Answer<Vec<Option<Hash>>>> {
        let (first, count) = (extent.byte() / BLOCK_BYTES, extent.bytes().div_ceil(BLOCK_BYTES));
        let count = u32::try_from(count).map_err(|_| Error::invalid("more blocks than can be asked for"))?;
        let answer = self.ask(What::Blocks { volume, first, count })?;
        Ok(Box::new(move || {
            let hashes = answer.blocking_recv().map_err(|_| ended())?;
            Ok(of_blocks(extent, &hashes.unwrap_or_default()))
        }))
    }

    fn pages(&mut self, volume: VolumeNo, blocks: &[Extent]) -> Result<Answer<Option<Vec<Option<Hash>>>>> {
        let numbers = blocks.iter().map(|extent| extent.byte() / BLOCK_BYTES).collect();
        let answer = self.ask(What::Pages { volume, blocks: numbers })?;
        let blocks = blocks.to_vec();
        Ok(Box::new(move || {
            let hashes = answer.blocking_recv().map_err(|_| ended())?;
            Ok(hashes.map(|hashes| of_pages(&blocks, &hashes)))
        }))
    }
}

/// What the hashes that came say of each block: beyond them the receiver has nothing, and nothing is zeroes.
pub fn of_blocks(extent: Extent, hashes: &[Hash]) -> Vec<Option<Hash>> {
    told([extent], BLOCK_BYTES, hashes)
}

/// The same of the pages of these blocks.
pub fn of_pages(blocks: &[Extent], hashes: &[Hash]) -> Vec<Option<Hash>> {
    told(blocks.iter().copied(), PAGE_BYTES, hashes)
}

fn told(extents: impl IntoIterator<Item = Extent>, step: u64, hashes: &[Hash]) -> Vec<Option<Hash>> {
    let zeroes = vec![0; usize::try_from(step).unwrap_or(0)];
    let whole = Hash::of(&zeroes);
    let mut known = hashes.iter();
    let mut found = Vec::new();
    for extent in extents {
        let mut left = extent.bytes();
        while left > 0 {
            let length = left.min(step);
            left -= length;
            let zero = match usize::try_from(length).ok().and_then(|length| zeroes.get(..length)) {
                Some(short) if length < step => Hash::of(short),
                _ => whole,
            };
            found.push(known.next().copied().filter(|hash| *hash != zero));
        }
    }
    found
}

/// Answers the reader's questions until the stream ends, on a stream that is opened for the first one.
pub(super) async fn answer(
    base: &Base,
    group: &Group,
    features: u64,
    open: impl AsyncFnOnce() -> Result<Streams>,
) -> Result<Infallible> {
    let mut asked = base.asked.lock().await;
    let Some(at) = base.compared_with else { return std::future::pending().await };
    // All up to there has to be at the receiver.
    group.durable_to(at).await;
    if asked.unanswered() == 0 {
        let Some(ask) = asked.asks.recv().await else { return std::future::pending().await };
        asked.keep(ask);
    }
    failpoint::passed(Step::CompareOpening);
    let (mut writer, mut reader) = open().await?;
    writer.send(&Message::OpenCompare { group: group.id(), at }).await?;
    match next(&mut reader).await? {
        Message::CompareReady => {}
        other => return Err(unexpected(other)),
    }
    // A session that ended owes these; this receiver may be another one, too.
    for (message, step) in asked.again(features) {
        writer.send(&message).await?;
        failpoint::passed(step);
    }
    let mut is_over = false;
    loop {
        tokio::select! {
            ask = asked.asks.recv(), if !is_over && asked.unanswered() < UNANSWERED => match ask {
                Some(ask) => asked.ask(ask, features, &mut writer).await?,
                None => is_over = true,
            },
            said = next(&mut reader) => asked.answered(said?)?,
        }
        // Nothing more is asked; the base is still on its way.
        if is_over && asked.unanswered() == 0 {
            writer.finish();
            return std::future::pending().await;
        }
    }
}

impl Asked {
    fn unanswered(&self) -> usize {
        self.blocks.len() + self.pages.len()
    }

    /// What a receiver with these features has to be asked again.
    fn again(&mut self, features: u64) -> Vec<(Message, Step)> {
        if features & FEATURE_PAGES == 0 {
            // A reader that was ended waits for nothing.
            self.pages.drain(..).for_each(|ask| _ = ask.reply.send(None));
        }
        self.blocks.iter().chain(&self.pages).map(|ask| (ask.what.message(), ask.what.step())).collect()
    }

    fn keep(&mut self, ask: Ask) {
        match &ask.what {
            What::Blocks { .. } => self.blocks.push_back(ask),
            What::Pages { .. } => self.pages.push_back(ask),
        }
    }

    async fn ask(&mut self, ask: Ask, features: u64, writer: &mut MessageWriter) -> Result<()> {
        if matches!(ask.what, What::Pages { .. }) && features & FEATURE_PAGES == 0 {
            let _ = ask.reply.send(None);
            return Ok(());
        }
        let (message, step) = (ask.what.message(), ask.what.step());
        // Kept first: whatever happens to the stream, it is asked again.
        self.keep(ask);
        writer.send(&message).await?;
        failpoint::passed(step);
        Ok(())
    }

    fn answered(&mut self, said: Message) -> Result<()> {
        let (ask, hashes, step) = match said {
            Message::BlockHashes { first_block, hashes } => {
                let is_it = |ask: &mut Ask| ask.what.fits(first_block, hashes.len());
                (self.blocks.pop_front_if(is_it), hashes, Step::HashesCame)
            }
            Message::PageHashes { first_block, hashes } => {
                let is_it = |ask: &mut Ask| ask.what.fits(first_block, hashes.len());
                (self.pages.pop_front_if(is_it), hashes, Step::PagesCame)
            }
            other => return Err(unexpected(other)),
        };
        let ask = ask.ok_or_else(|| Error::corrupt("hashes that were not asked for"))?;
        failpoint::passed(step);
        // A reader that was ended waits for nothing.
        let _ = ask.reply.send(Some(hashes));
        Ok(())
    }
}

impl What {
    fn step(&self) -> Step {
        match self {
            Self::Blocks { .. } => Step::HashesAsked,
            Self::Pages { .. } => Step::PagesAsked,
        }
    }

    fn message(&self) -> Message {
        match *self {
            Self::Blocks { volume, first: first_block, count: blocks } => {
                Message::CompareRange { volume, first_block, blocks }
            }
            Self::Pages { volume, ref blocks } => Message::ComparePages { volume, blocks: blocks.clone() },
        }
    }

    /// Whether so many hashes, from that block on, may be the answer: fewer where the receiver's volume ends.
    fn fits(&self, first_block: u64, count: usize) -> bool {
        match self {
            Self::Blocks { first, count: asked, .. } => {
                *first == first_block && usize::try_from(*asked).is_ok_and(|asked| count <= asked)
            }
            Self::Pages { blocks, .. } => {
                blocks.first() == Some(&first_block) && count <= blocks.len().saturating_mul(BLOCK_PAGES)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOLUME: VolumeNo = VolumeNo(3);

    fn hash(of: u8) -> Hash {
        Hash([of; 32])
    }

    #[test]
    fn what_was_not_told_is_zeroes_and_so_is_what_is_told_to_be() {
        let extent = |from: u64, bytes| Extent::of_bytes(from * BLOCK_BYTES, bytes).unwrap();
        let zero = |bytes: usize| Hash::of(&vec![0; bytes]);
        let block = 65536;
        let short = extent(2, 3 * BLOCK_BYTES + 512);
        assert_eq!(of_blocks(short, &[]), [None; 4]);
        assert_eq!(
            of_blocks(short, &[hash(1), zero(block), hash(2), zero(512)]),
            [Some(hash(1)), None, Some(hash(2)), None]
        );
        // Zeroes of another length are something else.
        assert_eq!(of_blocks(short, &[zero(512)]), [Some(zero(512)), None, None, None]);
        let two = [extent(0, BLOCK_BYTES), extent(5, 4096 + 512)];
        let told = [vec![hash(1); 15], vec![zero(4096), hash(2), zero(512)]].concat();
        let found = of_pages(&two, &told);
        assert_eq!(found, [vec![Some(hash(1)); 15], vec![None, Some(hash(2)), None]].concat());
        assert_eq!(of_pages(&two, &told[..16]).len(), 18);
    }

    #[test]
    fn only_what_was_asked_is_an_answer_and_each_sort_has_its_order() {
        let (remote, mut asked) = Remote::new();
        let ask = |asked: &mut Asked, what| {
            let answer = remote.ask(what).unwrap();
            let ask = asked.asks.try_recv().unwrap();
            asked.keep(ask);
            answer
        };
        let mut first = ask(&mut asked, What::Blocks { volume: VOLUME, first: 0, count: 2 });
        let mut pages = ask(&mut asked, What::Pages { volume: VOLUME, blocks: vec![7, 9] });
        let mut second = ask(&mut asked, What::Blocks { volume: VOLUME, first: 2, count: 2 });
        let blocks =
            |first_block, count: u8| Message::BlockHashes { first_block, hashes: vec![hash(count); count.into()] };
        for wrong in [blocks(2, 2), blocks(0, 3), blocks(7, 2), Message::CompareReady] {
            assert!(asked.answered(wrong).is_err());
        }
        let told = |first_block, count| Message::PageHashes { first_block, hashes: vec![hash(9); count] };
        for wrong in [told(9, 1), told(7, 33)] {
            assert!(asked.answered(wrong).is_err());
        }
        // Pages overtake.
        asked.answered(told(7, 32)).unwrap();
        assert_eq!(pages.try_recv().unwrap().map(|hashes| hashes.len()), Some(32));
        asked.answered(blocks(0, 1)).unwrap();
        assert_eq!((first.try_recv(), second.try_recv().is_err()), (Ok(Some(vec![hash(1)])), true));
        // The rest is asked again by the next session; what it cannot tell is said at once.
        let range = Message::CompareRange { volume: VOLUME, first_block: 2, blocks: 2 };
        assert_eq!(asked.again(0), [(range, Step::HashesAsked)]);
        let mut pages = ask(&mut asked, What::Pages { volume: VOLUME, blocks: vec![5] });
        let again = asked.again(FEATURE_PAGES);
        let question = Message::ComparePages { volume: VOLUME, blocks: vec![5] };
        assert_eq!(again.last(), Some(&(question, Step::PagesAsked)));
        assert_eq!((again.len(), pages.try_recv().is_err()), (2, true));
        asked.again(0);
        assert_eq!(pages.try_recv(), Ok(None));
        drop(asked);
        assert!(second.try_recv().is_err() && remote.ask(What::Pages { volume: VOLUME, blocks: vec![0] }).is_err());
    }
}
