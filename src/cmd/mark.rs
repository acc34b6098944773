//! `mark`: a named point that includes every write acknowledged before.

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::args::Mark;
use crate::names::Name;
use crate::output::point;
use crate::units::{parse_duration, whole_seconds};

pub(super) async fn run(context: &Context, args: &Mark) -> Outcome {
    context.refuse_dry_run("mark")?;
    let group = Name::parse("a group", &args.group)?;
    let name = Name::parse("a mark", &args.name)?;
    let lock = args.lock.as_deref().map(parse_duration).transpose()?;
    let body = json!({
        "group": group.as_str(), "name": name.as_str(), "lock_seconds": lock.map(whole_seconds),
    });
    let document = context.agent()?.post("/v1/mark", &body).await?;
    context
        .out
        .result(&document, || format!("marked {group} at {}", point(document.get("point").unwrap_or(&Value::Null))))?;
    Ok(0)
}
