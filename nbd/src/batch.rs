//! Reads and writes of one client that one worker performs together and answers with one send.
//!
//! With many requests in flight the hand-overs between threads, the kernel's and the device's bells cost more than the requests:
//! a batch pays for each once. It never waits for a request to arrive, so that a client with one in flight has none.

use std::io::{self, IoSlice};
use std::sync::{Mutex, PoisonError};

use crate::export::{Export, Transfer};
use crate::limits::{BATCH_BYTES_MAX, BATCH_REQUESTS_MAX};
use crate::reply;
use crate::request::Operation;
use crate::socket::Socket;

/// Requests in the order they came, each with its place in the worker's buffer.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    members: Vec<(u64, Operation)>,
    /// Where the next one's bytes go.
    end: usize,
    heads: Vec<u8>,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.members.clear();
        self.end = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn is_single(&self) -> bool {
        self.members.len() == 1
    }

    /// How much of the buffer it uses, in bytes: a multiple of a page.
    pub(crate) fn end(&self) -> usize {
        self.end
    }

    /// Whether `operation` is of the kind that is performed together, and has room.
    pub(crate) fn takes(&self, operation: &Operation) -> bool {
        matches!(operation, Operation::Read { .. } | Operation::Write { fua: false, .. })
            && self.members.len() < BATCH_REQUESTS_MAX
            && self.end + room(operation) <= BATCH_BYTES_MAX
    }

    /// Adds one whose bytes, if it writes, are at [`end`](Self::end).
    pub(crate) fn push(&mut self, cookie: u64, operation: Operation) {
        self.end += room(&operation);
        self.members.push((cookie, operation));
    }

    /// Performs all of it in `buffer` and sends the replies.
    pub(crate) fn answer(
        &mut self,
        export: &dyn Export,
        structured: bool,
        buffer: &mut [u8],
        socket: &Socket,
        sending: &Mutex<()>,
    ) -> io::Result<()> {
        let mut transfers = self.transfers(buffer);
        let outcomes = export.transfer(&mut transfers);
        self.heads.clear();
        // Data, and where in the heads it stands.
        let mut data: Vec<(usize, &[u8])> = Vec::new();
        for ((cookie, _), (transfer, outcome)) in self.members.iter().zip(transfers.iter().zip(outcomes)) {
            match (outcome, transfer) {
                (Err(code), _) => reply::failure(&mut self.heads, structured, *cookie, code),
                (Ok(()), Transfer::Write { .. }) => reply::simple(&mut self.heads, *cookie, Ok(())),
                (Ok(()), Transfer::Read { offset, buffer }) => {
                    let length = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
                    reply::read(&mut self.heads, structured, *cookie, *offset, length);
                    data.push((self.heads.len(), buffer));
                }
            }
        }
        let mut slices = Vec::with_capacity(2 * data.len() + 1);
        let mut sent = 0;
        for (place, data) in data {
            slices.extend([IoSlice::new(&self.heads[sent..place]), IoSlice::new(data)]);
            sent = place;
        }
        slices.push(IoSlice::new(&self.heads[sent..]));
        let _sending = sending.lock().unwrap_or_else(PoisonError::into_inner);
        socket.send_all(&mut slices)
    }

    fn transfers<'b>(&self, mut buffer: &'b mut [u8]) -> Vec<Transfer<'b>> {
        let transfer = |(_, operation): &(u64, Operation)| {
            let (part, rest) = std::mem::take(&mut buffer).split_at_mut(room(operation));
            buffer = rest;
            let part = &mut part[..operation.buffer_bytes() as usize];
            match *operation {
                Operation::Read { offset, .. } => Some(Transfer::Read { offset, buffer: part }),
                Operation::Write { offset, .. } => Some(Transfer::Write { offset, data: part }),
                _ => None,
            }
        };
        self.members.iter().filter_map(transfer).collect()
    }
}

/// Bytes of buffer for it: whole pages, so that the next one starts at a page.
fn room(operation: &Operation) -> usize {
    (operation.buffer_bytes() as usize).next_multiple_of(PAGE_BYTES)
}

const PAGE_BYTES: usize = 4096;
