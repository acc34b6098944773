//! One client: its handshake, then its workers, each of them reading a request, performing it and sending the reply.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::buffer::Buffer;
use crate::export::{ErrorCode, Export};
use crate::gate::Gate;
use crate::handshake::{self, Advert, CLIENT_FLAGS_BYTES, Negotiation, OPTION_HEADER_BYTES, Step};
use crate::limits::{DRAIN_BYTES_MAX, HANDSHAKE_PATIENCE, OPTION_BYTES_MAX, OPTIONS_MAX};
use crate::limits::{WORKER_BYTES_MAX, WORKER_BYTES_MIN};
use crate::pool::{Lent, Pool};
use crate::reader::{Arrival, Reader};
use crate::reply;
use crate::request::{Operation, Request, Session};
use crate::socket::Socket;

/// What clients can ask for by name.
pub(crate) type Exports = [(String, Arc<dyn Export>)];

/// Finds out what the client wants; `None` if it wants nothing.
pub(crate) fn negotiate<'a>(socket: &Socket, exports: &'a Exports) -> io::Result<Option<(&'a dyn Export, Session)>> {
    socket.set_patience(Some(HANDSHAKE_PATIENCE))?;
    socket.send(&handshake::greeting(), &[])?;
    let mut flags = [0; CLIENT_FLAGS_BYTES];
    if !socket.receive_exact(&mut flags)? {
        return Ok(None);
    }
    let mut negotiation = Negotiation::new(adverts(exports), flags).map_err(invalid)?;
    for _ in 0..OPTIONS_MAX {
        let mut header = [0; OPTION_HEADER_BYTES];
        if !socket.receive_exact(&mut header)? {
            return Ok(None);
        }
        let (option, length) = handshake::parse_option_header(&header).map_err(invalid)?;
        if length > OPTION_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut data = vec![0; length as usize];
        if !socket.receive_exact(&mut data)? {
            return Ok(None);
        }
        let mut out = Vec::new();
        let step = negotiation.option(option, &data, &mut out);
        socket.send(&out, &[])?;
        match step {
            Step::Continue => {}
            Step::Close => return Ok(None),
            Step::Serve { export, session } => {
                socket.set_patience(None)?;
                return Ok(Some((&*exports[export].1, session)));
            }
        }
    }
    Ok(None)
}

fn adverts(exports: &Exports) -> Vec<Advert> {
    let advert = |(name, export): &(String, Arc<dyn Export>)| {
        let min_block_bytes = export.min_block_bytes();
        let size_bytes = export.size_bytes() & !(u64::from(min_block_bytes) - 1);
        let (capabilities, closed) = (export.capabilities(), export.closed());
        Advert { name: name.clone(), size_bytes, min_block_bytes, capabilities, closed }
    };
    exports.iter().map(advert).collect()
}

fn invalid(error: handshake::NotAHandshake) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A client that has chosen its export.
pub(crate) struct Connection<'a> {
    socket: &'a Socket,
    export: &'a dyn Export,
    session: Session,
    /// The server stops: no further request is read.
    stopping: &'a AtomicBool,
    gate: Gate<Reader>,
    sending: Mutex<()>,
    /// For requests that are too large for a worker's own buffer.
    large: &'a Pool,
    /// The last request took long, so that the next should not wait for one.
    slow: AtomicBool,
}

impl<'a> Connection<'a> {
    pub(crate) fn new(
        socket: &'a Socket,
        export: &'a dyn Export,
        session: Session,
        stopping: &'a AtomicBool,
        large: &'a Pool,
    ) -> Self {
        Self {
            socket,
            export,
            session,
            stopping,
            gate: Gate::new(Reader::new()),
            sending: Mutex::new(()),
            large,
            slow: AtomicBool::new(false),
        }
    }

    /// Serves until the client leaves, misbehaves or the server stops; every request in progress is finished then.
    pub(crate) fn serve(&self) {
        thread::scope(|scope| self.work(scope));
    }

    fn work<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        // Also if the export panics: the client must not wait for a reply that never comes.
        let _leave = Leave(self);
        let mut own = Buffer::empty();
        own.reserve(WORKER_BYTES_MIN, 0);
        let mut head = Vec::new();
        let mut batch = Batch::default();
        while let Some(mut reader) = self.gate.take() {
            if self.stopping.load(Ordering::Relaxed) {
                return;
            }
            let Ok(Some(arrival)) = reader.next(self.socket, &mut own) else { return };
            let checked = arrival.request.check(&self.session);
            if checked == Ok(Operation::Disconnect) {
                return;
            }
            let size = checked.map_or(0, |operation| operation.buffer_bytes()) as usize;
            let mut large = (size > WORKER_BYTES_MAX).then(|| self.large.take(size));
            let received = match (&checked, &mut large) {
                (Ok(_), None) => reader.payload(self.socket, &arrival, &mut own),
                (Ok(_), Some(large)) => self.large_payload(&mut reader, &arrival, &mut own, large),
                (Err(_), _) => self.refuse_payload(&mut reader, &arrival, &mut own),
            };
            if received.is_err() {
                return;
            }
            if self.gather(&mut batch, &mut reader, &arrival, &checked, &mut own).is_err() {
                return;
            }
            let hand_over = arrival.waited || reader.has_more() || self.is_long(&checked);
            if self.gate.give(reader, hand_over) {
                self.make_worker(scope);
            }
            if !batch.is_empty() {
                own.reserve(batch.end(), batch.end());
                if batch.answer(self.export, self.session.structured, own.as_mut(), self.socket, &self.sending).is_err()
                {
                    return;
                }
                continue;
            }
            let answered = match &mut large {
                Some(large) => self.answer_large(&arrival, checked, large, size, &mut head),
                None => {
                    own.reserve(size, 0); // a payload has made it long enough already
                    self.answer(&arrival, checked, &mut own.as_mut()[..size], &mut head)
                }
            };
            if answered.is_err() {
                return;
            }
        }
    }

    /// Fills `batch` with the request and more that have arrived; it stays empty if there are no two to perform together.
    fn gather(
        &self,
        batch: &mut Batch,
        reader: &mut Reader,
        first: &Arrival,
        checked: &Result<Operation, ErrorCode>,
        own: &mut Buffer,
    ) -> io::Result<()> {
        batch.clear();
        let Ok(operation) = checked else { return Ok(()) };
        if !reader.has_more() || !batch.takes(operation) {
            return Ok(());
        }
        batch.push(first.request.cookie, *operation);
        loop {
            let checked = |request: &Request| request.check(&self.session).ok().filter(|next| batch.takes(next));
            let wanted = |request: &Request| checked(request).is_some();
            let Some(request) = reader.next_arrived(self.socket, own, batch.end(), wanted)? else { break };
            let Some(operation) = checked(&request) else { break };
            batch.push(request.cookie, operation);
        }
        if batch.is_single() {
            batch.clear();
        }
        Ok(())
    }

    fn refuse_payload(&self, reader: &mut Reader, arrival: &Arrival, own: &mut Buffer) -> io::Result<()> {
        if arrival.request.payload_bytes() > DRAIN_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        reader.drain(self.socket, arrival, own)
    }

    fn large_payload(
        &self,
        reader: &mut Reader,
        arrival: &Arrival,
        own: &mut Buffer,
        large: &mut Lent<'_>,
    ) -> io::Result<()> {
        let since = Instant::now();
        let (bytes, keeper) = large.parts();
        reader.payload_elsewhere(self.socket, arrival, own, bytes, &|| keeper.may_be_kept(since))
    }

    /// Whether performing it takes so long that waking another worker costs nothing beside it.
    fn is_long(&self, checked: &Result<Operation, ErrorCode>) -> bool {
        match checked {
            Ok(Operation::Read { length, .. } | Operation::Write { length, fua: false, .. }) => {
                *length >= LONG_BYTES || self.slow.load(Ordering::Relaxed)
            }
            Ok(_) => true,
            Err(_) => false,
        }
    }

    fn make_worker<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) {
        let worker = thread::Builder::new().name("nbd-worker".to_owned());
        if worker.spawn_scoped(scope, move || self.work(scope)).is_err() {
            self.gate.not_made();
        }
    }

    /// Performs the request and sends its reply, built in `head`.
    fn answer(
        &self,
        arrival: &Arrival,
        checked: Result<Operation, ErrorCode>,
        buffer: &mut [u8],
        head: &mut Vec<u8>,
    ) -> io::Result<()> {
        let has_data = self.replied(arrival, checked, buffer, head);
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.socket.send(head, if has_data { buffer } else { &[] })
    }

    /// The same for one whose buffer others may wait for.
    fn answer_large(
        &self,
        arrival: &Arrival,
        checked: Result<Operation, ErrorCode>,
        large: &mut Lent<'_>,
        size: usize,
        head: &mut Vec<u8>,
    ) -> io::Result<()> {
        let (bytes, keeper) = large.parts();
        let buffer = &mut bytes[..size];
        let has_data = self.replied(arrival, checked, buffer, head);
        let since = Instant::now();
        let _sending = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        self.socket.send_while(head, if has_data { buffer } else { &[] }, &|| keeper.may_be_kept(since))
    }

    /// Performs the request and builds the head of its reply; true if what is in `buffer` follows it.
    fn replied(
        &self,
        arrival: &Arrival,
        checked: Result<Operation, ErrorCode>,
        buffer: &mut [u8],
        head: &mut Vec<u8>,
    ) -> bool {
        head.clear();
        let cookie = arrival.request.cookie;
        let started = Instant::now();
        let performed = checked.and_then(|operation| self.perform(operation, cookie, buffer, head));
        let slow = started.elapsed() >= LONG;
        if self.slow.load(Ordering::Relaxed) != slow {
            self.slow.store(slow, Ordering::Relaxed);
        }
        performed.unwrap_or_else(|code| {
            head.clear();
            reply::failure(head, self.session.structured, cookie, code);
            false
        })
    }

    /// Leaves the head of the reply in `head`; true if what is in `buffer` follows it.
    fn perform(
        &self,
        operation: Operation,
        cookie: u64,
        buffer: &mut [u8],
        head: &mut Vec<u8>,
    ) -> Result<bool, ErrorCode> {
        match operation {
            Operation::Read { offset, length } => {
                self.export.read(offset, buffer)?;
                reply::read(head, self.session.structured, cookie, offset, length);
                return Ok(true);
            }
            Operation::BlockStatus { offset, length, one } => {
                let extents = self.export.allocation(offset, u64::from(length))?;
                reply::block_status(head, cookie, length, one, &extents)?;
                return Ok(false);
            }
            Operation::Write { offset, fua, .. } => self.export.write(offset, buffer, fua)?,
            Operation::Flush => self.export.flush()?,
            Operation::Trim { offset, length, fua } => self.export.trim(offset, u64::from(length), fua)?,
            Operation::WriteZeroes { offset, length, no_hole, fua } => {
                self.export.write_zeroes(offset, u64::from(length), no_hole, fua)?;
            }
            Operation::Disconnect => {}
        }
        reply::simple(head, cookie, Ok(()));
        Ok(false)
    }
}

/// A worker that goes takes the connection with it: the others finish what they have and find the gate closed.
struct Leave<'c, 'a>(&'c Connection<'a>);

impl Drop for Leave<'_, '_> {
    fn drop(&mut self) {
        self.0.gate.close();
        if thread::panicking() {
            self.0.socket.close();
        } else {
            self.0.socket.stop_receiving();
        }
    }
}

/// Several times what it takes to wake a thread.
const LONG: Duration = Duration::from_micros(50);
/// Bytes whose copy alone is as long.
const LONG_BYTES: u32 = 256 << 10;
