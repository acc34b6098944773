//! Requests that arrive together may be performed together: each still gets its own outcome, and none waits for the next.

#![allow(
    clippy::big_endian_bytes,
    clippy::unwrap_used,
    reason = "helpers of tests are tests; NBD is big-endian on the wire"
)]

mod common;
#[path = "common/raw.rs"]
mod raw;

use std::sync::{Arc, Mutex};

use common::{Memory, Random, Served};
use nbd::{Capabilities, ErrorCode, Export, Transfer};
use raw::{DISCONNECT, EIO, FLUSH, READ, Raw, WRITE, header};

const SIZE: usize = 4 << 20;
/// Fails.
const BAD: u64 = 1 << 20;

/// Memory that knows what it was asked together.
struct Together {
    memory: Memory,
    batches: Mutex<Vec<usize>>,
}

impl Export for Together {
    fn size_bytes(&self) -> u64 {
        self.memory.size_bytes()
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities
    }

    fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        if offset == BAD { Err(ErrorCode::Io) } else { self.memory.read(offset, buffer) }
    }

    fn write(&self, offset: u64, data: &[u8], fua: bool) -> Result<(), ErrorCode> {
        if offset == BAD { Err(ErrorCode::Io) } else { self.memory.write(offset, data, fua) }
    }

    fn transfer(&self, batch: &mut [Transfer<'_>]) -> Vec<Result<(), ErrorCode>> {
        self.batches.lock().unwrap().push(batch.len());
        batch.iter_mut().map(|one| one.perform(self)).collect()
    }

    fn flush(&self) -> Result<(), ErrorCode> {
        self.memory.flush()
    }
}

fn serve() -> (Served, Arc<Together>) {
    let export = Arc::new(Together { memory: Memory::new(SIZE), batches: Mutex::default() });
    (Served::new(vec![("disk", export.clone())]), export)
}

fn write(cookie: u64, offset: u64, data: &[u8]) -> Vec<u8> {
    [header(WRITE, 0, cookie, offset, u32::try_from(data.len()).unwrap()), data.to_vec()].concat()
}

#[test]
fn each_of_a_batch_gets_its_own_outcome() {
    for structured in [false, true] {
        let (served, export) = serve();
        let mut raw = Raw::attach(&served, structured);
        let before = Random(1).bytes(SIZE);
        export.memory.fill(&before);
        let data = Random(2).bytes(4096);
        // One message, so that all of it arrives at once.
        raw.send(
            &[
                write(1, 0, &data),
                header(READ, 0, 2, 8192, 512),
                write(3, BAD, &data),
                header(READ, 0, 4, BAD, 512),
                write(5, 512, &data[..512]),
                header(READ, 0, 6, 12288, 4096),
            ]
            .concat(),
        );
        let reads = |raw: &mut Raw, cookie, offset: u64, length: usize| {
            let at = usize::try_from(offset).unwrap();
            let bytes = if structured {
                let (kind, of, bytes) = raw.chunk();
                assert_eq!((kind, of, &bytes[..8]), (1, cookie, &offset.to_be_bytes()[..]));
                bytes[8..].to_vec()
            } else {
                assert_eq!(raw.simple(), (0, cookie));
                raw.receive(length)
            };
            assert!(bytes == before[at..at + length], "{cookie}");
        };
        let fails = |raw: &mut Raw, cookie| match structured {
            true => assert_eq!(raw.chunk(), (0x8001, cookie, vec![0, 0, 0, 5, 0, 0])),
            false => assert_eq!(raw.simple(), (EIO, cookie)),
        };
        assert_eq!(raw.simple(), (0, 1));
        reads(&mut raw, 2, 8192, 512);
        fails(&mut raw, 3);
        fails(&mut raw, 4);
        assert_eq!(raw.simple(), (0, 5));
        reads(&mut raw, 6, 12288, 4096);
        assert_eq!(*export.batches.lock().unwrap(), [6]);
        assert!(export.memory.bytes()[..4096] == [&data[..512], &data[..512], &data[1024..]].concat());
    }
}

/// What is not a plain read or write, or is the last one here, goes alone.
#[test]
fn a_batch_ends_where_something_else_comes() {
    let (served, export) = serve();
    let mut raw = Raw::attach(&served, false);
    let block = [7; 4096];
    let fua = [header(WRITE, 1, 3, 8192, 4096), block.to_vec()].concat();
    raw.send(&[write(1, 0, &block), write(2, 4096, &block), fua, header(FLUSH, 0, 4, 0, 0)].concat());
    let mut replies: Vec<_> = (0..4).map(|_| raw.simple()).collect();
    replies.sort_unstable();
    assert_eq!(replies, [(0, 1), (0, 2), (0, 3), (0, 4)]);
    assert_eq!(*export.batches.lock().unwrap(), [2]);
    assert_eq!(export.memory.bytes()[..3 * 4096], [7; 3 * 4096]);
}

/// A request that has not arrived completely holds nobody up, and is not performed if the rest never comes.
#[test]
fn half_a_request_behind_others_neither_delays_them_nor_happens() {
    let (served, export) = serve();
    let mut raw = Raw::attach(&served, false);
    let last = write(3, 8192, &[9; 4096]);
    raw.send(&[write(1, 0, &[7; 4096]), write(2, 4096, &[8; 4096]), last[..2000].to_vec()].concat());
    assert_eq!((raw.simple(), raw.simple()), ((0, 1), (0, 2)));
    raw.send(&last[2000..]);
    assert_eq!(raw.simple(), (0, 3));
    let last = write(6, 6 * 4096, &[9; 4096]);
    raw.send(&[write(4, 4 * 4096, &[7; 4096]), write(5, 5 * 4096, &[8; 4096]), last[..2000].to_vec()].concat());
    drop(raw);
    while served.running.clients() > 0 {
        std::thread::yield_now();
    }
    let expected = [[7; 4096], [8; 4096], [9; 4096], [0; 4096], [7; 4096], [8; 4096], [0; 4096]].concat();
    assert!(export.memory.bytes()[..7 * 4096] == expected);
}

/// Reads and writes of all sizes in pieces of all sizes: whatever is gathered, every byte ends where it belongs.
#[test]
fn streams_of_requests_in_any_pieces() {
    const SLOT: usize = 96 << 10;
    let (served, export) = serve();
    let mut random = Random(3);
    for round in 0..30 {
        let before = random.bytes(SIZE);
        export.memory.fill(&before);
        let mut after = before.clone();
        let mut stream = Vec::new();
        let mut reads = std::collections::BTreeMap::new();
        for slot in 0..SIZE / SLOT {
            let sectors = [1, 7, 8, 8, 8, 16, 128, 129][random.below(8)];
            let (at, length) = (slot * SLOT, sectors * 512);
            let (cookie, offset) = (slot as u64, (slot * SLOT) as u64);
            if offset <= BAD && BAD < offset + SLOT as u64 {
                continue;
            }
            if random.below(3) == 0 {
                stream.extend(header(READ, 0, cookie, offset, u32::try_from(length).unwrap()));
                reads.insert(cookie, at..at + length);
            } else {
                let data = random.bytes(length);
                stream.extend(write(cookie, offset, &data));
                after[at..at + length].copy_from_slice(&data);
            }
        }
        let mut raw = Raw::attach(&served, false);
        let mut sender = Raw(raw.0.try_clone().unwrap());
        let piece = [1999, 4124, 30_000, 100_000, stream.len()][round % 5];
        std::thread::scope(|scope| {
            scope.spawn(|| stream.chunks(piece).for_each(|piece| sender.send(piece)));
            for _ in 0..SIZE / SLOT - 1 {
                let (error, cookie) = raw.simple();
                assert_eq!(error, 0);
                if let Some(range) = reads.get(&cookie) {
                    assert!(raw.receive(range.len()) == before[range.clone()], "round {round}, {cookie}");
                }
            }
        });
        raw.request(DISCONNECT, 0, 0, 0, 0);
        assert!(export.memory.bytes() == after, "round {round}");
    }
    assert!(export.batches.lock().unwrap().iter().any(|count| *count > 2));
}
