//! A client that misbehaves in every way gets the protocol's error or is hung up on, and the next one is served.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::io::{ErrorKind, Read};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use common::{Memory, Random, Served};
use nbd::{Capabilities, ErrorCode, Export};
use raw::{BLOCK_STATUS, DISCONNECT, EINVAL, EIO, ENOSPC, EPERM, FLUSH, READ, Raw, TRIM, WRITE, WRITE_ZEROES, header};

const SIZE: usize = 1 << 20;

fn serve() -> (Served, Arc<Memory>) {
    let memory = Arc::new(Memory::new(SIZE));
    (Served::new(vec![("disk", memory.clone())]), memory)
}

/// The server still serves, whatever came before.
fn still_serves(served: &Served) {
    let mut raw = Raw::attach(served, false);
    raw.request(READ, 0, 99, 0, 512);
    assert_eq!(raw.simple(), (0, 99));
    raw.receive(512);
    raw.request(DISCONNECT, 0, 0, 0, 0);
    assert!(raw.until_end().is_empty());
}

#[test]
fn every_command_works() {
    let (served, memory) = serve();
    let mut raw = Raw::attach(&served, false);
    let data = Random(1).bytes(4096);
    raw.request(WRITE, 1, 1, 8192, 4096);
    raw.send(&data);
    assert_eq!(raw.simple(), (0, 1));
    assert_eq!(memory.bytes()[8192..12288], data);
    raw.request(READ, 0, 2, 8192, 4096);
    assert_eq!((raw.simple(), raw.receive(4096)), ((0, 2), data));
    raw.request(FLUSH, 0, 3, 0, 0);
    assert_eq!(raw.simple(), (0, 3));
    assert_eq!(memory.flushes.load(Ordering::Relaxed), 1);
    raw.request(WRITE_ZEROES, 2, 4, 8192, 512);
    assert_eq!(raw.simple(), (0, 4));
    assert_eq!(memory.bytes()[8192..8704], [0; 512]);
    raw.request(TRIM, 0, 5, 8192, 4096);
    assert_eq!(raw.simple(), (0, 5));
    assert_eq!(memory.bytes(), [0; SIZE]);
    assert_eq!(served.running.clients(), 1);
    raw.request(DISCONNECT, 0, 0, 0, 0);
    assert!(raw.until_end().is_empty());
    served.running.shutdown();
}

#[test]
fn structured_replies() {
    let (served, memory) = serve();
    let mut bytes = vec![0; SIZE];
    bytes[4096..8192].fill(7);
    memory.fill(&bytes);
    let mut raw = Raw::attach(&served, true);
    raw.request(READ, 4, 1, 4096, 512);
    assert_eq!(raw.chunk(), (1, 1, [&[0, 0, 0, 0, 0, 0, 0x10, 0][..], &[7; 512]].concat()));
    raw.request(BLOCK_STATUS, 0, 2, 0, 16384);
    let extents = b"\0\0\0\x01\0\0\x10\0\0\0\0\x03\0\0\x10\0\0\0\0\0\0\0\x20\0\0\0\0\x03";
    assert_eq!(raw.chunk(), (5, 2, extents.to_vec()));
    raw.request(BLOCK_STATUS, 8, 3, 8192, 4096);
    assert_eq!(raw.chunk(), (5, 3, b"\0\0\0\x01\0\0\x10\0\0\0\0\x03".to_vec()));
    raw.request(READ, 0, 4, SIZE as u64, 512);
    assert_eq!(raw.chunk(), (0x8001, 4, vec![0, 0, 0, 22, 0, 0]));
    raw.request(FLUSH, 0, 5, 0, 0);
    assert_eq!(raw.simple(), (0, 5));
}

#[test]
fn refused_requests_leave_the_connection_usable() {
    let (served, memory) = serve();
    let mut raw = Raw::attach(&served, false);
    let end = SIZE as u64;
    let mut cookie = 0;
    let mut refused = |kind, flags, offset, length: u32, error| {
        cookie += 1;
        raw.request(kind, flags, cookie, offset, length);
        if kind == WRITE {
            raw.send(&vec![0xaa; length as usize]);
        }
        assert_eq!(raw.simple(), (error, cookie), "{kind} {flags} {offset} {length}");
    };
    refused(READ, 0, end, 512, EINVAL);
    refused(READ, 0, u64::MAX - 511, 512, EINVAL);
    refused(READ, 0, 0, (32 << 20) + 512, EINVAL);
    refused(READ, 0, 0, u32::MAX, EINVAL);
    refused(READ, 0, 0, 0, EINVAL);
    refused(READ, 0, 1, 512, EINVAL);
    refused(READ, 4, 0, 512, EINVAL);
    refused(WRITE, 0, end - 512, 1024, ENOSPC);
    refused(WRITE, 0, 0, 0, EINVAL);
    refused(WRITE, 0, 0, 511, EINVAL);
    refused(WRITE, 0, 0, 100_001, EINVAL);
    refused(WRITE, 0x40, 0, 4096, EINVAL);
    refused(WRITE, 0, 0, (32 << 20) + 512, EINVAL);
    refused(WRITE, 0, 0, 64 << 20, EINVAL);
    refused(WRITE, 0, 0, 32 << 20, ENOSPC);
    refused(WRITE_ZEROES, 16, 0, 512, EINVAL);
    refused(WRITE_ZEROES, 0, 0, u32::MAX - 511, ENOSPC);
    refused(TRIM, 0, 0, u32::MAX - 511, EINVAL);
    refused(FLUSH, 0, 512, 0, EINVAL);
    refused(BLOCK_STATUS, 0, 0, 512, EINVAL);
    for command in [5, 8, 0x7777] {
        refused(command, 0, 0, 512, EINVAL);
    }
    assert_eq!(memory.bytes(), vec![0; SIZE], "nothing was written");
    still_serves(&served);
}

#[test]
fn a_write_too_large_to_drain_is_hung_up_on() {
    let (served, _) = serve();
    let mut raw = Raw::attach(&served, false);
    raw.request(WRITE, 0, 1, 0, (64 << 20) + 512);
    assert!(raw.until_end().is_empty());
    still_serves(&served);
}

#[test]
fn large_requests_pass() {
    let memory = Arc::new(Memory::new(40 << 20));
    let served = Served::new(vec![("disk", memory.clone())]);
    let mut raw = Raw::attach(&served, false);
    let data = Random(2).bytes(32 << 20);
    raw.request(WRITE, 0, 1, 4096, 32 << 20);
    raw.send(&data);
    assert_eq!(raw.simple(), (0, 1));
    raw.request(READ, 0, 2, 4096, 32 << 20);
    assert_eq!(raw.simple(), (0, 2));
    assert!(raw.receive(32 << 20) == data);
    // The sizes around the one that a worker's own buffer ends at.
    for length in [(2 << 20) - 512, 2 << 20, (2 << 20) + 512] {
        raw.request(WRITE, 0, 3, 0, length);
        raw.send(&data[..length as usize]);
        assert_eq!(raw.simple(), (0, 3));
        assert!(memory.bytes()[..length as usize] == data[..length as usize]);
    }
}

#[test]
fn clients_that_vanish_or_talk_garbage_in_the_handshake() {
    let (served, _) = serve();
    for said in [
        &[][..],
        &[0, 0],
        b"GET / HTTP/1.0\r\n\r\n",
        &[0, 0, 0, 3],
        b"\0\0\0\x03IHAVE",
        b"\0\0\0\x03XHAVEOPT\0\0\0\x07\0\0\0\0",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x20disk",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x05other",
    ] {
        let mut raw = Raw::connect(&served);
        raw.send(said);
        raw.0.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(raw.until_end().is_empty(), "{said:?}");
    }
    still_serves(&served);
}

#[test]
fn options_have_an_end() {
    let (served, _) = serve();
    let mut raw = Raw::connect(&served);
    raw.send(&[0, 0, 0, 3]);
    for _ in 0..nbd::limits::OPTIONS_MAX {
        raw.option(3, &[]);
        assert_eq!(raw.receive(20 + 8 + 20)[24..28], *b"disk");
    }
    assert!(raw.until_end().is_empty());
}

#[test]
fn clients_that_vanish_or_talk_garbage_in_transmission() {
    let (served, memory) = serve();
    let write = [header(WRITE, 0, 1, 0, 4096), vec![0xaa; 4095]].concat();
    for said in [&write[..1], &write[..27], &write[..28], &write[..2000], &write, &[b'x'; 28], &[b'x'; 5000]] {
        let mut raw = Raw::attach(&served, false);
        raw.send(said);
        raw.0.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(raw.until_end().is_empty(), "{} bytes", said.len());
    }
    assert_eq!(memory.bytes(), vec![0; SIZE], "half a write is none");
    // One that goes without reading a reply.
    let mut raw = Raw::attach(&served, false);
    (0..64).for_each(|cookie| raw.request(READ, 0, cookie, 0, 1 << 20));
    drop(raw);
    still_serves(&served);
}

#[test]
fn many_requests_in_flight_are_all_answered() {
    let (served, memory) = serve();
    let mut raw = Raw::attach(&served, false);
    let data = Random(3).bytes(SIZE);
    let mut sender = Raw(raw.0.try_clone().unwrap());
    let sent = data.clone();
    let writer = std::thread::spawn(move || {
        for (cookie, block) in (0..).zip(sent.chunks(4096)) {
            sender.send(&[header(WRITE, 0, cookie, cookie * 4096, 4096), block.to_vec()].concat());
        }
    });
    let mut seen: Vec<u64> = (0..256).map(|_| raw.simple()).map(|(error, cookie)| (cookie, error).0).collect();
    writer.join().unwrap();
    seen.sort_unstable();
    assert_eq!(seen, (0..256).collect::<Vec<_>>());
    assert!(memory.bytes() == data);
}

/// Tells when a write has begun, and performs it when it may.
struct Gated {
    began: Sender<()>,
    may_end: Mutex<Receiver<()>>,
}

impl Export for Gated {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), ErrorCode> {
        Err(ErrorCode::Io)
    }

    fn write(&self, _: u64, _: &[u8], _: bool) -> Result<(), ErrorCode> {
        self.began.send(()).unwrap();
        self.may_end.lock().unwrap().recv().unwrap();
        Err(ErrorCode::Io)
    }
}

#[test]
fn no_reply_comes_before_the_write_is_done() {
    let ((began, has_begun), (end, may_end)) = (channel(), channel());
    let served = Served::new(vec![("disk", Arc::new(Gated { began, may_end: Mutex::new(may_end) }))]);
    let mut raw = Raw::attach(&served, false);
    for fua in [0, 1] {
        raw.request(WRITE, fua, 1, 0, 512);
        raw.send(&[1; 512]);
        has_begun.recv().unwrap();
        raw.0.set_nonblocking(true).unwrap();
        let early = raw.0.read(&mut [0]);
        raw.0.set_nonblocking(false).unwrap();
        end.send(()).unwrap();
        assert_eq!(early.map_err(|error| error.kind()).unwrap_err(), ErrorKind::WouldBlock);
        assert_eq!(raw.simple(), (EIO, 1));
    }
}

/// Fails or panics where it is told to.
struct Broken;

impl Export for Broken {
    fn size_bytes(&self) -> u64 {
        1 << 20
    }

    fn read(&self, offset: u64, _: &mut [u8]) -> Result<(), ErrorCode> {
        assert!(offset == 0, "a bug in the export");
        Err(ErrorCode::Io)
    }
}

#[test]
fn an_export_that_fails_or_panics() {
    let served = Served::new(vec![("disk", Arc::new(Broken))]);
    let mut raw = Raw::attach(&served, false);
    raw.request(READ, 0, 1, 0, 512);
    assert_eq!(raw.simple(), (EIO, 1));
    raw.request(WRITE, 0, 2, 0, 512);
    raw.send(&[0; 512]);
    assert_eq!(raw.simple(), (EPERM, 2), "read-only");
    raw.request(READ, 0, 3, 512, 512);
    assert!(raw.until_end().is_empty(), "a panic costs the connection");
    let mut raw = Raw::attach(&served, true);
    raw.request(READ, 0, 4, 0, 512);
    assert_eq!(raw.chunk(), (0x8001, 4, vec![0, 0, 0, 5, 0, 0]), "and nobody else's");
    assert!(Broken.capabilities() == Capabilities::READ_ONLY);
}
