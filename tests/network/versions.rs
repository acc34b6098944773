//! Peers of other versions, made by hand: refused before anything is written, with a word on which side to update.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use journal::types::{SessionId, WallTime};
use journal::wire::{
    Agreed, Hello, JOIN_BYTES, JoinOutcome, JoinReply, JoinRequest, JoinSecret, Message, Offer, ReceiverId, Refusal,
    RefusalCode, VERSION, Welcome,
};
use link::{Identity, Invitation, JoinAttempt, Peer, Purpose, message_stream, refusal_of};
use tokio::runtime::Runtime;

use crate::common::cluster::{Cluster, random};
use crate::common::wait_for;

const SIZE: usize = 1 << 20;
const NEXT: u16 = VERSION + 1;
const NEWER: Offer = Offer { version_min: NEXT, version_max: NEXT + 1, ..Offer::OURS };
/// A feature that nobody knows yet.
const FEATURE: u64 = 1 << 63;

/// An agent made by hand.
struct Agent<'a> {
    identity: Identity,
    invitation: Invitation,
    runtime: &'a Runtime,
}

impl Agent<'_> {
    fn remote(&self) -> SocketAddr {
        self.invitation.address.parse().unwrap()
    }

    /// The first bytes of a connection to enrol, and the answer.
    fn join(&self, request: [u8; JOIN_BYTES]) -> JoinOutcome {
        self.runtime.block_on(async {
            let endpoint = link::client_endpoint(&self.identity, self.remote()).unwrap();
            let pin = self.invitation.receiver.0;
            let connection = link::connect(&endpoint, self.remote(), &self.identity, pin, Purpose::Join).await.unwrap();
            let (mut send, mut recv) = connection.open_bi().await.unwrap();
            send.write_all(&request).await.unwrap();
            send.finish().unwrap();
            let mut reply = [0; JOIN_BYTES];
            recv.read_exact(&mut reply).await.unwrap();
            JoinReply::decode(&reply).unwrap().0
        })
    }

    /// What is answered to a hello; then a group is opened in spite of it.
    fn hello(&self, offer: Offer) -> Result<Message, Refusal> {
        self.runtime.block_on(async {
            let endpoint = link::client_endpoint(&self.identity, self.remote()).unwrap();
            let pin = self.invitation.receiver.0;
            let connection =
                link::connect(&endpoint, self.remote(), &self.identity, pin, Purpose::Session).await.unwrap();
            let (mut writer, mut reader) = message_stream(connection.open_bi().await.unwrap());
            writer.send(&Message::Hello(Hello { offer, software: "by hand".to_owned() })).await.unwrap();
            let answer = match reader.next().await {
                Ok(Some(Message::Refused(refusal))) => Err(refusal),
                Ok(message) => Ok(message.unwrap()),
                Err(error) => Err(refusal_of(&error).unwrap_or_else(|| panic!("{error:?}")).clone()),
            };
            if answer.is_err()
                && let Ok(pair) = connection.open_bi().await
            {
                let open = Message::OpenGroup { group: journal::types::GroupId([7; 16]), name: "db".to_owned() };
                // Whoever is refused may find the connection closed already.
                let _ = message_stream(pair).0.send(&open).await;
                let error = link::connection_error(connection.closed().await);
                assert!(refusal_of(&error).is_some(), "{error:?}");
            }
            answer
        })
    }
}

#[test]
fn an_agent_of_another_version_is_refused_and_told_who_is_older() {
    let mut cluster = Cluster::new();
    cluster.start_receiver();
    let invitation: Invitation = cluster.invitation("host", &[]).parse().unwrap();
    let runtime = Runtime::new().unwrap();
    let agent = Agent { identity: Identity::generate().unwrap(), invitation, runtime: &runtime };

    let request = JoinRequest { secret: agent.invitation.secret }.encode();
    let mut newer = request;
    newer[8..10].copy_from_slice(&NEXT.to_le_bytes());
    assert_eq!(agent.join(newer), JoinOutcome::Version);
    assert_eq!(agent.join(request), JoinOutcome::Joined("host".to_owned()), "the invitation is still good");

    let before = files(&cluster.store);
    let refused = |offer: Offer, code: RefusalCode, says: &str| {
        let refusal = agent.hello(offer).unwrap_err();
        assert!(refusal.code == code && refusal.text.contains(says), "{offer:?}: {refusal}");
    };
    refused(NEWER, RefusalCode::Version, "update the receiver");
    refused(Offer { required: FEATURE, ..Offer::OURS }, RefusalCode::Feature, "update the receiver");
    // What is wanted, but not required, is left out; a range that reaches to ours is enough.
    let offer = Offer { version_max: NEXT + 7, optional: FEATURE, ..Offer::OURS };
    let Ok(Message::Welcome(welcome)) = agent.hello(offer) else { panic!("not let in") };
    assert_eq!(welcome.agreed, Agreed { version: VERSION, features: 0 });
    // No range at all.
    refused(Offer { version_min: 0, version_max: 0, ..Offer::OURS }, RefusalCode::Malformed, "range of versions");
    assert_eq!(files(&cluster.store), before, "something was written");
    assert_eq!(cluster.ask(&["status"]).document()["groups"], serde_json::json!([]));
    cluster.stop_receiver();
}

/// A receiver made by hand.
struct Scripted {
    invitation: Invitation,
    hellos: Arc<AtomicU32>,
    /// What was opened after the hello.
    streams: Arc<AtomicU32>,
    // Dropped, it is gone.
    _runtime: Runtime,
}

impl Scripted {
    /// Says this to whoever wants to join, and that to a hello.
    fn start(
        identity: Identity,
        listen: SocketAddr,
        joins: JoinOutcome,
        answer: impl Fn(&Hello) -> Message + Send + Sync + 'static,
    ) -> Self {
        let runtime = Runtime::new().unwrap();
        let endpoint = runtime.block_on(async { link::server_endpoint(&identity, listen).unwrap() });
        let address = endpoint.local_addr().unwrap().to_string();
        let expires = WallTime(oracle::Micros::now().0 + 3_600_000_000);
        let receiver = ReceiverId(identity.pin());
        let invitation = Invitation::new(&address, receiver, JoinSecret([3; 16]), expires).unwrap();
        let (hellos, streams) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let (said, opened) = (Arc::clone(&hellos), Arc::clone(&streams));
        runtime.spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let Ok(peer) = Peer::accept(incoming).await else { continue };
                if peer.purpose == Purpose::Join {
                    let attempt = JoinAttempt::read(peer).await.unwrap().unwrap();
                    attempt.reply(joins.clone()).await.unwrap();
                    continue;
                }
                let Ok(pair) = peer.connection.accept_bi().await else { continue };
                let (mut writer, mut reader) = message_stream(pair);
                let Ok(Some(Message::Hello(hello))) = reader.next().await else { panic!("no hello") };
                said.fetch_add(1, Ordering::Relaxed);
                writer.send(&answer(&hello)).await.unwrap();
                while peer.connection.accept_bi().await.is_ok() {
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { invitation, hellos, streams, _runtime: runtime }
    }
}

fn anywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// What a receiver that offers this answers.
fn as_if(offer: Offer) -> impl Fn(&Hello) -> Message {
    move |hello| match hello.answer(&offer) {
        Ok(agreed) => Message::Welcome(Welcome { agreed, session: SessionId(1), receiver: ReceiverId(pin()) }),
        Err(refusal) => Message::Refused(refusal),
    }
}

fn pin() -> journal::wire::Pin {
    journal::wire::Pin([0; 32])
}

#[test]
fn a_receiver_of_another_version_gets_nothing_and_the_user_is_told_who_is_older() {
    let chosen = |version, features| {
        move |_: &Hello| {
            let agreed = Agreed { version, features };
            Message::Welcome(Welcome { agreed, session: SessionId(1), receiver: ReceiverId(pin()) })
        }
    };
    let joined = || JoinOutcome::Joined("host".to_owned());
    let start = |answer: Box<dyn Fn(&Hello) -> Message + Send + Sync>| {
        Scripted::start(Identity::generate().unwrap(), anywhere(), joined(), answer)
    };
    for (receiver, says) in [
        (start(Box::new(as_if(NEWER))), "update the agent"),
        (start(Box::new(as_if(Offer { required: FEATURE, ..Offer::OURS }))), "update the agent"),
        (start(Box::new(chosen(NEXT, 0))), "was not offered"),
        (start(Box::new(chosen(VERSION, FEATURE))), "were not asked for"),
    ] {
        let cluster = Cluster::new();
        fs::write(&cluster.source, random(1, SIZE)).unwrap();
        cluster.join_with(&receiver.invitation.to_string(), &cluster.state).document();
        let (exit, message) = cluster.agent_fails().failure();
        assert!(exit != 0 && message.contains(says), "{exit}: {message}");
        assert_eq!(receiver.hellos.load(Ordering::Relaxed), 1);
        assert_eq!(receiver.streams.load(Ordering::Relaxed), 0, "something was opened");
    }
    let receiver = Scripted::start(Identity::generate().unwrap(), anywhere(), JoinOutcome::Version, as_if(NEWER));
    let cluster = Cluster::new();
    let call = cluster.join_with(&receiver.invitation.to_string(), &cluster.state);
    let (exit, message) = call.failure();
    assert!(exit != 0 && message.contains("update this agent"), "{exit}: {message}");
    assert!(!cluster.state.join("receiver.json").exists(), "nothing is remembered of it");
}

#[test]
fn a_receiver_that_is_replaced_by_a_newer_one_is_waited_for() {
    let mut cluster = Cluster::live(&random(2, SIZE));
    cluster.stop_receiver();
    let identity = Identity::open(&cluster.store.join("identity")).unwrap();
    let listen = cluster.listens().parse().unwrap();
    let newer = Scripted::start(identity, listen, JoinOutcome::Internal, as_if(NEWER));
    let told = || {
        let status = cluster.agent_status();
        status["why"].as_str().is_some_and(|why| why.contains("update the agent")).then_some(())
    };
    wait_for("told", told, || format!("{}\n{}", cluster.agent_status(), cluster.words()));
    // The host goes on, and so does the agent: somebody may put the old one back.
    cluster.write(4096, &random(3, 8192));
    let asked = newer.hellos.load(Ordering::Relaxed);
    wait_for("asked again", || (newer.hellos.load(Ordering::Relaxed) > asked + 1).then_some(()), || cluster.words());
    assert_eq!(newer.streams.load(Ordering::Relaxed), 0, "something was opened");
    drop(newer);
    cluster.start_receiver();
    cluster.settle();
    cluster.assert_same();
    assert_eq!(cluster.gaps().len(), 1);
}

/// All that a store holds, but for its sockets.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_none_or(|extension| extension != "sock") {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}
