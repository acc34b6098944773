//! `rollback`: the replica image, or the source itself, goes back to an instant, and forth again.

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::args::Rollback;
use crate::error::Failure;
use crate::names::Name;
use crate::output::{asks, number, point, text};
use crate::units::{bytes, seconds};
use crate::{client::Client, job};

pub(super) async fn run(context: &Context, args: &Rollback) -> Outcome {
    let group = Name::parse("a group", &args.group)?;
    let at = args.at.as_deref().map(|at| context.when(at)).transpose()?;
    let client = context.receiver()?;
    let mut body = json!({
        "group": group.as_str(), "at": at, "undo": args.undo, "nearest": args.nearest,
        "dry_run": context.global.dry_run, "live": args.live, "force_attached": args.force_attached,
    });
    if args.force_attached {
        context.out.beside(FORCED);
    }
    if !context.global.dry_run && !context.global.yes {
        confirm(context, &client, &group, &mut body).await?;
    }
    let document = job::run(context, &client, "/v1/rollback", &body).await?;
    context.out.result(&document, || {
        let at = point(document.get("point").unwrap_or(&Value::Null));
        let size = bytes(number(&document, "bytes_written").unwrap_or(0));
        match (context.global.dry_run, args.live) {
            (true, _) => format!("{group} would go to {at}: nothing was changed"),
            (false, false) => format!("{group} is at {at}: {size} written in {}", duration(&document)),
            (false, true) => {
                let before = text(&document, "before")
                    .map_or_else(String::new, |mark| format!("\n  the state before is mark:{mark}, kept for 30 days"));
                format!(
                    "the source of {group} is at {at}: {size} written in {}{before}\n  \
                     back again: backspool rollback {group} --undo --live, after backspool allow on its machine",
                    duration(&document)
                )
            }
        }
    })?;
    Ok(0)
}

/// Shows the plan and asks. What is done then is what was shown: the point is pinned by its place in the order.
async fn confirm(context: &Context, client: &Client, group: &Name, body: &mut Value) -> Result<(), Failure> {
    let is_live = body["live"] == true;
    if asks() {
        body["dry_run"] = json!(true);
        let plan = job::run(context, client, "/v1/rollback", body).await?;
        body["dry_run"] = json!(false);
        let latest = matches!(text(body, "at"), Some("latest" | "now"));
        if let Some(seq) = plan
            .get("point")
            .and_then(|at| number(at, "seq"))
            .filter(|_| body["at"].is_string() && (is_live || !latest))
        {
            body["at"] = json!(format!("seq:{seq}"));
        }
        if let Some(clients) = number(&plan, "clients").filter(|&clients| clients > 0) {
            context.out.beside(&format!("attached to the tap now: {clients}, which are put out"));
        }
    }
    let question = match is_live {
        true => format!("Overwrite the source of {group}? Its tap is closed meanwhile."),
        false => format!("Change the replica image of {group}?"),
    };
    context.out.confirm(&context.global, &question)
}

fn duration(document: &Value) -> String {
    seconds(document.get("seconds").and_then(Value::as_f64).unwrap_or(0.0))
}

/// Before anything is done, whoever is asked and whoever said yes.
const FORCED: &str = "--force-attached: whoever is attached to the tap is put out. What they have mounted or cached is not what the source will \
                      hold: unmount and detach them before they connect again, or they damage it.";
