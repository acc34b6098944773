//! The stream of one base: frames in, what is durable out.

use std::pin::pin;

use journal::failpoint::{self, Step};
use journal::types::{GroupId, ResyncId};
use journal::wire::Message;
use link::{MessageReader, MessageWriter};

use super::state::{Admit, BaseOrder, base_news};
use super::{End, Session, check, out_of_place, wire_base};
use crate::group::Ingest;

/// From `OpenBase` to the end of the stream.
pub(super) async fn serve(
    session: &Session,
    (group, resync): (GroupId, ResyncId),
    writer: &mut MessageWriter,
    reader: &mut MessageReader,
) -> Result<(), End> {
    let ingest = session.ingest(group)?;
    let mut progress = ingest.group().progress();
    let head = ingest.open_base(resync).await?.map(wire_base);
    writer.send(&Message::BaseOpened(head)).await?;
    let mut acked = head.map(|head| head.frame);
    let mut reading = pin!(read(reader, BaseOrder::new(group, resync, head), resync, &ingest));
    loop {
        tokio::select! {
            ended = &mut reading => return ended,
            changed = progress.changed() => {
                changed.map_err(|_| End::Gone)?;
                let durable = base_news(&progress.borrow_and_update(), session.id, resync, acked)?;
                if let Some(head) = durable {
                    acked = Some(head.frame);
                    writer.send(&Message::BaseDurable(head)).await?;
                    failpoint::passed(Step::BaseAcknowledged);
                }
            }
        }
    }
}

async fn read(reader: &mut MessageReader, mut order: BaseOrder, resync: ResyncId, ingest: &Ingest) -> Result<(), End> {
    while let Some(message) = reader.next().await? {
        let Message::Frame(bytes) = message else { return Err(out_of_place(&message)) };
        let frame = check(bytes)?;
        if order.admit(&frame)? == Admit::Next {
            ingest.base(resync, frame).await?;
        }
    }
    Ok(())
}
