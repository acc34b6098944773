//! Hashes of what is here, so that an agent sends only what differs.

use std::sync::Arc;

use journal::failpoint::{self, Step};
use journal::limits::UNIT_BYTES;
use journal::store::View;
use journal::types::{GroupId, Hash, Seq, VolumeNo};
use journal::wire::{Message, Refusal};
use link::{MessageReader, MessageWriter};

use super::{End, Session, blocking, internal, out_of_place};

/// Blocks read at once: enough for long reads, little memory.
const BLOCKS_AT_ONCE: usize = 16;

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
        library.now().view(at).map(Arc::new).map_err(|error| internal(&error))
    })
    .await?;
    writer.send(&Message::CompareReady).await?;
    while let Some(message) = reader.next().await? {
        let Message::CompareRange { volume, first_block, blocks } = message else { return Err(out_of_place(&message)) };
        let view = Arc::clone(&view);
        let hashes = blocking(move || hashes(&view, volume, first_block, blocks)).await?;
        failpoint::passed(Step::HashesMade);
        writer.send(&Message::BlockHashes { first_block, hashes }).await?;
    }
    Ok(())
}

/// BLAKE3 of each block of 64 KiB: fewer where the volume ends, none of a volume that is not there.
pub fn hashes(view: &View, volume: VolumeNo, first_block: u64, blocks: u32) -> Result<Vec<Hash>, Refusal> {
    let size = view.volumes().iter().find(|known| known.number == volume).map_or(0, |known| known.size.bytes());
    let unit = u64::try_from(UNIT_BYTES).unwrap_or(u64::MAX);
    let end = ((first_block + u64::from(blocks)) * unit).min(size);
    let mut buffer = vec![0; BLOCKS_AT_ONCE * UNIT_BYTES];
    let mut hashes = Vec::new();
    let mut at = first_block * unit;
    while at < end {
        let length = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let part = &mut buffer[..length];
        view.read(volume, at, part).map_err(|error| internal(&error))?;
        hashes.extend(part.chunks(UNIT_BYTES).map(Hash::of));
        at += u64::try_from(length).unwrap_or(u64::MAX);
    }
    Ok(hashes)
}
