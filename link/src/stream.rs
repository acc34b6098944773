//! Messages on a QUIC stream.
//!
//! A frame is read into one buffer that is used again, and written from the memory it lies in: on its way it is copied
//! by QUIC only.

use bytes::Bytes;
use journal::error::{Error, Result};
use journal::frame::Pool;
use journal::limits::FRAME_BYTES;
use journal::wire::{MESSAGE_HEADER_BYTES, Message, MessageHeader, RefusalCode, Tag};
use quinn::{RecvStream, SendStream};

use crate::error::{close_code, read_error, write_error};

/// A body up to this size gets memory of its own, so that it does not hold a whole buffer.
const SMALL_BYTES: usize = 128 * 1024;
/// Buffers kept while unused. Frames on their way are bounded elsewhere.
const BUFFERS_KEPT: usize = 32;

/// Both ends of a stream that was just opened or accepted.
pub fn message_stream((send, recv): (SendStream, RecvStream)) -> (MessageWriter, MessageReader) {
    (MessageWriter { stream: send }, MessageReader::new(recv))
}

/// Reads messages from a stream.
#[derive(Debug)]
pub struct MessageReader {
    stream: RecvStream,
    pool: Pool,
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
    Pooled(journal::frame::Pooled),
}

impl MessageReader {
    fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            pool: Pool::new(FRAME_BYTES, BUFFERS_KEPT),
            header: [0; MESSAGE_HEADER_BYTES],
            header_len: 0,
            body: None,
        }
    }

    /// The next message; `None` when the other side has finished the stream, between two messages.
    ///
    /// May be dropped and called again: what was read is kept. Bytes that are no message are
    /// [`Corrupt`](journal::error::ErrorKind::Corrupt), and the stream is of no more use.
    pub async fn next(&mut self) -> Result<Option<Message>> {
        while self.body.is_none() {
            let room = self.header.get_mut(self.header_len..).unwrap_or_default();
            match self.stream.read(room).await.map_err(read_error)? {
                Some(count) => self.header_len += count,
                None if self.header_len == 0 => return Ok(None),
                None => return Err(cut()),
            }
            if self.header_len == MESSAGE_HEADER_BYTES {
                // Checked against the tag's limit before there is memory for it.
                let header = MessageHeader::decode(&self.header)?;
                self.body = Some(Body::new(header, &self.pool));
                self.header_len = 0;
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
    fn new(header: MessageHeader, pool: &Pool) -> Self {
        let len = header.body_len();
        let memory = if len <= SMALL_BYTES { Memory::Own(vec![0; len]) } else { Memory::Pooled(pool.take()) };
        Self { tag: header.tag, memory, len, filled: 0 }
    }

    fn room(&mut self) -> &mut [u8] {
        let memory: &mut [u8] = match &mut self.memory {
            Memory::Own(memory) => memory,
            Memory::Pooled(memory) => memory,
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
        let header = MessageHeader::new(Tag::Frame, frame.len()).encode();
        let mut chunks = [Bytes::copy_from_slice(&header), frame];
        self.stream.write_all_chunks(&mut chunks).await.map_err(write_error)
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
