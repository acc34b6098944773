//! Hashes of what is here, so that an agent sends only what differs.
//!
//! Two lanes, each answered in its order: ranges that the agent asks for ahead, and pages of blocks that differ, for which what it has
//! read waits. Pages never wait for ranges.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, LazyLock};

use journal::failpoint::{self, Step};
use journal::limits::UNIT_BYTES;
use journal::store::View;
use journal::types::{Extent, GroupId, Hash, Seq, VolumeNo};
use journal::wire::{FEATURE_PAGES, Message, Refusal, RefusalCode};
use link::{MessageReader, MessageWriter};
use tokio::task::JoinHandle;

use super::{End, Session, blocking, internal, out_of_place};

/// Blocks read at once: enough for long reads, little memory.
const BLOCKS_AT_ONCE: usize = 16;
/// A page: what is compared of a block that differs.
const PAGE_BYTES: usize = 4096;
/// Questions that are worked on at once in a lane: one reads while another hashes.
const WIDTH: usize = 2;
/// Questions taken before they are answered. QUIC's window bounds what the agent may ask beyond that.
const TAKEN: usize = 128;
/// Most blocks that are asked for where nothing is have this one.
static ZEROES: LazyLock<Hash> = LazyLock::new(|| Hash::of(&[0; UNIT_BYTES]));

/// What was asked and is not answered.
struct Lane {
    step: Step,
    waiting: VecDeque<Message>,
    working: VecDeque<JoinHandle<Result<Message, Refusal>>>,
}

/// From `OpenCompare` to the end of the stream.
pub(super) async fn serve(
    session: &Session,
    (group, at): (GroupId, Seq),
    writer: &mut MessageWriter,
    reader: &mut MessageReader,
) -> Result<(), End> {
    let group = session.ingest(group)?.group().clone();
    let view = blocking(move || {
        let library = group.library().map_err(|error| internal(&error))?;
        library.now().view_to_compare(at).map(Arc::new).map_err(|error| internal(&error))
    })
    .await?;
    writer.send(&Message::CompareReady).await?;
    let (mut ranges, mut pages) = (Lane::new(Step::HashesMade), Lane::new(Step::PagesMade));
    let mut is_asking = true;
    while is_asking || ranges.len() + pages.len() > 0 {
        let has_room = is_asking && ranges.len() + pages.len() < TAKEN;
        tokio::select! {
            biased;
            answer = pages.next(&view) => writer.send(&answer?).await?,
            answer = ranges.next(&view) => writer.send(&answer?).await?,
            asked = reader.next(), if has_room => match asked? {
                None => is_asking = false,
                Some(asked @ Message::CompareRange { .. }) => ranges.push(asked, &view),
                Some(asked @ Message::ComparePages { .. }) if session.features & FEATURE_PAGES != 0 => {
                    pages.push(asked, &view);
                }
                Some(Message::ComparePages { .. }) => {
                    return Err(Refusal::new(RefusalCode::Malformed, "a feature that was not agreed on").into());
                }
                Some(other) => return Err(out_of_place(&other)),
            }
        }
    }
    Ok(())
}

impl Lane {
    fn new(step: Step) -> Self {
        Self { step, waiting: VecDeque::new(), working: VecDeque::new() }
    }

    fn len(&self) -> usize {
        self.waiting.len() + self.working.len()
    }

    fn push(&mut self, asked: Message, view: &Arc<View>) {
        self.waiting.push_back(asked);
        self.work(view);
    }

    fn work(&mut self, view: &Arc<View>) {
        while self.working.len() < WIDTH
            && let Some(asked) = self.waiting.pop_front()
        {
            let (view, step) = (Arc::clone(view), self.step);
            let work = move || {
                let answer = answer(&view, asked);
                failpoint::passed(step);
                answer
            };
            self.working.push_back(tokio::task::spawn_blocking(work));
        }
    }

    /// The next answer; never, if nothing was asked. May be dropped and called again.
    async fn next(&mut self, view: &Arc<View>) -> Result<Message, End> {
        let Some(first) = self.working.front_mut() else { return pending().await };
        // A panic there was reported there.
        let answer = first.await.map_err(|_| End::Gone)?;
        self.working.pop_front();
        self.work(view);
        Ok(answer?)
    }
}

fn answer(view: &View, asked: Message) -> Result<Message, Refusal> {
    match asked {
        Message::CompareRange { volume, first_block, blocks } => {
            hashes(view, volume, first_block, blocks).map(|hashes| Message::BlockHashes { first_block, hashes })
        }
        Message::ComparePages { volume, blocks } => {
            let first_block = blocks.first().copied().unwrap_or_default();
            pages(view, volume, &blocks).map(|hashes| Message::PageHashes { first_block, hashes })
        }
        other => Err(super::state::out_of_place(&other)),
    }
}

/// BLAKE3 of each block of 64 KiB: fewer where the volume ends, none of a volume that is not there. Where there is no data, nothing is read.
pub fn hashes(view: &View, volume: VolumeNo, first_block: u64, blocks: u32) -> Result<Vec<Hash>, Refusal> {
    let size = size_of(view, volume);
    let (at, end) = (first_block * UNIT, ((first_block + u64::from(blocks)) * UNIT).min(size));
    let Some(asked) = end.checked_sub(at).and_then(|length| Extent::of_bytes(at, length)) else {
        return Ok(Vec::new());
    };
    let data = view.data(volume, asked).map_err(|error| internal(&error))?;
    let mut data = data.iter().map(|extent| extent.byte()..extent.byte() + extent.bytes()).peekable();
    let mut buffer = vec![0; BLOCKS_AT_ONCE * UNIT_BYTES];
    let mut hashes = Vec::new();
    let mut at = at;
    while at < end {
        while data.next_if(|data| data.end <= at).is_some() {}
        // As far as there is none, in whole blocks; the last one may be shorter than those.
        let empty = data.peek().map_or(end, |data| data.start.clamp(at, end)) / UNIT * UNIT;
        if empty > at {
            let count = usize::try_from((empty - at) / UNIT).unwrap_or(usize::MAX);
            hashes.extend(std::iter::repeat_n(*ZEROES, count));
            at = empty;
            continue;
        }
        let length = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let part = &mut buffer[..length];
        view.read(volume, at, part).map_err(|error| internal(&error))?;
        hashes.extend(part.chunks(UNIT_BYTES).map(Hash::of));
        at += u64::try_from(length).unwrap_or(u64::MAX);
    }
    Ok(hashes)
}

/// BLAKE3 of each page of 4 KiB of these blocks, one block's after the other's: fewer where the volume ends.
pub fn pages(view: &View, volume: VolumeNo, blocks: &[u64]) -> Result<Vec<Hash>, Refusal> {
    let size = size_of(view, volume);
    let mut buffer = vec![0; UNIT_BYTES];
    let mut hashes = Vec::new();
    for block in blocks {
        let at = block * UNIT;
        let length = usize::try_from(size.saturating_sub(at)).map_or(UNIT_BYTES, |left| left.min(UNIT_BYTES));
        let part = &mut buffer[..length];
        view.read(volume, at, part).map_err(|error| internal(&error))?;
        hashes.extend(part.chunks(PAGE_BYTES).map(Hash::of));
    }
    Ok(hashes)
}

const UNIT: u64 = UNIT_BYTES as u64;

fn size_of(view: &View, volume: VolumeNo) -> u64 {
    view.volumes().iter().find(|known| known.number == volume).map_or(0, |known| known.size.bytes())
}
