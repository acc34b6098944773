//! Takes requests off a socket with as few calls as possible, and payload to where it is used without a copy.
//!
//! A receive is scattered: the header to the side, what is likely payload straight into the worker's buffer, and a little
//! more into `carry`, where the next requests wait. A write of the size of the one before takes one call and no copy.
//!
//! ```text
//!   socket ──► │ header 28 │ buffer[..guess] │ carry 448 │
//! ```

use std::io::{self, IoSliceMut};

use crate::buffer::Buffer;
use crate::request::{HEADER_BYTES, Request};
use crate::socket::Socket;

/// What stands between a connection's requests.
#[derive(Debug)]
pub(crate) struct Reader {
    /// Received and not yet taken: `carry[start..end]`.
    carry: Box<[u8; CARRY_BYTES]>,
    start: usize,
    end: usize,
    /// Payload that probably follows the next header, in bytes.
    guess: usize,
    /// At least so many bytes wait in the socket.
    arrived: usize,
}

/// A request whose payload is still coming.
#[derive(Debug)]
pub(crate) struct Arrival {
    /// Not checked.
    pub(crate) request: Request,
    /// Bytes after the header that are in the worker's buffer.
    landed: usize,
    /// It was there before anybody asked, so there may be more.
    pub(crate) waited: bool,
}

impl Reader {
    pub(crate) fn new() -> Self {
        Self { carry: Box::new([0; CARRY_BYTES]), start: 0, end: 0, guess: 0, arrived: 0 }
    }

    /// The next header; `None` if the client left, with an error if it left in the middle of it or sent something else.
    pub(crate) fn next(&mut self, socket: &Socket, buffer: &mut Buffer) -> io::Result<Option<Arrival>> {
        let mut header = [0; HEADER_BYTES];
        let mut have = self.take_carried(&mut header);
        let mut landed = 0;
        let mut waited = have > 0;
        buffer.reserve(self.guess, 0);
        while have < HEADER_BYTES {
            let into = &mut buffer.as_mut()[..self.guess];
            let room = into.len();
            let slices = &mut [
                IoSliceMut::new(&mut header[have..]),
                IoSliceMut::new(into),
                IoSliceMut::new(&mut self.carry[..EXTRA_BYTES]),
            ];
            let count = match socket.receive_now(slices)? {
                Some(count) => {
                    waited = true;
                    count
                }
                None => socket.receive(slices)?,
            };
            if count == 0 {
                return if have == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            self.arrived = self.arrived.saturating_sub(count);
            let to_header = count.min(HEADER_BYTES - have);
            have += to_header;
            landed = (count - to_header).min(room);
            (self.start, self.end) = (0, count - to_header - landed);
        }
        let request = Request::parse(&header).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let payload = length(request.payload_bytes());
        self.guess = if payload <= GUESS_BYTES_MAX { payload } else { 0 };
        if landed > payload {
            self.put_back(&buffer.as_mut()[payload..landed]);
            landed = payload;
        }
        Ok(Some(Arrival { request, landed, waited }))
    }

    /// The next request if it is `wanted` and all of it is here, so that nothing waits for it: its payload is at `place` of
    /// `buffer` then, with what lies before kept. Else everything stays where it is.
    pub(crate) fn next_arrived(
        &mut self,
        socket: &Socket,
        buffer: &mut Buffer,
        place: usize,
        wanted: impl FnOnce(&Request) -> bool,
    ) -> io::Result<Option<Request>> {
        // A receive takes what it can of the next header along: without it there is most likely none.
        let Some(header) = self.carry[self.start..self.end].first_chunk() else { return Ok(None) };
        // What is no request ends the connection when its turn comes.
        let Some(request) = Request::parse(header).ok().filter(wanted) else { return Ok(None) };
        let payload = length(request.payload_bytes());
        let missing = (HEADER_BYTES + payload).saturating_sub(self.end - self.start);
        if self.arrived < missing {
            self.arrived = socket.arrived()?;
        }
        if self.arrived < missing {
            return Ok(None);
        }
        self.start += HEADER_BYTES;
        buffer.reserve(place + payload, place);
        self.fill(socket, &mut buffer.as_mut()[place..place + payload])?;
        Ok(Some(request))
    }

    /// Fills the worker's `buffer` with the payload; it is made long enough.
    pub(crate) fn payload(&mut self, socket: &Socket, arrival: &Arrival, buffer: &mut Buffer) -> io::Result<()> {
        let payload = length(arrival.request.payload_bytes());
        buffer.reserve(payload, arrival.landed);
        self.fill(socket, &mut buffer.as_mut()[arrival.landed..payload])
    }

    /// Fills `elsewhere`, with what landed in `buffer` already at its beginning, as long as `patient` says so.
    pub(crate) fn payload_elsewhere(
        &mut self,
        socket: &Socket,
        arrival: &Arrival,
        buffer: &mut Buffer,
        elsewhere: &mut [u8],
        patient: &impl Fn() -> bool,
    ) -> io::Result<()> {
        let payload = length(arrival.request.payload_bytes());
        let (first, rest) = elsewhere[..payload].split_at_mut(arrival.landed);
        first.copy_from_slice(&buffer.as_mut()[..arrival.landed]);
        self.fill_with(rest, |slices| socket.receive_while(slices, patient))
    }

    /// Throws the payload away.
    pub(crate) fn drain(&mut self, socket: &Socket, arrival: &Arrival, buffer: &mut Buffer) -> io::Result<()> {
        let mut left = length(arrival.request.payload_bytes()) - arrival.landed;
        buffer.reserve(left.min(GUESS_BYTES_MAX), 0);
        while left > 0 {
            let piece = left.min(GUESS_BYTES_MAX);
            self.fill(socket, &mut buffer.as_mut()[..piece])?;
            left -= piece;
        }
        Ok(())
    }

    /// Whether the next request has begun to arrive.
    pub(crate) fn has_more(&self) -> bool {
        self.start < self.end
    }

    fn fill(&mut self, socket: &Socket, into: &mut [u8]) -> io::Result<()> {
        self.fill_with(into, |slices| socket.receive(slices))
    }

    fn fill_with(
        &mut self,
        into: &mut [u8],
        mut receive: impl FnMut(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut have = self.take_carried(into);
        while have < into.len() {
            // Everything carried was taken, so there is room for what comes behind.
            let missing = into.len() - have;
            let slices = &mut [IoSliceMut::new(&mut into[have..]), IoSliceMut::new(&mut self.carry[..EXTRA_BYTES])];
            let count = receive(slices)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.arrived = self.arrived.saturating_sub(count);
            have += count.min(missing);
            (self.start, self.end) = (0, count.saturating_sub(missing));
        }
        Ok(())
    }

    fn take_carried(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.end - self.start);
        into[..count].copy_from_slice(&self.carry[self.start..self.start + count]);
        self.start += count;
        count
    }

    /// Puts what landed as payload and is none in front of what is carried.
    fn put_back(&mut self, bytes: &[u8]) {
        self.carry.copy_within(self.start..self.end, bytes.len());
        self.carry[..bytes.len()].copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len() + self.end - self.start);
    }
}

/// A length on the wire as one in memory: no target of this crate has narrower ones.
fn length(bytes: u32) -> usize {
    bytes as usize
}

/// Headers that wait are received together, but no more than is cheap to copy if it turns out to be payload.
const EXTRA_BYTES: usize = 16 * HEADER_BYTES;
/// From here on a second call costs nothing beside the copy of the payload.
const GUESS_BYTES_MAX: usize = 64 << 10;
/// A guess that was wrong is put back in front of the extra.
const CARRY_BYTES: usize = GUESS_BYTES_MAX + EXTRA_BYTES;

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
