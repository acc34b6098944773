//! Enrolment: 256 bytes there, 256 bytes back, on a connection that is good for nothing else.

use std::time::Duration;

use journal::error::{Error, Result};
use journal::wire::{JOIN_BYTES, JoinOutcome, JoinRefused, JoinReply, JoinRequest, Pin, Refusal, RefusalCode};
use quinn::{Connection, ReadExactError, RecvStream, SendStream, VarInt};

use crate::connection::{Peer, refuse};
use crate::error::{connection_error, read_error, write_error};

/// How long a stranger may take for its 256 bytes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the receiver at the other end of a [`Purpose::Join`](crate::Purpose::Join) connection to enrol our key.
pub async fn join(connection: &Connection, request: &JoinRequest) -> Result<JoinOutcome> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(connection_error)?;
    send.write_all(&request.encode()).await.map_err(write_error)?;
    // It fails only if the stream was finished before.
    let _ = send.finish();
    let reply = JoinReply::decode(&read_fixed(&mut recv).await?)?;
    connection.close(VarInt::from_u32(0), b"");
    Ok(reply.0)
}

/// Somebody who wants to be enrolled.
#[derive(Debug)]
pub struct JoinAttempt {
    /// The key that it has proven to hold.
    pub pin: Pin,
    /// What it asks.
    pub request: JoinRequest,
    connection: Connection,
    send: SendStream,
}

impl JoinAttempt {
    /// Reads the one message that a peer who is not known yet may send. `None`: it spoke another version, and was told.
    pub async fn read(peer: Peer) -> Result<Option<Self>> {
        let Peer { connection, pin, .. } = peer;
        let read = async {
            let (send, mut recv) = connection.accept_bi().await.map_err(connection_error)?;
            Ok::<_, Error>((send, read_fixed(&mut recv).await?))
        };
        let (mut send, bytes) = match tokio::time::timeout(PATIENCE, read).await {
            Ok(read) => read?,
            Err(_) => {
                refuse(&connection, &Refusal::new(RefusalCode::Malformed, "no request came"));
                return Err(Error::unavailable("no request came"));
            }
        };
        match JoinRequest::decode(&bytes) {
            Ok(request) => Ok(Some(Self { pin, request, connection, send })),
            Err(JoinRefused::Version) => {
                answer(&connection, &mut send, JoinOutcome::Version).await?;
                Ok(None)
            }
            Err(JoinRefused::Malformed(reason)) => {
                refuse(&connection, &reason.into());
                Err(reason.into())
            }
        }
    }

    /// Answers, and waits until the answer has arrived or the peer is gone.
    pub async fn reply(mut self, outcome: JoinOutcome) -> Result<()> {
        answer(&self.connection, &mut self.send, outcome).await
    }
}

async fn answer(connection: &Connection, send: &mut SendStream, outcome: JoinOutcome) -> Result<()> {
    send.write_all(&JoinReply(outcome).encode()).await.map_err(write_error)?;
    // It fails only if the stream was finished before.
    let _ = send.finish();
    // The joining side closes once it has the answer; one that does not is closed here.
    if tokio::time::timeout(PATIENCE, connection.closed()).await.is_err() {
        connection.close(VarInt::from_u32(0), b"");
    }
    Ok(())
}

async fn read_fixed(recv: &mut RecvStream) -> Result<[u8; JOIN_BYTES]> {
    let mut bytes = [0; JOIN_BYTES];
    recv.read_exact(&mut bytes).await.map_err(|error| match error {
        ReadExactError::FinishedEarly(_) => Error::corrupt("it ends too early"),
        ReadExactError::ReadError(error) => read_error(error),
    })?;
    Ok(bytes)
}
