//! A scripted agent against the real thing: over loopback, message by message.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use journal::codec::{Body, Sealed};
use journal::frame::Frame;
use journal::types::{ChainHead, FrameNo, GroupId, Head, ResyncId, Seq, WallTime};
use journal::wire::{
    AgentState, BaseHead, Hello, JoinOutcome, JoinRequest, JoinSecret, Message, NoMark, Offer, ReceiverId, Refusal,
    RefusalCode,
};
use link::{Identity, MessageReader, MessageWriter, Purpose, message_stream, refusal_of};
use quinn::{Connection, Endpoint};
use tempfile::TempDir;

use super::Sessions;
use crate::catalog::{Catalog, Name, StoreDir, StoreId};
use crate::enrol;
use crate::group::Groups;
use crate::testing::{Frames, GROUP, base_frame, extent};
use crate::time::now;

mod views;

const SECRET: [u8; 16] = [5; 16];
const RESYNC: ResyncId = ResyncId([8; 16]);

struct Receiver {
    groups: Arc<Groups>,
    identity: Identity,
    endpoint: Endpoint,
    address: SocketAddr,
    _dir: TempDir,
}

impl Receiver {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(StoreDir::open(dir.path(), StoreId([1; 16])).unwrap()).unwrap();
        let groups = Arc::new(Groups::open(catalog, false).unwrap());
        let identity = Identity::generate().unwrap();
        let endpoint = link::server_endpoint(&identity, ([127, 0, 0, 1], 0).into()).unwrap();
        let sessions = Arc::new(Sessions::new(Arc::clone(&groups), ReceiverId(identity.pin())));
        let accepting = endpoint.clone();
        tokio::spawn(async move { sessions.accept(&accepting).await });
        let address = endpoint.local_addr().unwrap();
        Self { groups, identity, endpoint, address, _dir: dir }
    }

    fn enrol(&self, name: &str, secret: [u8; 16]) -> Identity {
        let identity = Identity::generate().unwrap();
        self.invite(name, secret);
        enrol::redeem(self.groups.catalog(), &secret, identity.pin().0, now()).unwrap();
        identity
    }

    fn invite(&self, name: &str, secret: [u8; 16]) {
        let name = Name::parse(name).unwrap();
        enrol::invite(self.groups.catalog(), &name, &secret, Duration::from_secs(60), now()).unwrap();
    }

    async fn connect(&self, identity: &Identity, purpose: Purpose) -> Connection {
        let endpoint = link::client_endpoint(identity, self.address).unwrap();
        link::connect(&endpoint, self.address, identity, self.identity.pin(), purpose).await.unwrap()
    }

    /// A session of an enrolled agent.
    async fn session(&self, identity: &Identity) -> Agent {
        self.session_with(identity, Offer::OURS).await
    }

    async fn session_with(&self, identity: &Identity, offer: Offer) -> Agent {
        let connection = self.connect(identity, Purpose::Session).await;
        let mut control = Stream::open(&connection).await;
        control.say(&hello(offer)).await;
        assert!(matches!(control.hear().await, Ok(Message::Welcome(_))));
        Agent { connection, control }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.endpoint.close(0u32.into(), b"");
    }
}

struct Agent {
    connection: Connection,
    control: Stream,
}

impl Agent {
    async fn open_group(&self, id: GroupId, name: &str) -> (Stream, Result<Message, Refusal>) {
        let mut stream = Stream::open(&self.connection).await;
        stream.say(&Message::OpenGroup { group: id, name: name.to_owned() }).await;
        let answer = stream.hear().await;
        (stream, answer)
    }

    async fn open(&self) -> (Stream, Option<Head>) {
        match self.open_group(GROUP, "db").await {
            (stream, Ok(Message::Opened(head))) => (stream, head),
            (_, other) => panic!("{other:?}"),
        }
    }

    /// Why the receiver ended the session.
    async fn refused(&self) -> RefusalCode {
        let closed = tokio::time::timeout(Duration::from_secs(20), self.connection.closed()).await;
        let error = link::connection_error(closed.expect("the session goes on"));
        refusal_of(&error).unwrap_or_else(|| panic!("{error:?}")).code
    }
}

struct Stream {
    writer: MessageWriter,
    reader: MessageReader,
}

impl Stream {
    async fn open(connection: &Connection) -> Self {
        let (writer, reader) = message_stream(connection.open_bi().await.unwrap());
        Self { writer, reader }
    }

    async fn say(&mut self, message: &Message) {
        self.writer.send(message).await.unwrap();
    }

    async fn frame(&mut self, frame: &Frame) {
        self.say(&Message::Frame(frame.bytes().clone())).await;
    }

    async fn hear(&mut self) -> Result<Message, Refusal> {
        let next = tokio::time::timeout(Duration::from_secs(20), self.reader.next()).await.expect("nothing is said");
        match next {
            Ok(Some(Message::Refused(refusal))) => Err(refusal),
            Ok(Some(message)) => Ok(message),
            Ok(None) => panic!("the stream ended"),
            Err(error) => Err(refusal_of(&error).unwrap_or_else(|| panic!("{error:?}")).clone()),
        }
    }

    async fn durable(&mut self, frame: &Frame) {
        loop {
            match self.hear().await {
                Ok(Message::Durable(head)) if Some(head.seq) == frame.last_seq() => {
                    return assert_eq!(head.chain, frame.head());
                }
                Ok(Message::Durable(head)) => assert!(Some(head.seq) < frame.last_seq()),
                other => panic!("{other:?}"),
            }
        }
    }
}

fn hello(offer: Offer) -> Message {
    Message::Hello(Hello { offer, software: "scripted".to_owned() })
}

fn code(answer: Result<Message, Refusal>) -> RefusalCode {
    answer.unwrap_err().code
}

/// A chain of frames: the first, and `more` with a write each.
fn frames(more: u64) -> Vec<Frame> {
    let mut frames = Frames::new();
    let mut chain = vec![frames.begin(&[1024])];
    for at in 0..more {
        frames.write(0, extent(at, 1), &[u8::try_from(at + 1).unwrap(); 512]);
        chain.push(frames.finish());
    }
    chain
}

/// The view at the end of the order, one sector.
fn sector(receiver: &Receiver, at: u64) -> Vec<u8> {
    let version = receiver.groups.by_name("db").unwrap().library().unwrap().now();
    let view = version.view(version.head().unwrap().seq).unwrap();
    let mut found = vec![0; 512];
    view.read(view.volumes()[0].number, 512 * at, &mut found).unwrap();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_turned_away_before_a_byte_is_read() {
    let receiver = Receiver::start();
    let stranger = Identity::generate().unwrap();
    let connection = receiver.connect(&stranger, Purpose::Session).await;
    let error = link::connection_error(connection.closed().await);
    assert_eq!(refusal_of(&error).map(|refusal| refusal.code), Some(RefusalCode::NotEnrolled));
    assert!(receiver.groups.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_lets_one_key_in_once() {
    let receiver = Receiver::start();
    receiver.invite("web", SECRET);
    let (first, second) = (Identity::generate().unwrap(), Identity::generate().unwrap());
    let ask = async |identity: &Identity, secret| {
        let connection = receiver.connect(identity, Purpose::Join).await;
        link::join(&connection, &JoinRequest { secret: JoinSecret(secret) }).await.unwrap()
    };
    assert_eq!(ask(&first, [6; 16]).await, JoinOutcome::Unknown);
    assert_eq!(ask(&first, SECRET).await, JoinOutcome::Joined("web".to_owned()));
    assert_eq!(ask(&first, SECRET).await, JoinOutcome::Joined("web".to_owned()), "the answer was lost");
    assert_eq!(ask(&second, SECRET).await, JoinOutcome::Used);
    receiver.session(&first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_with_hello_in_a_common_version() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let newer = Offer { version_min: 2, version_max: 9, required: 0, optional: 0 };
    let wants = Offer { required: 1 << 40, ..Offer::OURS };
    for (first, expect) in [
        (Message::Bye, RefusalCode::Malformed),
        (hello(newer), RefusalCode::Version),
        (hello(wants), RefusalCode::Feature),
    ] {
        let connection = receiver.connect(&identity, Purpose::Session).await;
        let mut control = Stream::open(&connection).await;
        control.say(&first).await;
        assert_eq!(code(control.hear().await), expect);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_become_durable_and_duplicates_change_nothing() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let chain = frames(3);
    let agent = receiver.session(&identity).await;
    let (mut stream, head) = agent.open().await;
    assert_eq!(head, None);
    for frame in [&chain[0], &chain[1], &chain[0], &chain[1], &chain[2]] {
        stream.frame(frame).await;
    }
    stream.durable(&chain[2]).await;
    assert_eq!(sector(&receiver, 0), [1; 512]);
    // A connection later it goes on from there.
    drop(agent);
    let agent = receiver.session(&identity).await;
    let (mut stream, head) = agent.open().await;
    assert_eq!(head.map(|head| (head.seq, head.chain)), Some((chain[2].last_seq().unwrap(), chain[2].head())));
    stream.frame(&chain[3]).await;
    stream.durable(&chain[3]).await;
    assert_eq!(sector(&receiver, 2), [3; 512]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_refused_and_the_session_lives() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let chain = frames(3);
    let agent = receiver.session(&identity).await;
    let (mut stream, _) = agent.open().await;
    stream.frame(&chain[0]).await;
    stream.durable(&chain[0]).await;
    stream.frame(&chain[2]).await;
    assert_eq!(code(stream.hear().await), RefusalCode::ChainBroken);
    let (mut stream, head) = agent.open().await;
    assert_eq!(head.map(|head| head.chain), Some(chain[0].head()));
    stream.frame(&chain[1]).await;
    stream.durable(&chain[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_parse_ends_the_session_and_changes_nothing() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let chain = frames(1);
    let whole = chain[1].bytes();
    let flipped = |at: usize| {
        let mut bytes = whole.to_vec();
        bytes[at] ^= 1;
        Message::Frame(Bytes::from(bytes))
    };
    let opening = Message::OpenBase { group: GROUP, resync: RESYNC };
    let cases = [flipped(0), flipped(100), flipped(300), flipped(whole.len() - 1), Message::CompareReady, opening];
    for case in cases {
        let agent = receiver.session(&identity).await;
        let (mut stream, head) = agent.open().await;
        if head.is_none() {
            stream.frame(&chain[0]).await;
            stream.durable(&chain[0]).await;
        }
        stream.say(&case).await;
        assert_eq!(agent.refused().await, RefusalCode::Malformed, "{:?}", case.tag());
        let version = receiver.groups.by_name("db").unwrap().library().unwrap().now();
        assert_eq!(version.head().map(|head| head.chain), Some(chain[0].head()));
    }
}

/// Below the messages: headers that lie, and peers that vanish inside a message.
#[tokio::test(flavor = "multi_thread")]
async fn lengths_are_checked_before_memory_is_taken() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let frame = 0x0012_u16.to_le_bytes();
    let huge = [&frame[..], &[0, 0], &u32::MAX.to_le_bytes()].concat();
    let unknown = [&[0xff, 0xff, 0, 0][..], &8u32.to_le_bytes(), &[0; 8]].concat();
    let half = [&frame[..], &[0, 0], &1000u32.to_le_bytes(), &[0; 10]].concat();
    for bytes in [huge, unknown, half] {
        let agent = receiver.session(&identity).await;
        let (mut send, mut recv) = agent.connection.open_bi().await.unwrap();
        let opening = Message::OpenGroup { group: GROUP, name: "db".to_owned() };
        send.write_all(&opening.encode()).await.unwrap();
        recv.read_exact(&mut [0; 72]).await.unwrap();
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        assert_eq!(agent.refused().await, RefusalCode::Malformed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_supersedes_the_older_at_once() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let chain = frames(1);
    let older = receiver.session(&identity).await;
    let (mut stream, _) = older.open().await;
    stream.frame(&chain[0]).await;
    stream.durable(&chain[0]).await;
    let newer = receiver.session(&identity).await;
    assert_eq!(older.refused().await, RefusalCode::Superseded);
    let (mut stream, _) = newer.open().await;
    stream.frame(&chain[1]).await;
    stream.durable(&chain[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn enrolling_an_agent_anew_ends_what_its_old_key_has_open() {
    let receiver = Receiver::start();
    let (old, other) = (receiver.enrol("web", SECRET), receiver.enrol("mail", [6; 16]));
    let chain = frames(1);
    let (session, beside) = (receiver.session(&old).await, receiver.session(&other).await);
    let (mut stream, _) = session.open().await;
    stream.frame(&chain[0]).await;
    stream.durable(&chain[0]).await;
    let new = receiver.enrol("web", [7; 16]);
    assert_eq!(session.refused().await, RefusalCode::NotEnrolled, "without a word of its own");
    let turned_away = link::connection_error(receiver.connect(&old, Purpose::Session).await.closed().await);
    assert_eq!(refusal_of(&turned_away).map(|refusal| refusal.code), Some(RefusalCode::NotEnrolled));
    // Whoever has the new key goes on, and nobody else has noticed.
    let session = receiver.session(&new).await;
    let (mut stream, head) = session.open().await;
    assert_eq!(head.map(|head| head.chain), Some(chain[0].head()));
    stream.frame(&chain[1]).await;
    stream.durable(&chain[1]).await;
    assert!(matches!(beside.open_group(GroupId([3; 16]), "own").await.1, Ok(Message::Opened(None))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_belongs_to_its_agent() {
    let receiver = Receiver::start();
    let (owner, other) = (receiver.enrol("web", SECRET), receiver.enrol("mail", [6; 16]));
    let first = receiver.session(&owner).await;
    first.open().await;
    let second = receiver.session(&other).await;
    assert_eq!(code(second.open_group(GROUP, "db").await.1), RefusalCode::Fenced);
    assert_eq!(code(second.open_group(GroupId([3; 16]), "db").await.1), RefusalCode::Fenced);
    // What it did not open it can neither read nor write.
    let mut base = Stream::open(&second.connection).await;
    base.say(&Message::OpenBase { group: GROUP, resync: RESYNC }).await;
    assert_eq!(code(base.hear().await), RefusalCode::UnknownGroup);
    let mut compare = Stream::open(&second.connection).await;
    compare.say(&Message::OpenCompare { group: GROUP, at: Seq::FIRST }).await;
    assert_eq!(code(compare.hear().await), RefusalCode::UnknownGroup);
    // A refusal of one group is none of the others.
    assert!(matches!(second.open_group(GroupId([3; 16]), "own").await.1, Ok(Message::Opened(None))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_counts_once_it_is_durable_and_sealed() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let agent = receiver.session(&identity).await;
    let (mut live, _) = agent.open().await;
    let mut frames = Frames::new();
    let first = frames.begin(&[1024]);
    live.frame(&first).await;
    live.durable(&first).await;
    let base = base_frame(RESYNC, first.last_seq(), 0, extent(9, 1), &[9; 512]);
    let head = BaseHead { frame: base.header().number, chain: base.head() };
    let mut stream = Stream::open(&agent.connection).await;
    stream.say(&Message::OpenBase { group: GROUP, resync: RESYNC }).await;
    assert_eq!(stream.hear().await, Ok(Message::BaseOpened(None)));
    stream.frame(&base).await;
    assert_eq!(stream.hear().await, Ok(Message::BaseDurable(head)));
    assert_eq!(sector(&receiver, 9), [0; 512], "not sealed yet");
    // Another session finds it where it was.
    let mut again = Stream::open(&agent.connection).await;
    again.say(&Message::OpenBase { group: GROUP, resync: RESYNC }).await;
    assert_eq!(again.hear().await, Ok(Message::BaseOpened(Some(head))));
    frames.push(Body::Sealed(Sealed { resync: RESYNC, head: base.head(), frames: 1 }));
    let sealed = frames.finish();
    live.frame(&sealed).await;
    live.durable(&sealed).await;
    assert_eq!(sector(&receiver, 9), [9; 512]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_not_here_is_not_sealed() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let agent = receiver.session(&identity).await;
    let (mut live, _) = agent.open().await;
    let mut frames = Frames::new();
    live.frame(&frames.begin(&[1024])).await;
    frames.push(Body::Sealed(Sealed { resync: RESYNC, head: ChainHead::START, frames: 1 }));
    live.frame(&frames.finish()).await;
    loop {
        match live.hear().await {
            // The first frame, if it was not in one batch with the second.
            Ok(Message::Durable(head)) => assert_eq!(head.frame, FrameNo::FIRST),
            answer => return assert_eq!(code(answer), RefusalCode::BaseLost),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_was_read_after_it_was_sealed_is_refused() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let agent = receiver.session(&identity).await;
    let (mut live, _) = agent.open().await;
    let mut frames = Frames::new();
    let first = frames.begin(&[1024]);
    live.frame(&first).await;
    live.durable(&first).await;
    // The place of the record that seals it: what is read before that is out is read after the one before it at the latest.
    let base = base_frame(RESYNC, Some(frames.seq()), 0, extent(9, 1), &[9; 512]);
    let mut stream = Stream::open(&agent.connection).await;
    stream.say(&Message::OpenBase { group: GROUP, resync: RESYNC }).await;
    assert_eq!(stream.hear().await, Ok(Message::BaseOpened(None)));
    stream.frame(&base).await;
    assert!(matches!(stream.hear().await, Ok(Message::BaseDurable(_))));
    frames.push(Body::Sealed(Sealed { resync: RESYNC, head: base.head(), frames: 1 }));
    live.frame(&frames.finish()).await;
    assert_eq!(agent.refused().await, RefusalCode::Malformed);
    let version = receiver.groups.by_name("db").unwrap().library().unwrap().now();
    assert_eq!(version.head().map(|head| head.chain), Some(first.head()), "nothing of it is in the order");
}

fn report(group: GroupId, captured: u64) -> Message {
    let report = crate::testing::report(now(), AgentState::Running, captured, None);
    Message::Report { group, report }
}

/// What the agent of the group is known to have captured, once it has spoken.
async fn told(receiver: &Receiver) -> Option<Seq> {
    let group = receiver.groups.by_name("db").unwrap();
    loop {
        if let Some(told) = group.snapshot().told {
            return told.report.captured;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_come_on_the_control_stream_of_the_session_that_holds_the_group() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let mut agent = receiver.session(&identity).await;
    let (_stream, _) = agent.open().await;
    agent.control.say(&report(GROUP, 7)).await;
    assert_eq!(told(&receiver).await, Seq::new(7), "before a frame has come");
    // Another session takes over the group: what this one says of it is not believed any more.
    let group = receiver.groups.by_name("db").unwrap();
    let newer = group.attach(receiver.groups.next_session()).await.unwrap();
    agent.control.say(&report(GROUP, 8)).await;
    agent.control.say(&Message::Bye).await;
    assert_eq!(agent.refused().await, RefusalCode::Malformed);
    assert!(group.snapshot().told.is_none());
    drop(newer);
    // Of what it has not opened it has nothing to say, and nothing elsewhere.
    agent = receiver.session(&identity).await;
    agent.control.say(&report(GROUP, 9)).await;
    assert_eq!(agent.refused().await, RefusalCode::Malformed);
    agent = receiver.session(&identity).await;
    let (mut stream, _) = agent.open().await;
    stream.say(&report(GROUP, 9)).await;
    assert_eq!(agent.refused().await, RefusalCode::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn why_there_is_no_mark_is_said_as_the_agent_said_it() {
    let receiver = Receiver::start();
    let identity = receiver.enrol("web", SECRET);
    let agent = receiver.session(&identity).await;
    let (mut stream, _) = agent.open().await;
    let group = receiver.groups.by_name("db").unwrap();
    for (reason, exit) in [(NoMark::NoPoints, 13), (NoMark::Stops, 16), (NoMark::Other, 1)] {
        let asking = group.clone();
        let asked = tokio::spawn(async move { asking.mark("then", Some(WallTime(5))).await });
        let Ok(Message::MarkRequest { request, name, .. }) = stream.hear().await else { panic!("nobody asked") };
        assert_eq!(name, "then");
        stream.say(&Message::MarkFailed { request, reason, text: "because".to_owned() }).await;
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!((error.code().exit(), error.to_string().as_str()), (exit, "because"));
    }
}
