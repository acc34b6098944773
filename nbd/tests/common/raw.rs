//! A client that says exactly what a test wants it to say.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(
    clippy::big_endian_bytes,
    clippy::unwrap_used,
    reason = "helpers of tests are tests; NBD is big-endian on the wire"
)]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::Served;

pub(crate) const READ: u16 = 0;
pub(crate) const WRITE: u16 = 1;
pub(crate) const DISCONNECT: u16 = 2;
pub(crate) const FLUSH: u16 = 3;
pub(crate) const TRIM: u16 = 4;
pub(crate) const WRITE_ZEROES: u16 = 6;
pub(crate) const BLOCK_STATUS: u16 = 7;

pub(crate) const EIO: u32 = 5;
pub(crate) const EPERM: u32 = 1;
pub(crate) const EINVAL: u32 = 22;
pub(crate) const ENOSPC: u32 = 28;

pub(crate) struct Raw(pub(crate) UnixStream);

impl Raw {
    /// Connected, greeting read, nothing said.
    pub(crate) fn connect(served: &Served) -> Self {
        let mut raw = Self(UnixStream::connect(served.socket()).unwrap());
        assert_eq!(raw.receive(18), b"NBDMAGICIHAVEOPT\0\x03");
        raw
    }

    /// In transmission, by the shortest handshake; with structured replies and `base:allocation` if wanted.
    pub(crate) fn attach(served: &Served, structured: bool) -> Self {
        let mut raw = Self::connect(served);
        raw.send(&[0, 0, 0, 3]);
        if structured {
            raw.option(8, &[]);
            assert_eq!(raw.receive(20)[12..], [0, 0, 0, 1, 0, 0, 0, 0]);
            raw.option(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation");
            assert_eq!(raw.receive(39 + 20)[20..39], *b"\0\0\0\x01base:allocation");
        }
        raw.option(1, b"");
        raw.receive(10);
        raw
    }

    pub(crate) fn option(&mut self, option: u32, data: &[u8]) {
        self.send(b"IHAVEOPT");
        self.send(&option.to_be_bytes());
        self.send(&u32::try_from(data.len()).unwrap().to_be_bytes());
        self.send(data);
    }

    pub(crate) fn request(&mut self, kind: u16, flags: u16, cookie: u64, offset: u64, length: u32) {
        self.send(&header(kind, flags, cookie, offset, length));
    }

    /// A simple reply without data: its error and cookie.
    pub(crate) fn simple(&mut self) -> (u32, u64) {
        let reply = self.receive(16);
        assert_eq!(reply[..4], [0x67, 0x44, 0x66, 0x98]);
        (number(&reply[4..8]), u64::from_be_bytes(reply[8..].try_into().unwrap()))
    }

    /// A structured reply: its kind, cookie and payload.
    pub(crate) fn chunk(&mut self) -> (u16, u64, Vec<u8>) {
        let head = self.receive(20);
        assert_eq!(head[..6], [0x66, 0x8e, 0x33, 0xef, 0, 1]);
        let length = usize::try_from(number(&head[16..])).unwrap();
        let kind = u16::from_be_bytes([head[6], head[7]]);
        (kind, u64::from_be_bytes(head[8..16].try_into().unwrap()), self.receive(length))
    }

    /// Whatever the server says until it hangs up. A server that resets the connection hangs up too.
    pub(crate) fn until_end(&mut self) -> Vec<u8> {
        let mut said = Vec::new();
        let _ = self.0.read_to_end(&mut said);
        said
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    pub(crate) fn receive(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }
}

pub(crate) fn header(kind: u16, flags: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut out = vec![0x25, 0x60, 0x95, 0x13];
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(length.to_be_bytes());
    out
}

pub(crate) fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().unwrap())
}
