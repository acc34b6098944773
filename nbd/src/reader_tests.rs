use std::io::Write;
use std::os::unix::net::UnixStream;

use super::{EXTRA_BYTES, GUESS_BYTES_MAX, Reader};
use crate::buffer::Buffer;
use crate::socket::Socket;
use crate::wire::Put;

const READ: u16 = 0;
const WRITE: u16 = 1;

fn request(kind: u16, cookie: u64, payload: usize) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(0x2560_9513);
    out.put_u16(0);
    out.put_u16(kind);
    out.put_u64(cookie);
    out.put_u64(0);
    out.put_u32(if kind == WRITE { u32::try_from(payload).unwrap() } else { 512 });
    if kind == WRITE {
        out.extend((0..payload).map(|place| pattern(cookie, place)));
    }
    out
}

fn pattern(cookie: u64, place: usize) -> u8 {
    u8::try_from((cookie * 31 + place as u64 * 7) % 251).unwrap()
}

/// What a reader must take whatever pieces it comes in: every size that falls on a boundary of its buffers, reads between
/// writes, one write that is drained and one that goes to another buffer.
#[test]
fn requests_come_in_any_pieces() {
    let (none, guess, extra) = (0, GUESS_BYTES_MAX, EXTRA_BYTES);
    let sizes =
        [4096, 4096, none, none, 512, 512, 4096, extra, extra + 1, none, guess, guess, guess + 1, none, 512, 200_000];
    let kinds = sizes.map(|size| if size == none { READ } else { WRITE });
    let mut stream = Vec::new();
    for (cookie, (kind, size)) in (0..).zip(kinds.into_iter().zip(sizes)) {
        stream.extend(request(kind, cookie, size));
    }
    for piece in [1000, 4096 + 28, 7919, 100_000, stream.len()] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let bytes = stream.clone();
        let client = std::thread::spawn(move || bytes.chunks(piece).for_each(|piece| theirs.write_all(piece).unwrap()));
        let socket = Socket(ours.into());
        let (mut reader, mut buffer, mut other) = (Reader::new(), Buffer::empty(), Buffer::empty());
        for (cookie, size) in (0..).zip(sizes) {
            let arrival = reader.next(&socket, &mut buffer).unwrap().unwrap();
            assert_eq!((arrival.request.cookie, arrival.request.payload_bytes() as usize), (cookie, size));
            let payload = match cookie {
                6 | 12 => {
                    reader.drain(&socket, &arrival, &mut buffer).unwrap();
                    continue;
                }
                5 | 11 => {
                    other.reserve(arrival.request.payload_bytes() as usize, 0);
                    reader.payload_elsewhere(&socket, &arrival, &mut buffer, other.as_mut(), &|| true).unwrap();
                    &other.as_mut()[..size]
                }
                _ => {
                    reader.payload(&socket, &arrival, &mut buffer).unwrap();
                    &buffer.as_mut()[..size]
                }
            };
            assert!(
                payload.iter().enumerate().all(|(place, byte)| *byte == pattern(cookie, place)),
                "{piece} {cookie}"
            );
        }
        client.join().unwrap();
        assert!(!reader.has_more());
        assert!(reader.next(&socket, &mut buffer).unwrap().is_none(), "a clean end");
    }
}

#[test]
fn an_end_inside_a_request_is_an_error() {
    let whole = request(WRITE, 1, 4096);
    for cut in [1, 27, 28, 29, 4123] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(&whole[..cut]).unwrap();
        drop(theirs);
        let socket = Socket(ours.into());
        let (mut reader, mut buffer) = (Reader::new(), Buffer::empty());
        let ended = reader.next(&socket, &mut buffer).and_then(|arrival| {
            assert!(cut >= 28);
            reader.payload(&socket, &arrival.unwrap(), &mut buffer)
        });
        assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof, "{cut}");
    }
}

#[test]
fn what_is_no_request_is_an_error() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(&[b'x'; 100]).unwrap();
    let error = Reader::new().next(&Socket(ours.into()), &mut Buffer::empty()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
}
