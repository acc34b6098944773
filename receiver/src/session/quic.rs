//! Drives QUIC: who may come in, and which stream is what.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use journal::types::SessionId;
use journal::wire::{Agreed, JoinOutcome, Message, Offer, Pin, ReceiverId, Refusal, RefusalCode, Welcome};
use link::{JoinAttempt, MessageReader, MessageWriter, Peer, Purpose, Room, message_stream, message_stream_in, refuse};
use quinn::{Connection, Endpoint};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::state::Opening;
use super::{End, Session, base, changed, compare, group};
use crate::enrol;
use crate::group::{Groups, Streams};
use crate::time;

/// How long a peer may take for its first message, of the connection and of each stream.
const PATIENCE: Duration = Duration::from_secs(5);
/// Connections at once, with those that have not said who they are.
const CONNECTIONS: usize = 1024;

/// Opens streams to an agent.
#[derive(Debug)]
pub(super) struct Opener(Connection);

impl Opener {
    /// A new one.
    pub(super) async fn open(&self) -> Result<Streams, End> {
        self.0.open_bi().await.map(message_stream).map_err(|_| End::Gone)
    }
}

/// All sessions of a receiver.
#[derive(Debug)]
pub struct Sessions {
    groups: Arc<Groups>,
    id: ReceiverId,
    /// The newest session of each key.
    newest: Mutex<HashMap<Pin, (SessionId, Connection)>>,
}

impl Sessions {
    /// None yet.
    pub fn new(groups: Arc<Groups>, id: ReceiverId) -> Self {
        Self { groups, id, newest: Mutex::default() }
    }

    /// Takes connections until the endpoint is closed, then ends all sessions.
    pub async fn accept(self: Arc<Self>, endpoint: &Endpoint) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let mut connections = JoinSet::new();
        while let Some(incoming) = endpoint.accept().await {
            while connections.try_join_next().is_some() {}
            let Ok(place) = Arc::clone(&room).try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let sessions = Arc::clone(&self);
            connections.spawn(async move {
                let _place = place;
                match Peer::accept(incoming).await {
                    Ok(peer) if peer.purpose == Purpose::Join => sessions.join(peer).await,
                    Ok(peer) => sessions.session(peer).await,
                    Err(error) => debug!(%error, "nobody came in"),
                }
            });
        }
        connections.shutdown().await;
    }

    async fn join(&self, peer: Peer) {
        let attempt = match JoinAttempt::read(peer).await {
            Ok(Some(attempt)) => attempt,
            Ok(None) => return,
            Err(error) => return debug!(%error, "no request to join"),
        };
        let (groups, pin, secret) = (Arc::clone(&self.groups), attempt.pin, attempt.request.secret);
        let redeem = move || enrol::redeem(groups.catalog(), &secret.0, pin.0, time::now());
        let outcome = match tokio::task::spawn_blocking(redeem).await {
            Ok(Ok(outcome)) => {
                info!(key = %pin, ?outcome, "asked to join");
                outcome
            }
            Ok(Err(error)) => {
                warn!(key = %pin, %error, "not joined");
                JoinOutcome::Internal
            }
            Err(_) => JoinOutcome::Internal,
        };
        if let Err(error) = attempt.reply(outcome).await {
            debug!(%error, "the answer to a request to join was not delivered");
        }
    }

    async fn session(self: Arc<Self>, peer: Peer) {
        let Peer { connection, pin, .. } = peer;
        let Some(agent) = self.groups.catalog().agent(pin.0) else {
            return refuse(&connection, &Refusal::new(RefusalCode::NotEnrolled, ""));
        };
        let id = self.groups.next_session();
        // The control stream: it stays open as long as the session.
        let accepted = timeout(PATIENCE, connection.accept_bi()).await;
        let Ok(Ok(pair)) = accepted else { return refuse(&connection, &too_late()) };
        let (mut writer, mut control) = message_stream(pair);
        let features = match self.welcome(&mut writer, &mut control, id).await {
            Ok(agreed) => agreed.features,
            Err(End::Refused(refusal)) => return refuse(&connection, &refusal),
            Err(End::Gone) => return,
        };
        self.supersede(pin, id, &connection);
        info!(%agent, session = id.0, remote = %connection.remote_address(), "session");
        let groups = Arc::clone(&self.groups);
        let session = Session { id, agent: agent.clone(), pin, groups, features, open: Mutex::default() };
        let why = streams(Arc::new(session), &connection, &mut control).await;
        self.forget(pin, id);
        info!(%agent, session = id.0, %why, "session ended");
    }

    /// Hello and Welcome: what both speak.
    async fn welcome(
        &self,
        writer: &mut MessageWriter,
        reader: &mut MessageReader,
        id: SessionId,
    ) -> Result<Agreed, End> {
        let Message::Hello(hello) = first(reader).await? else {
            return Err(Refusal::new(RefusalCode::Malformed, "no hello").into());
        };
        let agreed = hello.answer(&Offer::OURS)?;
        writer.send(&Message::Welcome(Welcome { agreed, session: id, receiver: self.id })).await?;
        Ok(agreed)
    }

    /// Makes this the session of its key, and ends the one before.
    fn supersede(&self, pin: Pin, id: SessionId, connection: &Connection) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let superseded = match newest.get(&pin) {
            // Two came at once, and the other overtook.
            Some((other, _)) if *other > id => Some(connection.clone()),
            _ => newest.insert(pin, (id, connection.clone())).map(|(_, older)| older),
        };
        drop(newest);
        if let Some(older) = superseded {
            refuse(&older, &Refusal::new(RefusalCode::Superseded, ""));
        }
    }

    fn forget(&self, pin: Pin, id: SessionId) {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if newest.get(&pin).is_some_and(|(known, _)| *known == id) {
            newest.remove(&pin);
        }
    }
}

/// Serves the streams of a session until the connection ends; says why it did.
async fn streams(session: Arc<Session>, connection: &Connection, control: &mut MessageReader) -> String {
    let mut streams = JoinSet::new();
    let room = Room::default();
    // Each change from here on is seen; what changed before is looked at first.
    let mut changes = session.groups.catalog().changes();
    changes.mark_changed();
    loop {
        tokio::select! {
            Ok(()) = changes.changed() => if let Err(refusal) = session.check_enrolled() {
                return why(connection, End::Refused(refusal));
            },
            accepted = connection.accept_bi() => match accepted {
                Ok(pair) => {
                    let session = Arc::clone(&session);
                    let (connection, streams_in) = (connection.clone(), message_stream_in(pair, &room));
                    streams.spawn(async move { stream(&session, &connection, streams_in).await });
                }
                Err(error) => return link::connection_error(error).to_string(),
            },
            said = control.next() => match said {
                Err(error) => return why(connection, End::from(error)),
                Ok(Some(Message::Report { group, report })) => if let Err(refusal) = session.report(group, report) {
                    return why(connection, End::Refused(refusal));
                },
                Ok(Some(message)) => return why(connection, super::out_of_place(&message)),
                Ok(None) => return why(connection, End::Gone),
            },
            Some(_) = streams.join_next() => {}
        }
    }
}

/// Ends a connection.
fn why(connection: &Connection, end: End) -> String {
    match end {
        End::Refused(refusal) => {
            refuse(connection, &refusal);
            refusal.to_string()
        }
        End::Gone => {
            connection.close(0u32.into(), b"");
            "the agent is gone".to_owned()
        }
    }
}

/// One stream. What does not parse ends the whole session: nobody knows how to talk to who says it.
async fn stream(session: &Session, connection: &Connection, (mut writer, mut reader): (MessageWriter, MessageReader)) {
    let served = async {
        match Opening::of(first(&mut reader).await?)? {
            Opening::Group { group, name } => {
                let opener = Opener(connection.clone());
                group::serve(session, (group, name), &mut writer, &mut reader, &opener).await
            }
            Opening::Base { group, resync } => base::serve(session, (group, resync), &mut writer, &mut reader).await,
            Opening::Compare { group, at } => compare::serve(session, (group, at), &mut writer, &mut reader).await,
            Opening::Changed { group, after, at } => {
                changed::serve(session, (group, after, at), &mut writer, &mut reader).await
            }
        }
    };
    let Err(End::Refused(refusal)) = served.await else { return };
    warn!(agent = %session.agent, session = session.id.0, %refusal, "a stream was refused");
    if refusal.code == RefusalCode::Malformed {
        // While the stream is there: its end would wait for room in the congestion window, and QUIC lets nothing pass it,
        // not even the connection's end.
        return refuse(connection, &refusal);
    }
    reader.stop(refusal.code);
    // Whoever is gone need not be told.
    let _ = writer.send(&Message::Refused(refusal)).await;
    writer.finish();
}

async fn first(reader: &mut MessageReader) -> Result<Message, End> {
    match timeout(PATIENCE, reader.next()).await {
        Ok(message) => message?.ok_or(End::Gone),
        Err(_) => Err(too_late().into()),
    }
}

fn too_late() -> Refusal {
    Refusal::new(RefusalCode::Malformed, "the first message did not come")
}
