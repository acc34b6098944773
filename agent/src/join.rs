//! Enrolment with a receiver, and what is remembered of it: where it is, and its key.

use std::path::Path;
use std::time::Duration;

use journal::disk::{FileDisk, read_file, replace_file};
use journal::wire::{JoinOutcome, JoinRequest, Pin, ReceiverId, Refusal, RefusalCode};
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
/// `Invalid` for a string that is none or that the receiver does not take; its source is a [`Refusal`], or a [`link::NotTrusted`]
/// when somebody else answers at that address. `Unavailable`
/// when the receiver cannot be reached.
pub async fn join(state_dir: &Path, invitation: &str) -> Result<Joined> {
    let invitation: Invitation = invitation.parse()?;
    let identity = identity(state_dir)?;
    let outcome = timeout(PATIENCE, ask(&identity, &invitation)).await;
    let outcome = outcome.map_err(|_| Error::unavailable(format!("{} does not answer", invitation.address)))??;
    let refused = |why: &str| Err(Refusal::new(RefusalCode::NotEnrolled, why).into());
    let agent = match outcome {
        JoinOutcome::Joined(agent) => agent,
        JoinOutcome::Unknown if invitation.expires <= SystemClock.wall() => {
            return refused("the invitation has expired");
        }
        JoinOutcome::Unknown => return refused("the receiver does not know the invitation, or it was used already"),
        JoinOutcome::Expired => return refused("the invitation has expired"),
        JoinOutcome::Used => return refused("the invitation was used by another machine"),
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
    let text = text.ok_or_else(|| Error::not_found("this agent has joined no receiver yet").with_path(&path))?;
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
    let connection = link::connect(&endpoint, remote, identity, invitation.receiver.0, Purpose::Join).await?;
    let outcome = link::join(&connection, &JoinRequest { secret: invitation.secret }).await;
    // The receiver learns that its answer has arrived.
    endpoint.wait_idle().await;
    outcome
}
