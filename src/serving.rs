//! What the receiver serves while somebody asks for it: the request is held until a signal, or until it is ended from elsewhere.

use std::pin::pin;
use std::time::Duration;

use serde_json::Value;

use crate::client::Client;
use crate::cmd::{Context, Outcome, stopped};
use crate::error::Failure;
use crate::output::{point, text};

/// A clean stop takes no longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks for `body` and tells what becomes of it; at a signal, asks for `release` and waits for the end.
pub(crate) async fn run(
    context: &Context,
    client: &Client,
    path: &str,
    body: &Value,
    release: &Value,
    told: impl Fn(&Value) -> String,
) -> Outcome {
    let mut signal = pin!(stopped()?);
    let mut answer = client.stream(path, body).await?;
    let mut is_stopping = false;
    let mut release = release.clone();
    loop {
        let line = tokio::select! {
            line = answer.line() => line?,
            () = &mut signal, if !is_stopping => {
                is_stopping = true;
                // Where nothing is served yet there is nothing to end: it goes with this process.
                if client.post("/v1/release", &release).await.is_err() {
                    return Ok(0);
                }
                continue;
            }
            () = tokio::time::sleep(PATIENCE), if is_stopping => return Ok(0),
        };
        let Some(document) = line else { return Err(ended("the receiver went away")) };
        match text(&document, "event") {
            Some("plan") => context.out.say(&plan(&document))?,
            Some("ready") => {
                // With the port that was chosen.
                release["where"] = document["where"].clone();
                let text = told(&document);
                context.out.result(&document, || text)?;
            }
            Some("stopped") => {
                context.out.result(&document, || "stopped".to_owned())?;
                return match text(&document, "why") {
                    Some("the receiver stops") if !is_stopping => Err(ended("the receiver was stopped")),
                    _ => Ok(0),
                };
            }
            // A newer receiver may tell more than this client knows.
            _ => {}
        }
    }
}

fn plan(document: &Value) -> String {
    let at = point(document.get("point").unwrap_or(&Value::Null));
    format!("plan: point {at}, at {}", text(document, "target").unwrap_or("?"))
}

fn ended(why: &str) -> Failure {
    Failure::new("E1603", format!("it is served no more: {why}")).advise("start the receiver again and call again")
}
