//! Which extents the journal here changed after a place in the order: an agent whose machine lost power has to know. No data is read.

use std::sync::Arc;

use journal::types::{GroupId, Seq};
use journal::wire::{FEATURE_CHANGED, Message, Refusal, RefusalCode};
use link::{MessageReader, MessageWriter};

use super::{End, Session, blocking, internal, out_of_place};

/// From `OpenChanged` to the end of the stream.
pub(super) async fn serve(
    session: &Session,
    (group, after, at): (GroupId, Option<Seq>, Seq),
    writer: &mut MessageWriter,
    reader: &mut MessageReader,
) -> Result<(), End> {
    if session.features & FEATURE_CHANGED == 0 {
        return Err(Refusal::new(RefusalCode::Malformed, "a feature that was not agreed on").into());
    }
    let group = session.ingest(group)?.group().clone();
    let (view, time) = blocking(move || {
        let library = group.library().map_err(|error| internal(&error))?;
        let version = library.now();
        // Refused where history was thinned: what is missing there would not be told. Then everything is compared.
        let view = version.view(at).map_err(|error| internal(&error))?;
        let time = version.time_of(at).map_err(|error| internal(&error))?;
        let time = time.ok_or_else(|| Refusal::new(RefusalCode::Internal, format!("no record at {at}")))?;
        Ok((Arc::new(view), time))
    })
    .await?;
    writer.send(&Message::ChangedReady(time)).await?;
    while let Some(message) = reader.next().await? {
        let Message::ChangedFrom { volume, first } = message else { return Err(out_of_place(&message)) };
        let view = Arc::clone(&view);
        let look = move || view.changed_extents(after, volume, first).map_err(|error| internal(&error));
        writer.send(&Message::ChangedExtents(blocking(look).await?)).await?;
    }
    Ok(())
}
