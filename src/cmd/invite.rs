//! `invite`: one string that lets one agent in, once.

use serde_json::json;

use super::{Context, Outcome};
use crate::args::Invite;
use crate::error::Failure;
use crate::names::Name;
use crate::output::text;
use crate::units::{parse_duration, whole_seconds};

pub(super) async fn run(context: &Context, args: &Invite) -> Outcome {
    context.refuse_dry_run("invite")?;
    let agent = Name::parse("an agent", &args.agent)?;
    let ttl = whole_seconds(parse_duration(&args.ttl)?);
    let body = json!({"agent": agent.as_str(), "ttl_seconds": ttl, "address": args.address});
    let document = context.receiver()?.post("/v1/invite", &body).await?;
    let Some(invitation) = text(&document, "invitation").map(str::to_owned) else {
        return Err(Failure::new("E0103", "the receiver's answer holds no invitation"));
    };
    let expires = text(&document, "expires").unwrap_or("?").to_owned();
    context.out.result(&document, || invitation)?;
    if !context.out.json() {
        context.out.hint(&format!("good for {agent}, once, until {expires}; on its machine: backspool join STRING"));
    }
    Ok(0)
}
