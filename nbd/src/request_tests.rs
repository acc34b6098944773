use super::{BadMagic, HEADER_BYTES, Operation, Request, Session};
use crate::export::{Capabilities, ErrorCode};
use crate::limits::PAYLOAD_BYTES_MAX;
use crate::wire::Put;

const SIZE: u64 = 64 << 20;
const ALL: Session = Session {
    size_bytes: SIZE,
    capabilities: Capabilities::ALL,
    min_block_bytes: 512,
    structured: true,
    allocation: true,
};
const PLAIN: Session = Session { structured: false, allocation: false, ..ALL };
const NOTHING: Capabilities = Capabilities { read_only: false, multi_conn: false, ..Capabilities::READ_ONLY };

fn header(magic: u32, flags: u16, kind: u16, offset: u64, length: u32) -> [u8; HEADER_BYTES] {
    let mut out = Vec::new();
    out.put_u32(magic);
    out.put_u16(flags);
    out.put_u16(kind);
    out.put_u64(7);
    out.put_u64(offset);
    out.put_u32(length);
    out.try_into().unwrap()
}

#[track_caller]
fn check(session: &Session, kind: u16, flags: u16, offset: u64, length: u32, expect: Result<Operation, ErrorCode>) {
    let request = Request::parse(&header(0x2560_9513, flags, kind, offset, length)).unwrap();
    assert_eq!(request.cookie, 7);
    assert_eq!(request.payload_bytes(), if kind == 1 { length } else { 0 });
    assert_eq!(request.check(session), expect);
}

#[test]
fn another_magic_is_no_request() {
    assert_eq!(Request::parse(&header(0x2560_9514, 0, 0, 0, 512)), Err(BadMagic));
    assert_eq!(Request::parse(&[0; HEADER_BYTES]), Err(BadMagic));
}

#[test]
fn good_requests() {
    let (offset, length) = (512, 1024);
    check(&ALL, 0, 0, offset, length, Ok(Operation::Read { offset, length }));
    check(&ALL, 0, 1 | 4, offset, length, Ok(Operation::Read { offset, length }));
    check(&ALL, 1, 0, offset, length, Ok(Operation::Write { offset, length, fua: false }));
    check(&ALL, 1, 1, offset, length, Ok(Operation::Write { offset, length, fua: true }));
    check(&ALL, 2, 0, 0, 0, Ok(Operation::Disconnect));
    check(&ALL, 3, 0, 0, 0, Ok(Operation::Flush));
    check(&ALL, 4, 1, offset, length, Ok(Operation::Trim { offset, length, fua: true }));
    check(&ALL, 6, 0, offset, length, Ok(Operation::WriteZeroes { offset, length, no_hole: false, fua: false }));
    check(&ALL, 6, 3, offset, length, Ok(Operation::WriteZeroes { offset, length, no_hole: true, fua: true }));
    check(&ALL, 7, 0, offset, length, Ok(Operation::BlockStatus { offset, length, one: false }));
    check(&ALL, 7, 8, offset, length, Ok(Operation::BlockStatus { offset, length, one: true }));
    // Only what carries data is limited.
    let length = 64 << 20;
    check(&ALL, 6, 0, 0, length, Ok(Operation::WriteZeroes { offset: 0, length, no_hole: false, fua: false }));
    check(&ALL, 7, 0, 0, length, Ok(Operation::BlockStatus { offset: 0, length, one: false }));
}

#[test]
fn ranges_end_at_the_end() {
    let end = SIZE;
    check(&ALL, 0, 0, end - 512, 512, Ok(Operation::Read { offset: end - 512, length: 512 }));
    for (kind, beyond) in [
        (0, ErrorCode::Invalid),
        (1, ErrorCode::NoSpace),
        (4, ErrorCode::Invalid),
        (6, ErrorCode::NoSpace),
        (7, ErrorCode::Invalid),
    ] {
        check(&ALL, kind, 0, end - 512, 1024, Err(beyond));
        check(&ALL, kind, 0, end, 512, Err(beyond));
        check(&ALL, kind, 0, u64::MAX - 511, 512, Err(beyond));
        check(&ALL, kind, 0, u64::MAX - 511, 1024, Err(beyond));
        check(&ALL, kind, 0, 256, 512, Err(ErrorCode::Invalid));
        check(&ALL, kind, 0, 512, 511, Err(ErrorCode::Invalid));
        check(&ALL, kind, 0, 512, 0, Err(ErrorCode::Invalid));
        check(&Session { min_block_bytes: 4096, ..ALL }, kind, 0, 512, 4096, Err(ErrorCode::Invalid));
    }
}

#[test]
fn payload_is_limited() {
    let length = PAYLOAD_BYTES_MAX;
    check(&ALL, 0, 0, 0, length, Ok(Operation::Read { offset: 0, length }));
    check(&ALL, 1, 0, 0, length, Ok(Operation::Write { offset: 0, length, fua: false }));
    check(&ALL, 0, 0, 0, length + 512, Err(ErrorCode::Invalid));
    check(&ALL, 1, 0, 0, length + 512, Err(ErrorCode::Invalid));
}

#[test]
fn what_is_not_offered_is_refused() {
    let nothing = Session { capabilities: NOTHING, ..PLAIN };
    let read_only = Session { capabilities: Capabilities::READ_ONLY, ..ALL };
    for kind in [1, 4, 6] {
        check(&read_only, kind, 0, 0, 512, Err(ErrorCode::NotPermitted));
    }
    for kind in [4, 6, 7] {
        check(&nothing, kind, 0, 0, 512, Err(ErrorCode::Invalid));
    }
    check(&nothing, 3, 0, 0, 0, Err(ErrorCode::Invalid));
    for kind in [0, 1] {
        check(&nothing, kind, 1, 0, 512, Err(ErrorCode::Invalid));
    }
    // A read-only export that is told to be trimmable is still read-only.
    let odd = Session { capabilities: Capabilities { read_only: true, ..Capabilities::ALL }, ..ALL };
    check(&odd, 4, 0, 0, 512, Err(ErrorCode::NotPermitted));
}

#[test]
fn flags_and_commands_that_do_not_exist() {
    for kind in [5, 8, 9, 0xffff] {
        check(&ALL, kind, 0, 0, 512, Err(ErrorCode::Invalid));
    }
    check(&PLAIN, 0, 4, 0, 512, Err(ErrorCode::Invalid)); // "do not fragment" without structured replies
    check(&ALL, 1, 2, 0, 512, Err(ErrorCode::Invalid)); // no hole, on a write
    check(&ALL, 0, 8, 0, 512, Err(ErrorCode::Invalid)); // one extent, on a read
    check(&ALL, 6, 16, 0, 512, Err(ErrorCode::Invalid)); // fast zero is not offered
    check(&ALL, 0, 0x8000, 0, 512, Err(ErrorCode::Invalid));
    check(&ALL, 3, 0, 512, 0, Err(ErrorCode::Invalid)); // a flush has no range
    check(&ALL, 3, 0, 0, 512, Err(ErrorCode::Invalid));
}
