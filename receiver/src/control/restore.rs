//! `POST /v1/restore {group, volume?, since?, at, nearest, to, force, dry_run}`, answered with lines.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use journal::store::{PointInfo, View, VolumeInfo};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::reply::{Lines, blocking, point, stream};
use super::{App, document, volume, when};
use crate::error::{Error, Result};
use crate::restore::{Restore, Restored, Update};

#[derive(Deserialize)]
struct Request {
    group: String,
    volume: Option<String>,
    /// The image is there already, as of then.
    since: Option<String>,
    at: String,
    #[serde(default)]
    nearest: bool,
    /// An absolute path; `-` for a plan of what the client will read.
    to: String,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    dry_run: bool,
}

/// Writes an image as of a point.
pub(super) async fn restore(State(app): State<App>, body: Bytes) -> Response {
    match document::<Request>(&body) {
        Ok(request) => stream(|lines| blocking(move || run(&app, &request, lines))),
        Err(error) => error.into_response(),
    }
}

fn run(app: &App, request: &Request, mut lines: Lines) -> Result<Value> {
    let started = Instant::now();
    let group = app.groups.by_name(&request.group)?;
    let version = group.library()?.now();
    let at = when::resolve(&version, &request.group, &request.at, request.nearest)?;
    let view = version.view(at.seq)?;
    if let Some(since) = &request.since {
        let since = when::resolve(&version, &request.group, since, request.nearest)?;
        return update(app, request, (version.view(since.seq)?, &since), (view, &at), lines);
    }
    if request.to == "-" {
        return plan_only(request, &at, &view, lines);
    }
    let one = one(request, &view)?;
    let name = one.as_ref().map(|volume| volume.name.clone());
    let restore = Restore::plan(view, one, Path::new(&request.to), request.force, app.groups.catalog().dir().path())?;
    let total = restore.bytes();
    lines.plan(total, json!({"point": point(&at), "bytes_total": total, "target": request.to, "volume": name}));
    if request.dry_run {
        return Ok(result(&at, None, started, name));
    }
    let lines = Mutex::new(lines);
    let restored = restore.run(&|bytes| {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.progress(bytes, Instant::now());
        if lines.is_deserted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(result(&at, Some(restored), started, name))
}

/// Verifies the image that is there, then writes what differs: that is carried out also when the client goes away.
fn update(
    app: &App,
    request: &Request,
    (since_view, since): (View, &PointInfo),
    (view, at): (View, &PointInfo),
    mut lines: Lines,
) -> Result<Value> {
    let started = Instant::now();
    if request.force || request.to == "-" {
        return Err(Error::usage("since is for an image that is there, which is verified whatever force says"));
    }
    let one = one(request, &view)?;
    let name = one.as_ref().map(|volume| volume.name.clone());
    let store = app.groups.catalog().dir().path();
    let update = Update::open(since_view, view, one, Path::new(&request.to), store)?;
    lines.expect(update.bytes());
    let lines = Mutex::new(lines);
    let progress = |bytes| {
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.progress(bytes, Instant::now());
        if lines.is_deserted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let verified = update.verify(&progress)?;
    let (bytes, blocks) = (verified.bytes(), verified.blocks());
    lines.lock().unwrap_or_else(PoisonError::into_inner).plan(
        bytes,
        json!({
            "since": point(since), "point": point(at), "bytes_total": bytes, "blocks_total": blocks,
            "target": request.to, "volume": name,
        }),
    );
    let restored = match request.dry_run {
        true => None,
        false => Some(update.write(&verified, &|bytes| {
            _ = progress(bytes);
            ControlFlow::Continue(())
        })?),
    };
    let mut document = result(at, restored, started, name);
    document["since"] = point(since);
    Ok(document)
}

/// The volume that is meant; `None` for all of several.
fn one(request: &Request, view: &View) -> Result<Option<VolumeInfo>> {
    match (request.volume.as_deref(), view.volumes().len()) {
        (None, 2..) => Ok(None),
        (name, _) => volume(view, &request.group, name).map(Some),
    }
}

/// The client takes the bytes itself, and asks what it will get.
fn plan_only(request: &Request, at: &PointInfo, view: &View, mut lines: Lines) -> Result<Value> {
    if !request.dry_run {
        return Err(Error::usage("to read the bytes ask for /v1/read"));
    }
    let volume = volume(view, &request.group, request.volume.as_deref())?;
    let total = volume.size.bytes();
    lines.plan(total, json!({"point": point(at), "bytes_total": total, "target": "-", "volume": volume.name}));
    Ok(result(at, None, Instant::now(), Some(volume.name)))
}

fn result(at: &PointInfo, restored: Option<Restored>, started: Instant, volume: Option<String>) -> Value {
    let Restored { bytes, blocks, hashes } = restored.unwrap_or(Restored { bytes: 0, blocks: 0, hashes: Vec::new() });
    let hashes: Map<String, Value> = hashes.into_iter().map(|(name, hash)| (name, json!(hash))).collect();
    json!({
        "schema": 1, "point": point(at), "bytes_written": bytes, "blocks_written": blocks,
        "seconds": started.elapsed().as_secs_f64(), "blake3": hashes, "volume": volume,
    })
}
