//! `join`: pins the receiver and enrols this machine's agent.

use std::error::Error as _;

use agent::join::NotTaken;
use serde_json::json;

use super::{Context, Outcome};
use crate::args::Join;
use crate::config::Config;
use crate::error::Failure;

pub(super) async fn run(context: &Context, args: &Join) -> Outcome {
    context.refuse_dry_run("join")?;
    let state = Config::load(&context.global)?.state(&context.global);
    let joined = agent::join::join(&state, &args.invitation).await.map_err(|error| refused(&error))?;
    let document = json!({
        "schema": 1, "agent": joined.agent, "receiver": joined.receiver.to_string(), "address": joined.address,
    });
    context.out.result(&document, || format!("joined {} as {}", joined.address, joined.agent))?;
    Ok(0)
}

/// A string that is not whole is a mistake; one that is not taken is a matter of trust.
fn refused(error: &agent::Error) -> Failure {
    let failure = Failure::from(error);
    let why = error.source().and_then(|source| source.downcast_ref::<NotTaken>());
    let advice = match why {
        None if error.kind() == agent::ErrorKind::Invalid => {
            return failure.advise(
                "copy the whole string again, or make a new one: backspool invite AGENT, where the receiver runs",
            );
        }
        None => return failure,
        Some(NotTaken::Expired | NotTaken::Unknown) => "backspool invite AGENT, where the receiver runs",
        Some(NotTaken::Used) => {
            "backspool invite AGENT, where the receiver runs: joining with the new one shuts out whoever used this one"
        }
        Some(NotTaken::Foreign) => {
            "check the address (invite --address HOST:PORT); if the receiver was made anew: backspool invite AGENT, where it runs"
        }
        Some(NotTaken::OtherName) => "an invitation for its own name, or another --state for a second agent",
    };
    failure.recoded("E1201").advise(advice)
}
