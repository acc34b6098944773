//! The client against a scripted peer on TCP that does not keep to the protocol.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use super::{Client, Error};

const GREETING: &[u8] = b"NBDMAGICIHAVEOPT\x00\x03";

/// A reply to `NBD_OPT_GO`.
fn option_reply(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut out = super::OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend(super::OPTION_GO.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
    out.extend(data);
    out
}

/// An export of 1 MiB with all flags that the client knows, after a piece of information that it does not.
fn handshake() -> Vec<u8> {
    let mut export = vec![0, 0];
    export.extend((1_u64 << 20).to_be_bytes());
    export.extend(0x016d_u16.to_be_bytes());
    let pieces = [
        option_reply(3, &[0, 3, 0, 0, 2, 0]),
        option_reply(super::REPLY_INFO, &export),
        option_reply(super::REPLY_ACK, &[]),
    ];
    [GREETING.to_vec(), pieces.concat()].concat()
}

fn reply(errno: u32, cookie: u64) -> Vec<u8> {
    let mut out = super::SIMPLE_REPLY_MAGIC.to_be_bytes().to_vec();
    out.extend(errno.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out
}

/// Connects to a peer that says `words` at once, reads whatever comes and then hangs up.
fn connect(words: Vec<u8>) -> Result<Client, Error> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&words).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Until the client has gone, so that no reset overtakes the words.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    Client::connect(&address, "name")
}

#[test]
fn a_handshake_is_understood_or_refused() {
    let client = connect(handshake()).unwrap();
    assert_eq!(client.size_bytes(), 1 << 20);
    assert!(client.can_flush() && client.can_fua() && client.can_trim() && client.can_write_zeroes());
    assert!(client.is_multi_conn());

    let refused = |words: Vec<u8>, part: &str| match connect(words) {
        Err(Error::Handshake(why)) => assert!(why.contains(part), "{why}"),
        other => panic!("{other:?}"),
    };
    refused(b"NBDMAGIColdstyle\x00\x03".to_vec(), "newstyle");
    refused(b"NBDMAGICIHAVEOPT\x00\x02".to_vec(), "fixed newstyle");
    refused([GREETING.to_vec(), option_reply(1 << 31 | 6, b"no such export")].concat(), "no such export");
    refused([GREETING.to_vec(), option_reply(super::REPLY_ACK, &[])].concat(), "did not describe");
    refused([GREETING.to_vec(), option_reply(3, &[7; 20000])].concat(), "20000 bytes");
    refused([GREETING, &[1; 20]].concat(), "not a reply");
    for cut in 0..handshake().len() {
        let error = connect(handshake()[..cut].to_vec()).unwrap_err();
        assert!(matches!(error, Error::Lost(_)), "cut at {cut}: {error:?}");
    }
}

#[test]
fn an_answer_is_whole_and_to_this_request_or_the_write_is_in_doubt() {
    let write = |answer: Vec<u8>| connect([handshake(), answer].concat()).unwrap().write(0, &[0; 512], false);
    assert!(write(reply(0, 1)).is_ok());
    assert!(matches!(write(reply(5, 1)), Err(Error::Refused(5))));
    assert!(matches!(write(reply(0, 2)), Err(Error::Lost(_))));
    assert!(matches!(write(vec![0; 16]), Err(Error::Lost(_))));
    for cut in 0..16 {
        assert!(matches!(write(reply(0, 1)[..cut].to_vec()), Err(Error::Lost(_))), "cut at {cut}");
    }
}
