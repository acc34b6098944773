//! `verify`: everything that is kept of a group is read and checked.

use serde_json::{Value, json};

use super::{Context, Outcome};
use crate::args::Verify;
use crate::job;
use crate::names::Name;
use crate::output::{list, number, text};
use crate::units::bytes;

pub(super) async fn run(context: &Context, args: &Verify) -> Outcome {
    let group = Name::parse("a group", &args.group)?;
    let body = json!({"group": group.as_str()});
    let document = job::run(context, &context.receiver()?, "/v1/verify", &body).await?;
    context.out.result(&document, || report(context, &document))?;
    // Damage that was mended is damage all the same.
    let sound = document.get("ok").and_then(Value::as_bool) == Some(true) && list(&document, "findings").is_empty();
    Ok(if sound { 0 } else { DAMAGED })
}

fn report(context: &Context, document: &Value) -> String {
    let checked = bytes(number(document, "bytes_checked").unwrap_or(0));
    let findings = list(document, "findings");
    let mut lines: Vec<String> = findings
        .iter()
        .map(|finding| {
            let (place, what) = (text(finding, "where").unwrap_or("?"), text(finding, "what").unwrap_or("?"));
            let mended = finding.get("mended").and_then(Value::as_bool) == Some(true);
            format!("{place}: {what}{}", if mended { " (mended)" } else { "" })
        })
        .collect();
    lines.push(match findings.len() {
        0 => context.out.paint.green(&format!("sound: {checked} checked")),
        count => context.out.paint.red(&format!("damaged: {count} findings in {checked}")),
    });
    lines.join("\n")
}

const DAMAGED: u8 = 14;
