//! Two endpoints on loopback: who gets in, who does not, and what either side is told.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use journal::error::{Error, ErrorKind};
use journal::limits::FRAME_BYTES;
use journal::wire::{
    Hello, JoinOutcome, JoinRequest, JoinSecret, Message, NoMark, Offer, Pin, Refusal, RefusalCode, Tag,
};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, Endpoint};

use super::*;
use crate::endpoint::STREAMS_TO_AGENT;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A receiver that waits for one peer, and an agent that connects to it.
struct Pair {
    receiver: Identity,
    server: Endpoint,
    agent: Identity,
    client: Endpoint,
}

impl Pair {
    fn new() -> Self {
        let (receiver, agent) = (Identity::generate().unwrap(), Identity::generate().unwrap());
        let server = server_endpoint(&receiver, LOOPBACK).unwrap();
        let client = client_endpoint(&agent, LOOPBACK).unwrap();
        Self { receiver, server, agent, client }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr().unwrap()
    }

    async fn accept(&self) -> Result<Peer, Error> {
        Peer::accept(self.server.accept().await.unwrap()).await
    }

    async fn dial(&self, pin: Pin, purpose: Purpose) -> Result<Connection, Error> {
        connect(&self.client, self.address(), &self.agent, pin, purpose).await
    }

    /// Both ends of a connection that both sides agree to.
    async fn connected(&self, purpose: Purpose) -> (Connection, Peer) {
        let (dialled, accepted) = tokio::join!(self.dial(self.receiver.pin(), purpose), self.accept());
        (dialled.unwrap(), accepted.unwrap())
    }

    /// Both ends of a stream, after `first` went from agent to receiver.
    async fn stream(
        &self,
        first: &Message,
    ) -> ((MessageWriter, MessageReader), (MessageWriter, MessageReader), Connection) {
        let (connection, peer) = self.connected(Purpose::Session).await;
        let mut ours = message_stream(connection.open_bi().await.unwrap());
        ours.0.send(first).await.unwrap();
        let mut theirs = message_stream(peer.connection.accept_bi().await.unwrap());
        assert_eq!(theirs.1.next().await.unwrap().as_ref(), Some(first));
        (ours, theirs, connection)
    }
}

fn hello() -> Message {
    Message::Hello(Hello { offer: Offer::OURS, software: "backspool/0".into() })
}

fn not_trusted(error: &Error) -> &NotTrusted {
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    std::error::Error::source(error).and_then(|source| source.downcast_ref()).unwrap_or_else(|| panic!("{error:?}"))
}

#[tokio::test]
async fn the_right_pin_connects_and_both_know_who_the_other_is() {
    let pair = Pair::new();
    for purpose in [Purpose::Session, Purpose::Join] {
        let (connection, peer) = pair.connected(purpose).await;
        assert_eq!((peer.pin, peer.purpose), (pair.agent.pin(), purpose));
        assert!(connection.max_datagram_size().is_none());
    }
}

#[tokio::test]
async fn a_wrong_pin_is_refused_by_name() {
    let pair = Pair::new();
    let (dialled, accepted) = tokio::join!(pair.dial(Pin([7; 32]), Purpose::Session), pair.accept());
    let error = dialled.unwrap_err();
    let text = not_trusted(&error).to_string();
    assert!(text.contains(&pair.receiver.pin().to_string()) && text.contains(&Pin([7; 32]).to_string()), "{text}");
    not_trusted(&accepted.unwrap_err());
}

/// What the receiver makes of a client whose TLS is changed by `change`, and what that client is told in the end.
async fn stranger(change: impl FnOnce(&mut rustls::ClientConfig), with_certificate: bool) -> (Error, Error) {
    let pair = Pair::new();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(tls::pinned(pair.receiver.pin()));
    let mut config = match with_certificate {
        true => config.with_client_auth_cert(vec![pair.agent.certificate()], pair.agent.private_key()).unwrap(),
        false => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![Purpose::Session.alpn().to_vec()];
    change(&mut config);
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let dial = async {
        // A client is through the handshake before the server has seen its certificate.
        match pair.client.connect_with(config, pair.address(), "backspool").unwrap().await {
            Ok(connection) => connection_error(connection.closed().await),
            Err(error) => connection_error(error),
        }
    };
    let (told, accepted) = tokio::join!(dial, pair.accept());
    (accepted.map(drop).unwrap_err(), told)
}

#[tokio::test]
async fn a_peer_without_a_certificate_is_refused() {
    let (accepted, told) = stranger(|_| {}, false).await;
    not_trusted(&accepted);
    not_trusted(&told);
}

#[tokio::test]
async fn another_protocol_is_refused() {
    let (accepted, told) = stranger(|config| config.alpn_protocols = vec![b"h3".to_vec()], true).await;
    assert_eq!((accepted.kind(), told.kind()), (ErrorKind::Unsupported, ErrorKind::Unsupported));
    let (accepted, _) = stranger(|config| config.alpn_protocols.clear(), true).await;
    assert_eq!(accepted.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn nothing_is_resumed_and_nothing_sent_early() {
    let pair = Pair::new();
    // A client that would resume if it could, twice with one configuration.
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(tls::pinned(pair.receiver.pin()))
        .with_client_auth_cert(vec![pair.agent.certificate()], pair.agent.private_key())
        .unwrap();
    tls.alpn_protocols = vec![Purpose::Session.alpn().to_vec()];
    tls.enable_early_data = true;
    let config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    for _ in 0..2 {
        let connecting = pair.client.connect_with(config.clone(), pair.address(), "backspool").unwrap();
        let connecting = connecting.into_0rtt().map(drop).expect_err("0-RTT is off");
        let (dialled, accepted) = tokio::join!(connecting, pair.accept());
        let (dialled, peer) = (dialled.unwrap(), accepted.unwrap());
        // Wait for all that the server says after the handshake, tickets among it.
        let mut ours = message_stream(dialled.open_bi().await.unwrap());
        ours.0.send(&hello()).await.unwrap();
        let mut theirs = message_stream(peer.connection.accept_bi().await.unwrap());
        theirs.1.next().await.unwrap();
        theirs.0.send(&Message::Bye).await.unwrap();
        ours.1.next().await.unwrap();
    }
}

#[tokio::test]
async fn messages_arrive_as_they_were_sent() {
    let pair = Pair::new();
    let (mut ours, mut theirs, _connection) = pair.stream(&hello()).await;
    let large = Bytes::from((0..FRAME_BYTES).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<_>>());
    let frames: Vec<Bytes> = [256, 4096, 128 * 1024, 128 * 1024 + 1, FRAME_BYTES].map(|len| large.slice(..len)).into();
    let sender = async {
        for frame in frames.iter().cycle().take(40) {
            ours.0.send(&Message::Frame(frame.clone())).await.unwrap();
            ours.0.send(&Message::MarkFailed { request: 1, reason: NoMark::Other, text: "no".into() }).await.unwrap();
        }
        ours.0.finish();
    };
    let receiver = async {
        for frame in frames.iter().cycle().take(40) {
            assert_eq!(theirs.1.next().await.unwrap(), Some(Message::Frame(frame.clone())));
            assert_eq!(theirs.1.next().await.unwrap().map(|message| message.tag()), Some(Tag::MarkFailed));
        }
        assert_eq!(theirs.1.next().await.unwrap(), None);
    };
    tokio::join!(sender, receiver);
}

#[tokio::test]
async fn a_frame_that_is_written_in_parts_arrives_whole_and_half_of_one_not_at_all() {
    let pair = Pair::new();
    let (mut ours, mut theirs, _connection) = pair.stream(&hello()).await;
    let frame = Bytes::from((0..FRAME_BYTES).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<_>>());
    let sender = async {
        for most in [20_000, 65_536, 1_000_000, usize::MAX].into_iter().cycle().take(40) {
            ours.0.begin_frame(frame.clone());
            while ours.0.left() > 0 {
                // Dropped while it waits: what was written is kept.
                let written = tokio::time::timeout(Duration::from_micros(200), ours.0.write_some(most));
                assert!(written.await.map_or(0, Result::unwrap) <= most);
            }
        }
        ours.0.send(&Message::Bye).await.unwrap();
    };
    let receiver = async {
        for _ in 0..40 {
            assert_eq!(theirs.1.next().await.unwrap(), Some(Message::Frame(frame.clone())));
        }
        assert_eq!(theirs.1.next().await.unwrap(), Some(Message::Bye));
    };
    tokio::join!(sender, receiver);
    ours.0.begin_frame(frame.clone());
    assert_eq!(ours.0.write_some(1000).await.unwrap(), 1000);
    drop(ours.0);
    let error = theirs.1.next().await.unwrap_err();
    assert_eq!(refusal_of(&error).map(|refusal| refusal.code), Some(RefusalCode::Internal), "{error}");
}

/// What is said on the control stream goes through, however much waits on others.
#[tokio::test]
async fn streams_that_nobody_reads_leave_room_for_another() {
    let pair = Pair::new();
    let (mut control, mut heard, connection) = pair.stream(&hello()).await;
    control.0.set_priority(1);
    let frame = Bytes::from(vec![7; 1 << 20]);
    // Nearly a whole window each; together more than four of them.
    let mut unread = Vec::new();
    for _ in 0..5 {
        let (mut writer, reader) = message_stream(connection.open_bi().await.unwrap());
        for _ in 0..15 {
            let sent = tokio::time::timeout(Duration::from_secs(20), writer.send_frame(frame.clone())).await;
            sent.expect("there is room").unwrap();
        }
        unread.push((writer, reader));
    }
    control.0.send(&Message::Bye).await.unwrap();
    let said = tokio::time::timeout(Duration::from_secs(20), heard.1.next()).await.expect("it goes through");
    assert_eq!(said.unwrap(), Some(Message::Bye));
    drop(unread);
}

#[tokio::test]
async fn a_read_that_is_dropped_loses_nothing() {
    let pair = Pair::new();
    let (connection, peer) = pair.connected(Purpose::Session).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let frame = Message::Frame(Bytes::from(vec![7; 300]));
    let mut reader = None;
    for byte in frame.encode() {
        send.write_all(&[byte]).await.unwrap();
        if reader.is_none() {
            reader = Some(message_stream(peer.connection.accept_bi().await.unwrap()).1);
        }
        // Polled once or a few times, then dropped: what has arrived by then is taken out of the stream.
        let _ = tokio::time::timeout(Duration::from_micros(200), reader.as_mut().unwrap().next()).await.map(|got| {
            assert_eq!(got.unwrap().as_ref(), Some(&frame));
            reader = None;
        });
    }
    if let Some(mut reader) = reader {
        assert_eq!(reader.next().await.unwrap(), Some(frame));
    }
}

#[tokio::test]
async fn what_the_readers_of_a_connection_hold_is_bounded_together() {
    let pair = Pair::new();
    let (connection, peer) = pair.connected(Purpose::Session).await;
    let room = Room::of(2 * 1024 * 1024);
    let frame = Message::Frame(Bytes::from(vec![7; FRAME_BYTES]));
    let mut sent = Vec::new();
    let mut readers = Vec::new();
    for _ in 0..2 {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        let bytes = frame.encode();
        send.write_all(&bytes[..100]).await.unwrap();
        sent.push((send, recv, bytes));
        readers.push(message_stream_in(peer.connection.accept_bi().await.unwrap(), &room).1);
    }
    // The first has room, and waits for the rest of its message; the second has none, though all of its message is there.
    let brief = Duration::from_millis(100);
    assert!(tokio::time::timeout(brief, readers[0].next()).await.is_err());
    let (send, _, bytes) = &mut sent[1];
    send.write_all(&bytes[100..]).await.unwrap();
    assert!(tokio::time::timeout(brief, readers[1].next()).await.is_err());
    // Small ones need none.
    let (mut small, _recv) = connection.open_bi().await.unwrap();
    small.write_all(&hello().encode()).await.unwrap();
    let mut other = message_stream_in(peer.connection.accept_bi().await.unwrap(), &room).1;
    assert_eq!(other.next().await.unwrap(), Some(hello()));
    let (send, _, bytes) = &mut sent[0];
    send.write_all(&bytes[100..]).await.unwrap();
    let first = readers[0].next().await.unwrap();
    assert_eq!(first, Some(frame.clone()));
    // Nor is there while the first is in use.
    assert!(tokio::time::timeout(brief, readers[1].next()).await.is_err());
    drop(first);
    assert_eq!(readers[1].next().await.unwrap(), Some(frame));
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_before_their_length_is_believed() {
    let header = |tag: u16, len: u32| [&tag.to_le_bytes()[..], &[0, 0], &len.to_le_bytes()].concat();
    let huge = header(Tag::Frame.number(), u32::MAX);
    let cut = header(Tag::Durable.number(), 64);
    for bytes in [huge, cut, header(0x40, 0), b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![1, 0, 0]] {
        let pair = Pair::new();
        let (connection, peer) = pair.connected(Purpose::Session).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        let (_, mut reader) = message_stream(peer.connection.accept_bi().await.unwrap());
        assert_eq!(reader.next().await.unwrap_err().kind(), ErrorKind::Corrupt, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_refusal_reaches_the_other_side_whole() {
    let pair = Pair::new();
    let (connection, peer) = pair.connected(Purpose::Session).await;
    let refusal = Refusal::new(RefusalCode::NotEnrolled, "run `backspool join` first");
    refuse(&peer.connection, &refusal);
    let error = connection_error(connection.closed().await);
    assert_eq!(refusal_of(&error), Some(&refusal));
    assert_eq!(error.kind(), ErrorKind::Invalid);

    // The same while reading and writing, and a stream that is stopped.
    let mut told = message_stream(match connection.open_bi().await {
        Ok(_) => panic!("the connection is closed"),
        Err(_) => pair.connected(Purpose::Session).await.0.open_bi().await.unwrap(),
    });
    told.0.send(&hello()).await.unwrap();
    let (mut ours, mut theirs, _connection) = pair.stream(&hello()).await;
    theirs.1.stop(RefusalCode::Damaged);
    let frame = Message::Frame(Bytes::from(vec![0; FRAME_BYTES]));
    let error = loop {
        if let Err(error) = ours.0.send(&frame).await {
            break error;
        }
    };
    assert_eq!(refusal_of(&error).map(|refusal| refusal.code), Some(RefusalCode::Damaged));
    assert_eq!(error.kind(), ErrorKind::Poisoned);
}

#[tokio::test]
async fn a_clean_close_is_no_refusal() {
    let pair = Pair::new();
    let (connection, peer) = pair.connected(Purpose::Session).await;
    peer.connection.close(0u32.into(), b"");
    let error = connection_error(connection.closed().await);
    assert_eq!((error.kind(), refusal_of(&error)), (ErrorKind::Unavailable, None));
}

#[tokio::test]
async fn a_receiver_opens_as_many_streams_as_there_may_be_groups() {
    let pair = Pair::new();
    let (_connection, peer) = pair.connected(Purpose::Session).await;
    let mut open = Vec::new();
    for _ in 0..STREAMS_TO_AGENT {
        open.push(peer.connection.open_bi().await.unwrap());
    }
    // What is allowed was settled in the handshake: if there were another one to open, it would be there at once.
    tokio::select! {
        biased;
        _ = peer.connection.open_bi() => panic!("the agent allows no more"),
        () = tokio::task::yield_now() => {}
    }
}

#[tokio::test]
async fn a_join_is_one_message_each_way() {
    let pair = Pair::new();
    let (connection, peer) = pair.connected(Purpose::Join).await;
    let request = JoinRequest { secret: JoinSecret([3; 16]) };
    let outcome = JoinOutcome::Joined("laptop".into());
    let answer = async {
        let attempt = JoinAttempt::read(peer).await.unwrap().unwrap();
        assert_eq!((attempt.pin, attempt.request), (pair.agent.pin(), request));
        attempt.reply(outcome.clone()).await.unwrap();
    };
    let (answered, ()) = tokio::join!(join(&connection, &request), answer);
    assert_eq!(answered.unwrap(), outcome);
}

#[tokio::test]
async fn a_join_that_is_none_is_refused() {
    // (what is sent, whether a version is answered)
    let mut newer = JoinRequest { secret: JoinSecret([3; 16]) }.encode();
    newer[8] = 2;
    let mut reserved = JoinRequest { secret: JoinSecret([3; 16]) }.encode();
    reserved[255] = 1;
    for (bytes, answered) in
        [(newer.to_vec(), true), (reserved.to_vec(), false), (vec![0; 256], false), (newer[..255].to_vec(), false)]
    {
        let pair = Pair::new();
        let (connection, peer) = pair.connected(Purpose::Join).await;
        let ask = async {
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(&bytes).await.unwrap();
            send.finish().unwrap();
            let reply = recv.read_to_end(1000).await;
            connection.close(0u32.into(), b"");
            reply
        };
        let (reply, read) = tokio::join!(ask, async {
            let read = JoinAttempt::read(peer).await;
            read.map(|attempt| attempt.is_some())
        });
        assert_eq!(reply.is_ok_and(|reply| reply.len() == 256), answered);
        assert_eq!(read.ok(), answered.then_some(false));
    }
}

#[test]
fn a_restarted_receiver_says_at_once_that_it_knows_nothing() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (agents, receivers) = (runtime(), runtime());
    let (receiver, agent) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let server = receivers.block_on(async { server_endpoint(&receiver, LOOPBACK).unwrap() });
    let address = server.local_addr().unwrap();
    let accepting = receivers.spawn(async move {
        let peer = Peer::accept(server.accept().await.unwrap()).await;
        (server, peer.unwrap())
    });
    let (_client, connection, alive) = agents.block_on(async {
        let client = client_endpoint(&agent, address).unwrap();
        let connection = connect(&client, address, &agent, receiver.pin(), Purpose::Session).await.unwrap();
        (client, connection, accepting.await.unwrap())
    });
    // It dies without a word: whatever would send a close is gone first.
    receivers.shutdown_timeout(Duration::from_secs(60));
    drop(alive);
    agents.block_on(async {
        let _reborn = server_endpoint(&receiver, address).unwrap();
        // Something is sent before it would be time for a keep-alive, unless a probe has brought the reset already.
        let _ = connection.open_bi().await.map(drop);
        let error = connection.closed().await;
        assert!(matches!(error, quinn::ConnectionError::Reset), "{error:?}");
    });
}

#[test]
fn an_identity_lasts_and_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("identity");
    let first = Identity::open(&dir).unwrap();
    assert_eq!(Identity::open(&dir).unwrap().pin(), first.pin());
    assert_ne!(Identity::generate().unwrap().pin(), first.pin());
    let key = dir.join("key.pem");
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(&key)), (0o700, 0o600));
    assert!(!format!("{first:?}").contains("PRIVATE"));

    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
    let error = Identity::open(&dir).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Invalid, Some(key.as_path())));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let good = std::fs::read(&key).unwrap();
    for bad in [&b""[..], b"-----BEGIN PRIVATE KEY-----", &good[..good.len() / 2], &[0xff; 100], &[b'a'; 5000]] {
        std::fs::write(&key, bad).unwrap();
        assert_eq!(Identity::open(&dir).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    // Nothing was made in its place.
    assert_eq!(std::fs::read(&key).unwrap(), [b'a'; 5000]);
}

#[test]
fn random_bytes_differ() {
    assert_ne!(random::<16>(), random::<16>());
}
