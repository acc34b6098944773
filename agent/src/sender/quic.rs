//! Drives QUIC: connects, for ever, and gives each group its streams.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use journal::error::{Error, ErrorKind, Result};
use journal::wire::{FEATURE_ROLLBACK, Hello, Message, Offer, Pin, RebaseReason, ReceiverId, Refusal, RefusalCode};
use link::{Identity, Purpose, Room, is_not_trusted, message_stream, message_stream_in, refusal_of};
use quinn::Connection;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::flight::Flight;
use super::live::{Live, next, unexpected};
use super::reports::{self, News};
use super::state::{Attempts, is_final, needs_rebase};
use super::{Streams, compare, rollback};
use crate::run::{Group, Verdicts};

/// How long a receiver may take to let us in.
const PATIENCE: Duration = Duration::from_secs(10);
/// How seldom an agent that another has taken over from looks whether that is so still.
const FENCED: Duration = Duration::from_secs(30);
/// How long a source that cannot be read is left alone.
const SOURCE_PAUSE: Duration = Duration::from_secs(10);
/// Below this round trip the link is taken for a fast one until it was measured.
const NEAR: Duration = Duration::from_millis(1);

/// The receiver that this agent has joined.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// Its key.
    pub(crate) pin: Pin,
}

/// Keeps a session up until `stop` is true and every group has sent what it has. An error is a refusal that trying again
/// does not change, before any group was ever taken.
pub(crate) async fn run(
    identity: Identity,
    peer: Peer,
    groups: Vec<Arc<Group>>,
    mut stop: watch::Receiver<bool>,
) -> Result<()> {
    let mut attempts = Attempts::default();
    loop {
        let ended = session(&identity, &peer, &groups, &mut attempts).await;
        groups.iter().for_each(|group| group.disconnected());
        let Err(error) = ended else { return Ok(()) };
        let why = why_no_session(&peer, &error);
        groups.iter().for_each(|group| group.no_session(Some(&why)));
        if let Some(refusal) = refusal_of(&error).filter(|refusal| is_final(refusal.code)) {
            groups.iter().for_each(|group| group.refused(refusal.clone()));
            // What has run once goes on, and tries for ever: a receiver that was set back for a while must not end it.
            if !were_connected(&groups) {
                return Err(error);
            }
        }
        let (pause, is_new) = attempts.failed(&why);
        if is_new {
            tracing::warn!(receiver = peer.address, why, "no session");
        }
        let pause = if yields(&error, &groups) { FENCED } else { pause };
        tokio::select! {
            () = sleep(pause) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

/// For a person, who may be the only one that can do something about it.
fn why_no_session(peer: &Peer, error: &Error) -> String {
    let why = in_full(error);
    if is_not_trusted(error) {
        return format!(
            "{why}: nothing is sent there. If the receiver was set up anew, call `backspool invite` there and `backspool join` here; if \
             not, find out who answers at {}",
            peer.address
        );
    }
    format!("no session with the receiver: {why}")
}

/// An error and its causes, as far as they say more.
pub(super) fn in_full(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
}

/// Whether another agent of this identity has what this one was refused: each session of one ends the other's.
fn yields(error: &Error, groups: &[Arc<Group>]) -> bool {
    let is_superseded = refusal_of(error).is_some_and(|refusal| refusal.code == RefusalCode::Superseded);
    is_superseded && groups.iter().any(|group| group.link().borrow().refused.is_some())
}

/// Whether any group was ever taken by the receiver in this run of the agent.
fn were_connected(groups: &[Arc<Group>]) -> bool {
    groups.iter().any(|group| group.was_connected())
}

/// One session, from connecting to its end. `Ok`: the agent stops, and every group has sent all it has.
async fn session(identity: &Identity, peer: &Peer, groups: &[Arc<Group>], attempts: &mut Attempts) -> Result<()> {
    let (connection, control, features) = timeout(PATIENCE, enter(identity, peer))
        .await
        .map_err(|_| Error::unavailable(format!("{} does not answer", peer.address)))??;
    attempts.succeeded();
    groups.iter().for_each(|group| group.no_session(None));
    tracing::info!(receiver = peer.address, "session");
    let (news, told) = reports::news();
    let mut streams = JoinSet::new();
    let flight = Flight::default();
    for group in groups {
        let way = Way { connection: connection.clone(), flight: flight.clone(), features };
        streams.spawn(serve(way, Arc::clone(group), groups.to_vec(), news.clone()));
    }
    let ended = async {
        while let Some(ended) = streams.join_next().await {
            ended.map_err(|error| Error::unavailable("a stream failed").with_source(error))??;
        }
        Ok(())
    };
    let (mut writer, mut reader) = control;
    let ended = tokio::select! {
        ended = ended => ended,
        never = reports::run(&mut writer, groups, told) => never.map(|never| match never {}),
        said = next(&mut reader) => Err(said.map_or_else(|error| error, unexpected)),
        error = accept(&connection, groups, features) => Err(error),
    };
    // Why a connection ended says more than that a stream of it did.
    let ended = ended.map_err(|error| connection.close_reason().map_or(error, link::connection_error));
    connection.close(0u32.into(), b"");
    ended
}

/// Serves the streams that the receiver opens, until one of them shows that nobody knows how to talk to it.
async fn accept(connection: &Connection, groups: &[Arc<Group>], features: u64) -> Error {
    let (room, mut streams) = (Room::default(), JoinSet::new());
    loop {
        tokio::select! {
            accepted = connection.accept_bi() => match accepted {
                Ok(pair) if features & FEATURE_ROLLBACK != 0 => {
                    streams.spawn(rollback::serve(message_stream_in(pair, &room), groups.to_vec()));
                }
                Ok(_) => return Refusal::new(RefusalCode::Malformed, "a stream that was not agreed on").into(),
                Err(error) => return link::connection_error(error),
            },
            Some(ended) = streams.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return error,
                Err(error) => return Error::unavailable("a stream failed").with_source(error),
            },
        }
    }
}

/// Connects and says hello; the features that both know come with it.
async fn enter(identity: &Identity, peer: &Peer) -> Result<(Connection, Streams, u64)> {
    let remote = resolve(&peer.address).await?;
    let endpoint = link::client_endpoint(identity, remote)?;
    let connection = link::connect(&endpoint, remote, identity, peer.pin, Purpose::Session).await?;
    let (mut writer, mut reader) = open(&connection).await?;
    let hello = Hello { offer: Offer::OURS, software: concat!("backspool ", env!("CARGO_PKG_VERSION")).to_owned() };
    writer.send(&Message::Hello(hello.clone())).await?;
    let features = match next(&mut reader).await? {
        Message::Welcome(welcome) => {
            let agreed = welcome.check(&hello)?;
            if welcome.receiver != ReceiverId(peer.pin) {
                return Err(Error::invalid("the receiver gives another identity than its key's"));
            }
            agreed.features
        }
        other => return Err(unexpected(other)),
    };
    Ok((connection, (writer, reader), features))
}

/// The first address of `HOST:PORT`.
pub(crate) async fn resolve(address: &str) -> Result<SocketAddr> {
    let failed = |error| Error::unavailable(format!("cannot find {address}")).with_source(error);
    let mut found = tokio::net::lookup_host(address).await.map_err(failed)?;
    found.next().ok_or_else(|| Error::unavailable(format!("{address} has no address")))
}

/// The connection of a session.
struct Way {
    connection: Connection,
    flight: Flight,
    /// What was agreed on.
    features: u64,
}

async fn open(connection: &Connection) -> Result<Streams> {
    connection.open_bi().await.map(message_stream).map_err(link::connection_error)
}

/// One group in one session: opened again when it is refused, until the connection ends. `Ok`: it stops and has sent all.
async fn serve(way: Way, group: Arc<Group>, all: Vec<Arc<Group>>, news: News) -> Result<()> {
    let mut attempts = Attempts::default();
    loop {
        let ended = serve_once(&way, &group, &news, &mut attempts).await;
        group.disconnected();
        let Err(error) = ended else { return Ok(()) };
        if way.connection.close_reason().is_some() {
            return Err(error);
        }
        if let Some(refusal) = refusal_of(&error) {
            group.refused(refusal.clone());
            if is_final(refusal.code) {
                // A start that is refused fails. What was running goes on: its clients have no other way to their volume. And
                // damage over there is no affair of this host, nor of other groups.
                if refusal.code != RefusalCode::Damaged {
                    if !were_connected(&all) {
                        return Err(error);
                    }
                    return Err(link::connection_error(way.connection.closed().await));
                }
            }
            if needs_rebase(refusal.code) {
                rebase(&group).await?;
            }
        }
        if group.is_stopping() {
            return Ok(());
        }
        let why = in_full(&error);
        let (pause, is_new) = attempts.failed(&why);
        if is_new {
            tracing::warn!(group = group.name(), why, "the group's stream ended");
        }
        sleep(pause).await;
    }
}

/// The receiver cannot take the end of a base, for it lost the base: nothing that is sent again would change that.
async fn rebase(group: &Arc<Group>) -> Result<()> {
    let group = Arc::clone(group);
    let rebasing = tokio::task::spawn_blocking(move || {
        // If it has more by now, it is ahead, and that is seen when it is opened.
        let durable = group.link().borrow().durable;
        group.rebase(durable, RebaseReason::Behind, &Verdicts::new())
    });
    rebasing.await.map_err(|error| Error::unavailable("beginning anew failed").with_source(error))?
}

async fn serve_once(way: &Way, group: &Arc<Group>, news: &News, attempts: &mut Attempts) -> Result<()> {
    let (mut writer, mut reader) = open(&way.connection).await?;
    let (on_way, another) = (way.flight.stream(), async || open(&way.connection).await);
    let streams = (&mut writer, &mut reader);
    let live = Live::open(Arc::clone(group), news.clone(), on_way, way.features, streams, another).await?;
    attempts.succeeded();
    group.link_is_fast(way.connection.rtt() < NEAR);
    tokio::select! {
        ended = live.run(&mut writer, &mut reader) => ended,
        never = bases(way, group) => match never {},
    }
}

/// Sends whatever base the group needs. One that fails is tried again, from where the receiver has it.
async fn bases(way: &Way, group: &Arc<Group>) -> Infallible {
    let mut attempts = Attempts::default();
    loop {
        group.base_wanted().await;
        match base(way, group).await {
            Ok(()) => attempts.succeeded(),
            Err(error) => {
                let why = in_full(&error);
                let (pause, is_new) = attempts.failed(&why);
                if is_new {
                    tracing::warn!(group = group.name(), why, "the base's stream ended");
                }
                // A source that cannot be read is not read in full every other second.
                let pause = if error.kind() == ErrorKind::Io { SOURCE_PAUSE } else { pause };
                sleep(pause).await;
            }
        }
    }
}

async fn base(way: &Way, group: &Arc<Group>) -> Result<()> {
    let Some(base) = group.base()? else { return Ok(()) };
    let sealed = tokio::select! {
        sealed = base.send(group, way.flight.base(), || way.connection.rtt(), async || open(&way.connection).await) => sealed,
        failed = compare::answer(&base, group, way.features, async || open(&way.connection).await) => failed.map(|never| match never {}),
    };
    group.base_ended(&base, sealed)
}
