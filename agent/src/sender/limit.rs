//! A group's limit, with a clock: whoever sends frames waits here for its turn.

use std::sync::{Mutex, MutexGuard, PoisonError};

use journal::error::Result;
use link::MessageWriter;
use tokio::time::{Instant, sleep};

use super::bucket::{Bucket, Stream, Turn};

/// What all frames of a group may take of the link. Without a limit nobody waits.
#[derive(Debug)]
pub(crate) struct Limit {
    bucket: Option<(u64, Mutex<Bucket>)>,
    since: Instant,
}

/// What a stream may send at once, of a frame that it has begun.
#[derive(Debug, Default)]
pub(super) struct Allowed(usize);

impl Limit {
    pub(crate) fn new(bytes_per_second: Option<u64>) -> Self {
        let since = Instant::now();
        let bucket = |rate| (rate, Mutex::new(Bucket::new(rate, since.elapsed())));
        Self { bucket: bytes_per_second.map(bucket), since }
    }

    pub(crate) fn bytes_per_second(&self) -> Option<u64> {
        self.bucket.as_ref().map(|(rate, _)| *rate)
    }

    /// The live stream has ended.
    pub(super) fn live_ended(&self) {
        if let Some(mut bucket) = self.bucket() {
            bucket.live_ended();
        }
    }

    /// Until so many bytes, or some of them, may be sent.
    async fn turn(&self, stream: Stream, bytes: usize) -> usize {
        loop {
            let turn = self.bucket().map(|mut bucket| bucket.ask(stream, bytes, self.since.elapsed()));
            match turn {
                None => return bytes,
                Some(Turn::Send(bytes)) => return bytes,
                Some(Turn::Wait(pause)) => sleep(pause).await,
            }
        }
    }

    fn bucket(&self) -> Option<MutexGuard<'_, Bucket>> {
        self.bucket.as_ref().map(|(_, bucket)| bucket.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Allowed {
    /// Writes some of the frame that was begun, when it may. May be dropped and called again: what was allowed and not written is kept.
    pub(super) async fn write(&mut self, writer: &mut MessageWriter, limit: &Limit, stream: Stream) -> Result<()> {
        if self.0 == 0 {
            self.0 = limit.turn(stream, writer.left()).await;
        }
        self.0 -= writer.write_some(self.0).await?;
        Ok(())
    }
}
