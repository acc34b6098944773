//! Enrolment with a receiver, and what is remembered of it: where it is, and its key.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use journal::disk::{FileDisk, read_file, replace_file};
use journal::wire::{JoinOutcome, JoinRequest, Pin, ReceiverId};
use link::{Identity, Invitation, Purpose};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::capture::{Clock, SystemClock};
use crate::sender::{Peer, resolve};
use crate::{Error, Result};

const RECEIVER: &str = "receiver.json";
const RECEIVER_BYTES: u64 = 64 * 1024;
const VERSION: u32 = 1;
/// How long the receiver may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of joining.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// What this agent is called there.
    pub agent: String,
    /// The receiver.
    pub receiver: ReceiverId,
    /// `HOST:PORT`.
    pub address: String,
}

/// Why an invitation that is whole is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Its time is over.
    Expired,
    /// Another key has used it.
    Used,
    /// The receiver does not know it, or not any more.
    Unknown,
    /// It is another receiver's: who answers at its address has another key.
    Foreign,
    /// This machine's key is enrolled under another name.
    OtherName,
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "the invitation has expired",
            Self::Used => "the invitation was used already, by another machine or with another state directory",
            Self::Unknown => "the receiver does not know the invitation: a newer one for the same agent makes it void",
            Self::Foreign => "who answers at the invitation's address is not the receiver that made it",
            Self::OtherName => "this agent is enrolled there already, under another name than the invitation's",
        })
    }
}

impl std::error::Error for NotTaken {}

impl From<NotTaken> for Error {
    fn from(why: NotTaken) -> Self {
        Self::invalid(why.to_string()).with_source(why)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    version: u32,
    address: String,
    pin: String,
}

/// Redeems an invitation: from now on this agent sends to that receiver. Remembered durably before it returns; may be repeated
/// with the same string if the answer was lost.
///
/// # Errors
/// `Invalid` for a string that is none, or that is not taken: then its source is a [`NotTaken`]. `Unavailable` when the receiver
/// cannot be reached.
pub async fn join(state_dir: &Path, invitation: &str) -> Result<Joined> {
    let invitation: Invitation = invitation.parse()?;
    let identity = identity(state_dir)?;
    let outcome = timeout(PATIENCE, ask(&identity, &invitation)).await;
    let outcome = outcome.map_err(|_| Error::unavailable(format!("{} does not answer", invitation.address)))??;
    let agent = match outcome {
        JoinOutcome::Joined(agent) => agent,
        // Those that have expired are forgotten after a while.
        JoinOutcome::Unknown if invitation.expires <= SystemClock.wall() => return Err(NotTaken::Expired.into()),
        JoinOutcome::Unknown => return Err(NotTaken::Unknown.into()),
        JoinOutcome::Expired => return Err(NotTaken::Expired.into()),
        JoinOutcome::Used => return Err(NotTaken::Used.into()),
        JoinOutcome::OtherName => return Err(NotTaken::OtherName.into()),
        JoinOutcome::Version => {
            // Ours is the first version that there is.
            return Err(Error::unsupported("the receiver speaks a newer version: update this agent"));
        }
        JoinOutcome::Internal => return Err(Error::unavailable("the receiver failed: try again")),
    };
    let Invitation { address, receiver, .. } = invitation;
    let stored = Stored { version: VERSION, address: address.clone(), pin: receiver.to_string() };
    let failed = |error| Error::invalid("the receiver cannot be written as text").with_source(error);
    let text = serde_json::to_vec_pretty(&stored).map_err(failed)?;
    replace_file(&FileDisk::create(state_dir)?, RECEIVER, &text)?;
    Ok(Joined { agent, receiver, address })
}

/// This agent's key, made on first use.
pub(crate) fn identity(state_dir: &Path) -> Result<Identity> {
    Identity::open(&state_dir.join("identity"))
}

/// The receiver that this agent has joined.
pub(crate) fn peer(state_dir: &Path) -> Result<Peer> {
    let path = state_dir.join(RECEIVER);
    let text = read_file(&FileDisk::create(state_dir)?, RECEIVER, RECEIVER_BYTES)?;
    let text = text.ok_or_else(|| {
        Error::not_found("this agent has joined no receiver yet: `backspool join STRING`, with what `invite` printed")
            .with_path(&path)
    })?;
    let failed = |error| Error::corrupt("not a receiver of ours").with_path(&path).with_source(error);
    let Stored { version, address, pin } = serde_json::from_slice(&text).map_err(failed)?;
    if version != VERSION {
        return Err(Error::unsupported(format!("version {version} of it is not known here")).with_path(&path));
    }
    let pin = Pin::parse(&pin).ok_or_else(|| Error::corrupt("not the pin of a key").with_path(&path))?;
    Ok(Peer { address, pin })
}

async fn ask(identity: &Identity, invitation: &Invitation) -> Result<JoinOutcome> {
    let remote = resolve(&invitation.address).await?;
    let endpoint = link::client_endpoint(identity, remote)?;
    let connected = link::connect(&endpoint, remote, identity, invitation.receiver.0, Purpose::Join).await;
    let connection =
        connected.map_err(|error| if link::is_not_trusted(&error) { NotTaken::Foreign.into() } else { error })?;
    let outcome = link::join(&connection, &JoinRequest { secret: invitation.secret }).await;
    // The receiver learns that its answer has arrived.
    endpoint.wait_idle().await;
    outcome
}
