//! `join`: pins the receiver and enrols this machine's agent.

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

/// What is wrong with the string, and what the receiver has against it, is a matter of trust.
fn refused(error: &agent::Error) -> Failure {
    match error.kind() {
        agent::ErrorKind::Invalid => {
            Failure::from(error).recoded("E1201").advise("backspool invite AGENT, where the receiver runs")
        }
        _ => Failure::from(error),
    }
}
