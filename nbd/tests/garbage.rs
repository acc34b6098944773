//! Random bytes, the same every run, for everything that parses what a client sends. Nothing panics, and replies stay
//! small: an answer that grows with a length somebody merely claimed would be a way to take memory.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::sync::Arc;

use common::{Memory, Random, Served};
use nbd::Capabilities;
use nbd::handshake::{Advert, Negotiation, Step, parse_option_header};
use nbd::limits::PAYLOAD_BYTES_MAX;
use nbd::request::{HEADER_BYTES, Operation, Request, Session};
use raw::Raw;

const ROUNDS: usize = 200_000;

#[test]
fn options() {
    let mut random = Random(1);
    let advert = Advert {
        name: "disk".to_owned(),
        size_bytes: 1 << 20,
        min_block_bytes: 512,
        capabilities: Capabilities::ALL,
        closed: None,
    };
    let (mut served, mut went_on) = (0, 0);
    let mut negotiation = Negotiation::new(vec![advert.clone()], [0, 0, 0, 3]).unwrap();
    for _ in 0..ROUNDS {
        // Half of it close to what is right, or the parsers would never get far.
        let data = match random.below(4) {
            0 => [&b"\0\0\0\x04disk"[..], &random_counts(&mut random)].concat(),
            1 => [&b"\0\0\0\0"[..], &random_counts(&mut random)].concat(),
            _ => {
                let length = random.below(64);
                random.bytes(length)
            }
        };
        let option = u32::try_from(random.below(14)).unwrap();
        let mut out = Vec::new();
        match negotiation.option(option, &data, &mut out) {
            Step::Continue => went_on += 1,
            Step::Serve { export, .. } => {
                assert_eq!(export, 0);
                served += 1;
            }
            Step::Close => {}
        }
        assert!(out.len() <= 256 && out.capacity() <= 512, "{} bytes for {data:?}", out.len());
    }
    assert!(served > 1000 && went_on > 1000, "{served} {went_on}: it should reach both");
}

/// A count and as much as it counts, or what only looks like that.
fn random_counts(random: &mut Random) -> Vec<u8> {
    let count = random.below(4);
    let mut bytes = random.bytes(2 + 2 * count);
    (bytes[0], bytes[1]) = (0, u8::try_from(count).unwrap());
    if random.below(2) == 0 {
        let length = random.below(12);
        bytes.extend(vec![0; length]);
    }
    bytes
}

#[test]
fn headers() {
    let mut random = Random(2);
    let session = Session {
        size_bytes: 1 << 40,
        capabilities: Capabilities::ALL,
        min_block_bytes: 512,
        structured: true,
        allocation: true,
    };
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..ROUNDS {
        let mut header: [u8; HEADER_BYTES] = random.bytes(HEADER_BYTES).try_into().unwrap();
        let _ = parse_option_header(header.first_chunk().unwrap());
        assert!(Request::parse(&header).is_err());
        header[..4].copy_from_slice(&[0x25, 0x60, 0x95, 0x13]);
        (header[4], header[5], header[6], header[7]) = (0, header[5] & 1, 0, header[7] & 7);
        if random.below(2) == 0 {
            header[16..19].fill(0);
            (header[22], header[23], header[26], header[27]) = (header[22] & 0xfe, 0, header[26] & 0xfe, 0);
        }
        let request = Request::parse(&header).unwrap();
        match request.check(&session) {
            Ok(operation) => {
                accepted += 1;
                assert!(operation.buffer_bytes() <= PAYLOAD_BYTES_MAX);
                if let Operation::Write { length, .. } = operation {
                    assert_eq!(request.payload_bytes(), length);
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}: it should reach both");
}

/// The same at a whole server: it hangs up on all of them, and in the end holds no client.
#[test]
fn streams() {
    let memory = Arc::new(Memory::new(1 << 20));
    let served = Served::new(vec![("disk", memory)]);
    let mut random = Random(3);
    for round in 0..300 {
        let mut raw = if round % 2 == 0 { Raw::connect(&served) } else { Raw::attach(&served, round % 4 == 1) };
        let mut said = Vec::new();
        for _ in 0..random.below(8) {
            let kind = u16::try_from(random.below(9)).unwrap();
            let length = u32::try_from(random.below(8192)).unwrap();
            said.extend(raw::header(kind, 0, 1, random.next() % (1 << 21), length));
            let payload = random.below(8192);
            said.extend(random.bytes(payload));
        }
        // The server may hang up in the middle of it.
        let _ = std::io::Write::write_all(&mut raw.0, &said);
        let _ = raw.0.shutdown(std::net::Shutdown::Write);
        raw.until_end();
    }
    let mut last = Raw::attach(&served, false);
    last.request(raw::DISCONNECT, 0, 0, 0, 0);
    assert!(last.until_end().is_empty());
    served.running.shutdown();
}
