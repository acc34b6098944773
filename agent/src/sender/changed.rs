//! Asks a receiver that is ahead what it changed beyond what was remembered here: whether the logs of hot extents are those of the run
//! that ended, and not of an older one.

use std::time::Duration;

use journal::error::Result;
use journal::types::Head;
use journal::wire::{FEATURE_CHANGED, Message};
use link::refusal_of;
use tokio::time::timeout;

use super::Streams;
use super::live::{next, unexpected};
use crate::hot::Claim;
use crate::run::{Group, Verdicts};

/// How long the receiver may take to say all of it. Comparing takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the receiver, whose durable head is `at`, agrees with what the logs claim. An error is the connection's.
pub(super) async fn ask(
    group: &Group,
    at: Head,
    features: u64,
    open: impl AsyncFnOnce() -> Result<Streams>,
) -> Result<Verdicts> {
    let Some(crash) = group.crash() else { return Ok(Verdicts::new()) };
    let unbelieved = crash.unbelieved;
    if crash.claims.is_empty() {
        return Ok(unbelieved);
    }
    let all = |why: &str| {
        let doubted = crash.claims.iter().map(|claim| (claim.volume(), Err(why.to_owned())));
        doubted.chain(unbelieved.clone()).collect()
    };
    if features & FEATURE_CHANGED == 0 {
        return Ok(all("the receiver is of a version that cannot say what it changed"));
    }
    let asked = async {
        let (mut writer, mut reader) = open().await?;
        writer.send(&Message::OpenChanged { group: group.id(), after: crash.durable, at: at.seq }).await?;
        let time = match next(&mut reader).await? {
            Message::ChangedReady(time) => time,
            other => return Err(unexpected(other)),
        };
        let mut verdicts = unbelieved.clone();
        for claim in &crash.claims {
            let verdict = match claim.check_time(time) {
                Ok(()) => pages(claim, (&mut writer, &mut reader)).await?,
                Err(why) => Err(why),
            };
            verdicts.insert(claim.volume(), verdict);
        }
        writer.finish();
        Ok(verdicts)
    };
    match timeout(PATIENCE, asked).await {
        Ok(Err(error)) => match refusal_of(&error) {
            Some(refusal) => Ok(all(&format!("the receiver does not say what it changed: {refusal}"))),
            None => Err(error),
        },
        Ok(said) => said,
        Err(_) => Ok(all("the receiver did not say in time what it changed")),
    }
}

async fn pages(
    claim: &Claim,
    (writer, reader): (&mut link::MessageWriter, &mut link::MessageReader),
) -> Result<std::result::Result<(), String>> {
    let mut first = 0;
    loop {
        writer.send(&Message::ChangedFrom { volume: claim.volume(), first }).await?;
        let said = match next(reader).await? {
            Message::ChangedExtents(said) => said,
            other => return Err(unexpected(other)),
        };
        match claim.check(first, &said) {
            Ok(Some(next)) => first = next,
            Ok(None) => return Ok(Ok(())),
            Err(why) => return Ok(Err(why)),
        }
    }
}
