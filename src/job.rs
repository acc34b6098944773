//! Work that takes a while: its plan is shown first, its progress while it runs, its result at the end.

use serde_json::Value;

use crate::client::Client;
use crate::cmd::Context;
use crate::error::Failure;
use crate::output::{number, point, text};
use crate::units::bytes;

/// Lets the receiver do `body` and returns the last document.
///
/// The plan is for people, on stdout; programs find the point in the result.
pub(crate) async fn run(context: &Context, client: &Client, path: &str, body: &Value) -> Result<Value, Failure> {
    // A newer receiver may tell more than this client knows.
    run_with(context, client, path, body, |_| Ok(())).await
}

/// The same; `part` gets what else it tells.
pub(crate) async fn run_with(
    context: &Context,
    client: &Client,
    path: &str,
    body: &Value,
    mut part: impl FnMut(&Value) -> Result<(), Failure>,
) -> Result<Value, Failure> {
    // Where the bytes themselves go to stdout, the plan goes beside them.
    let plan = |document: &Value| match plan(document) {
        Some(plan) if text(body, "to") != Some("-") => context.out.say(&plan),
        Some(plan) if !context.out.json() => {
            context.out.hint(&plan);
            Ok(())
        }
        _ => Ok(()),
    };
    let mut answer = client.stream(path, body).await?;
    let bar = context.out.progress();
    let mut last = None;
    while let Some(document) = answer.line().await? {
        match text(&document, "event") {
            Some("plan") => bar.suspend(|| plan(&document))?,
            Some("progress") => {
                bar.set_length(number(&document, "bytes_total").unwrap_or(0));
                bar.set_position(number(&document, "bytes_done").unwrap_or(0));
            }
            Some(_) => bar.suspend(|| part(&document))?,
            None => last = Some(document),
        }
    }
    bar.finish_and_clear();
    last.ok_or_else(|| Failure::new("E1603", "the answer ended without a result").advise("call again"))
}

/// What is about to be done; none when there is no point to it.
fn plan(document: &Value) -> Option<String> {
    let at = document.get("point").filter(|at| at.is_object())?;
    let mut parts = vec![format!("point {}", point(at))];
    parts.extend(document.get("since").map(|since| format!("from {}", point(since))));
    match (number(document, "bytes_total"), number(document, "blocks_total")) {
        (Some(size), Some(blocks)) => parts.push(format!("{} in {blocks} blocks", bytes(size))),
        (Some(size), None) => parts.push(bytes(size)),
        _ => {}
    }
    if let Some(target) = text(document, "target") {
        parts.push(format!("to {target}"));
    }
    Some(format!("plan: {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::plan;

    #[test]
    fn a_plan_names_point_size_and_target() {
        let at = json!({"seq": 7, "time": "2026-11-20T10:15:32.000000Z", "class": "write", "mark": null});
        let document = json!({"event": "plan", "point": at, "bytes_total": 8192, "blocks_total": 2, "target": "/t"});
        assert_eq!(
            plan(&document).unwrap(),
            "plan: point 2026-11-20T10:15:32.000000Z (seq 7, write), 8.0 KiB in 2 blocks, to /t"
        );
    }
}
