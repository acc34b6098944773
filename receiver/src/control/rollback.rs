//! `POST /v1/rollback {group, at?, undo, nearest, dry_run}`, answered with lines.

use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{Lines, blocking, point, stream};
use super::{App, document, when};
use crate::error::{Code, Error, Result};
use crate::group::Group;
use crate::image::Step;
use crate::rollback::Goal;

#[derive(Deserialize)]
struct Request {
    group: String,
    at: Option<String>,
    #[serde(default)]
    undo: bool,
    #[serde(default)]
    nearest: bool,
    #[serde(default)]
    dry_run: bool,
}

/// Takes the replica image to a point, or back. It is carried out also when the client goes away.
pub(super) async fn rollback(State(app): State<App>, body: Bytes) -> Response {
    match document::<Request>(&body) {
        Ok(request) => stream(|lines| run(app, request, lines)),
        Err(error) => error.into_response(),
    }
}

async fn run(app: App, request: Request, mut lines: Lines) -> Result<Value> {
    let started = Instant::now();
    let group = app.groups.by_name(&request.group)?;
    let image = app.groups.image(group.id()).ok_or_else(|| {
        Error::new(Code::FAILED, format!("no replica image of {} is kept", request.group))
            .hint("turn images on in the receiver's configuration, or restore to a file")
    })?;
    let _alone = group.reserve("a rollback")?;
    let dry_run = request.dry_run;
    let goal = blocking(move || goal(&group, &request)).await?;
    let listener = move |step| match step {
        Step::Planned { point: at, bytes, blocks } => {
            lines.plan(bytes, json!({"point": point(&at), "bytes_total": bytes, "blocks_total": blocks}));
        }
        Step::Wrote { bytes } => lines.progress(bytes, Instant::now()),
    };
    let done = image.rollback(goal, dry_run, Box::new(listener)).await?;
    let (bytes, blocks) = if dry_run { (0, 0) } else { (done.bytes, done.blocks) };
    Ok(json!({
        "schema": 1, "point": point(&done.point), "bytes_written": bytes, "blocks_written": blocks,
        "seconds": started.elapsed().as_secs_f64(), "blake3": {}, "held": done.held,
    }))
}

fn goal(group: &Group, request: &Request) -> Result<Goal> {
    match (request.at.as_deref(), request.undo) {
        (None, true) => Ok(Goal::Undo),
        (Some("latest" | "now"), false) => Ok(Goal::Follow),
        (Some(at), false) => Ok(Goal::To(when::resolve(&group.library()?.now(), &request.group, at, request.nearest)?)),
        (Some(_), true) | (None, false) => Err(Error::usage("say either at or undo")),
    }
}
