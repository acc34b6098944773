//! `POST /v1/rollback {group, at?, undo, nearest, dry_run, live, force_attached}`, answered with lines.

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
use crate::rollback::live::LiveGoal;
use crate::rollback::{Asked, Goal, Told, take_back};

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
    /// The sources themselves, through their agent.
    #[serde(default)]
    live: bool,
    /// Clients of the tap are put out.
    #[serde(default)]
    force_attached: bool,
}

/// Takes the replica image to a point, or back; or the sources. It is carried out also when the client goes away.
pub(super) async fn rollback(State(app): State<App>, body: Bytes) -> Response {
    match document::<Request>(&body) {
        Ok(request) if request.live => stream(|lines| run_live(app, request, lines)),
        Ok(request) if request.force_attached => Error::usage("force_attached is for live").into_response(),
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

async fn run_live(app: App, request: Request, mut lines: Lines) -> Result<Value> {
    let started = Instant::now();
    let group = app.groups.by_name(&request.group)?;
    let _alone = group.reserve("a live rollback")?;
    let (dry_run, even_if_attached) = (request.dry_run, request.force_attached);
    let looked_at = group.clone();
    let goal = blocking(move || live_goal(&looked_at, &request)).await?;
    let mut done = 0;
    let mut listener = |told| match told {
        Told::Planned { point: at, bytes, blocks, clients } => {
            let plan = json!({
                "point": point(&at), "target": "the source", "bytes_total": bytes, "blocks_total": blocks, "clients": clients,
            });
            lines.plan(bytes, plan);
        }
        Told::Wrote { bytes } => {
            lines.progress(bytes.saturating_sub(done), Instant::now());
            done = bytes;
        }
    };
    let taken = take_back(&group, Asked { goal, even_if_attached, dry_run }, &mut listener).await?;
    let (bytes, blocks) = if dry_run { (0, 0) } else { (taken.bytes, taken.blocks) };
    Ok(json!({
        "schema": 1, "point": point(&taken.point), "bytes_written": bytes, "blocks_written": blocks,
        "seconds": started.elapsed().as_secs_f64(), "blake3": {}, "live": true, "before": taken.mark, "clients": taken.clients,
    }))
}

fn live_goal(group: &Group, request: &Request) -> Result<LiveGoal> {
    match (request.at.as_deref(), request.undo) {
        (None, true) => Ok(LiveGoal::Undo),
        (Some(at), false) => {
            Ok(LiveGoal::To(when::resolve(&group.library()?.now(), &request.group, at, request.nearest)?))
        }
        (Some(_), true) | (None, false) => Err(Error::usage("say either at or undo")),
    }
}

fn goal(group: &Group, request: &Request) -> Result<Goal> {
    match (request.at.as_deref(), request.undo) {
        (None, true) => Ok(Goal::Undo),
        (Some("latest" | "now"), false) => Ok(Goal::Follow),
        (Some(at), false) => Ok(Goal::To(when::resolve(&group.library()?.now(), &request.group, at, request.nearest)?)),
        (Some(_), true) | (None, false) => Err(Error::usage("say either at or undo")),
    }
}
