//! Messages on a QUIC stream.
//!
//! A frame is read into one buffer that is used again, and written from the memory it lies in: on its way it is copied
//! by QUIC only. What the readers of a connection hold together is bounded, however many streams it has.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use journal::error::{Error, Result};
use journal::frame::{Pool, Pooled};
use journal::limits::FRAME_BYTES;
use journal::wire::{MESSAGE_HEADER_BYTES, Message, MessageHeader, RefusalCode, Tag};
use quinn::{RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{close_code, read_error, write_error};

/// A body up to this size gets memory of its own, so that it does not hold a whole buffer.
const SMALL_BYTES: usize = 128 * 1024;
/// Buffers kept while unused. Frames on their way are bounded elsewhere.
const BUFFERS_KEPT: usize = 32;

/// Large bodies of one connection that are being read, or were read and are still in use.
const ROOM_BYTES: usize = 128 * 1024 * 1024;
/// What each of them takes: a buffer has the size of the largest, whatever is in it.
const FRAME_ROOM: u32 = 2 * 1024 * 1024;
const _: () = assert!(FRAME_BYTES <= 2 * 1024 * 1024);

/// Both ends of a stream that was just opened or accepted, the only one of its connection that large messages come in on.
pub fn message_stream(pair: (SendStream, RecvStream)) -> (MessageWriter, MessageReader) {
    message_stream_in(pair, &Room::default())
}

/// Both ends of a stream that was just opened or accepted. All streams of the connection share the room.
pub fn message_stream_in((send, recv): (SendStream, RecvStream), room: &Room) -> (MessageWriter, MessageReader) {
    (MessageWriter { stream: send, rest: VecDeque::new() }, MessageReader::new(recv, room.clone()))
}

/// Memory for the large messages of one connection: while it is used up, nothing more is read, and QUIC's windows bound
/// what the other side may still send. Each body has its room before the first byte of it is read.
///
/// A peer that keeps no more than [`FLIGHT_BYTES`](crate::FLIGHT_BYTES) on its way never blocks itself: the rest of
/// each body that has room finds room in the window, too.
#[derive(Clone, Debug)]
pub struct Room {
    bytes: Arc<Semaphore>,
    pool: Pool,
}

impl Default for Room {
    fn default() -> Self {
        Self::of(ROOM_BYTES)
    }
}

impl Room {
    pub(crate) fn of(bytes: usize) -> Self {
        Self { bytes: Arc::new(Semaphore::new(bytes)), pool: Pool::new(FRAME_BYTES, BUFFERS_KEPT) }
    }

    /// Waits for memory for a body. May be dropped and called again.
    async fn body(&self, header: MessageHeader) -> Body {
        let len = header.body_len();
        let memory = if len <= SMALL_BYTES {
            Memory::Own(vec![0; len])
        } else {
            // The semaphore is never closed.
            let taken = Arc::clone(&self.bytes).acquire_many_owned(FRAME_ROOM).await.ok();
            Memory::Pooled(Counted { bytes: self.pool.take(), _room: taken })
        };
        Body { tag: header.tag, memory, len, filled: 0 }
    }
}

/// Reads messages from a stream.
#[derive(Debug)]
pub struct MessageReader {
    stream: RecvStream,
    room: Room,
    header: [u8; MESSAGE_HEADER_BYTES],
    header_len: usize,
    body: Option<Body>,
}

/// A body on its way in.
#[derive(Debug)]
struct Body {
    tag: Tag,
    memory: Memory,
    len: usize,
    filled: usize,
}

#[derive(Debug)]
enum Memory {
    Own(Vec<u8>),
    Pooled(Counted),
}

/// A buffer, and the room it takes: both are given back when nobody uses what is in it any more.
#[derive(Debug)]
struct Counted {
    bytes: Pooled,
    _room: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl MessageReader {
    fn new(stream: RecvStream, room: Room) -> Self {
        Self { stream, room, header: [0; MESSAGE_HEADER_BYTES], header_len: 0, body: None }
    }

    /// The next message; `None` when the other side has finished the stream, between two messages.
    ///
    /// May be dropped and called again: what was read is kept. Bytes that are no message are
    /// [`Corrupt`](journal::error::ErrorKind::Corrupt), and the stream is of no more use.
    pub async fn next(&mut self) -> Result<Option<Message>> {
        while self.body.is_none() {
            if self.header_len == MESSAGE_HEADER_BYTES {
                // Checked against the tag's limit before there is memory for it.
                let header = MessageHeader::decode(&self.header)?;
                self.body = Some(self.room.body(header).await);
                self.header_len = 0;
                break;
            }
            let rest = self.header.get_mut(self.header_len..).unwrap_or_default();
            match self.stream.read(rest).await.map_err(read_error)? {
                Some(count) => self.header_len += count,
                None if self.header_len == 0 => return Ok(None),
                None => return Err(cut()),
            }
        }
        if let Some(body) = &mut self.body {
            while body.filled < body.len {
                match self.stream.read(body.room()).await.map_err(read_error)? {
                    Some(count) => body.filled += count,
                    None => return Err(cut()),
                }
            }
        }
        let message = self.body.take().map(Body::decode).transpose()?;
        Ok(message)
    }

    /// Tells the other side why nothing more is read.
    pub fn stop(&mut self, code: RefusalCode) {
        // It fails when the stream has ended already, which is as good.
        let _ = self.stream.stop(close_code(code));
    }
}

impl Body {
    fn room(&mut self) -> &mut [u8] {
        let memory: &mut [u8] = match &mut self.memory {
            Memory::Own(memory) => memory,
            Memory::Pooled(memory) => &mut memory.bytes,
        };
        memory.get_mut(self.filled..self.len).unwrap_or_default()
    }

    fn decode(self) -> Result<Message> {
        let bytes = match self.memory {
            Memory::Own(memory) => Bytes::from(memory),
            Memory::Pooled(memory) => Bytes::from_owner(memory).slice(..self.len),
        };
        Ok(Message::decode(self.tag, bytes)?)
    }
}

fn cut() -> Error {
    Error::corrupt("the stream ended inside a message")
}

/// Writes messages to a stream.
#[derive(Debug)]
pub struct MessageWriter {
    stream: SendStream,
    /// What is left of a frame that was begun.
    rest: VecDeque<Bytes>,
}

impl MessageWriter {
    /// Writes a message, as soon as there is room in the stream's window. Must run to its end: dropped before, it may
    /// leave half a message.
    ///
    /// # Panics
    /// If the message breaks its own limits.
    pub async fn send(&mut self, message: &Message) -> Result<()> {
        match message {
            Message::Frame(bytes) => self.send_frame(bytes.clone()).await,
            message => self.stream.write_all(&message.encode()).await.map_err(write_error),
        }
    }

    /// Writes a frame without copying it. As [`send`](Self::send).
    ///
    /// # Panics
    /// If no frame has that length.
    pub async fn send_frame(&mut self, frame: Bytes) -> Result<()> {
        self.begin_frame(frame);
        while self.left() > 0 {
            self.write_some(usize::MAX).await?;
        }
        Ok(())
    }

    /// Begins a frame, which is not copied: [`write_some`](Self::write_some) writes it. Nothing else may be sent before all of it is.
    ///
    /// # Panics
    /// If no frame has that length, or another one is not written yet.
    pub fn begin_frame(&mut self, frame: Bytes) {
        assert!(self.rest.is_empty(), "a frame in the middle of another");
        let header = MessageHeader::new(Tag::Frame, frame.len()).encode();
        self.rest.extend([Bytes::copy_from_slice(&header), frame]);
    }

    /// Bytes of the frame that are not written yet.
    pub fn left(&self) -> usize {
        self.rest.iter().map(Bytes::len).sum()
    }

    /// Writes up to so many bytes of the frame, as soon as there is room for any in the stream's window: how many it were. May be
    /// dropped and called again: what was written is kept.
    pub async fn write_some(&mut self, bytes: usize) -> Result<usize> {
        let mut left = bytes;
        let mut parts: Vec<Bytes> = Vec::with_capacity(2);
        for chunk in &self.rest {
            let part = chunk.slice(..chunk.len().min(left));
            left -= part.len();
            parts.push(part);
        }
        parts.retain(|part| !part.is_empty());
        if parts.is_empty() {
            return Ok(0);
        }
        let written = self.stream.write_chunks(&mut parts).await.map_err(write_error)?.bytes;
        let mut passed = written;
        while let Some(chunk) = self.rest.front_mut().filter(|_| passed > 0) {
            let step = passed.min(chunk.len());
            chunk.advance(step);
            passed -= step;
            if chunk.is_empty() {
                self.rest.pop_front();
            }
        }
        Ok(written)
    }

    /// Streams of higher priority go first; 0 is where all start.
    pub fn set_priority(&self, priority: i32) {
        // It fails when the stream has ended already, which is as good.
        let _ = self.stream.set_priority(priority);
    }

    /// Says that nothing more follows; what was written still arrives.
    pub fn finish(&mut self) {
        // It fails when the stream has ended already, which is as good.
        let _ = self.stream.finish();
    }

    /// Waits until the other side has all that was written before [`finish`](Self::finish), or wants no more.
    pub async fn delivered(&mut self) {
        let _ = self.stream.stopped().await;
    }
}

impl Drop for MessageWriter {
    fn drop(&mut self) {
        if !self.rest.is_empty() {
            // Finished, as a dropped stream is, half a frame would be taken for a broken peer. It fails when the stream has ended.
            let _ = self.stream.reset(close_code(RefusalCode::Internal));
        }
    }
}
