//! The volume at an instant as an image for the judge, read through the receiver's verified view.

use std::io;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use tokio::runtime::Handle;

use super::GROUP;
use crate::client::{Answer, Client};
use crate::error::Failure;

/// A view that is read front to back, mostly.
#[derive(Debug)]
pub(super) struct View {
    client: Client,
    at: String,
    runtime: Handle,
    answer: Option<Answer>,
    /// What arrived and was not yet asked for; it starts at `position`.
    arrived: Bytes,
    position: u64,
    opened: Instant,
    first_byte: Option<Duration>,
}

impl View {
    /// The view at `at`; nothing is read yet. Reading waits, so it is done outside the runtime's own threads.
    pub(super) fn new(client: Client, at: String) -> Self {
        Self {
            client,
            at,
            runtime: Handle::current(),
            answer: None,
            arrived: Bytes::new(),
            position: 0,
            opened: Instant::now(),
            first_byte: None,
        }
    }

    /// From asking for the view to its first verified byte.
    pub(super) fn first_byte(&self) -> Option<Duration> {
        self.first_byte
    }

    /// Fills `buf` from `offset`.
    pub(super) fn read(&mut self, offset: u64, mut buf: &mut [u8]) -> io::Result<()> {
        if offset != self.position || self.answer.is_none() {
            let query = [("group", GROUP.to_owned()), ("at", self.at.clone()), ("offset", offset.to_string())];
            let runtime = self.runtime.clone();
            self.answer = Some(runtime.block_on(self.client.read("/v1/read", &query)).map_err(other)?);
            self.arrived = Bytes::new();
            self.position = offset;
        }
        while !buf.is_empty() {
            if self.arrived.is_empty() {
                self.arrived = self.next_chunk()?;
                continue;
            }
            let count = self.arrived.len().min(buf.len());
            let (now, later) = buf.split_at_mut(count);
            self.arrived.copy_to_slice(now);
            self.position += u64::try_from(count).map_err(io::Error::other)?;
            buf = later;
        }
        Ok(())
    }

    fn next_chunk(&mut self) -> io::Result<Bytes> {
        let runtime = self.runtime.clone();
        let answer = self.answer.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        let chunk = runtime.block_on(answer.chunk()).map_err(other)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        self.first_byte.get_or_insert_with(|| self.opened.elapsed());
        Ok(chunk)
    }
}

fn other(failure: Failure) -> io::Error {
    io::Error::other(failure.document()["message"].to_string())
}
