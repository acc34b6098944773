//! `POST /v1/export {group, volume?, at, nearest, nbd, remote, writable, scratch_bytes}`, answered with lines: served until the request is gone.
//! `POST /v1/release {group, kind, where}` ends it from elsewhere.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use nbd::RemoteClients;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{Lines, Reply, blocking, point, stream};
use super::{App, document, volume, when};
use crate::error::{Code, Error, Result};
use crate::export::{Kind, NbdExport, Place, Scratch, Served, scratch_dir};
use crate::time::now;

#[derive(Deserialize)]
struct Request {
    group: String,
    volume: Option<String>,
    at: String,
    #[serde(default)]
    nearest: bool,
    /// `unix:PATH`, absolute, or `HOST:PORT`.
    nbd: String,
    /// Whether an address that other machines reach will do.
    #[serde(default)]
    remote: bool,
    #[serde(default)]
    writable: bool,
    scratch_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Release {
    group: String,
    kind: String,
    #[serde(rename = "where")]
    location: String,
}

/// What a scratch may hold unless it was said.
pub(super) const SCRATCH_BYTES: u64 = 10 << 30;

/// Serves a view over NBD.
pub(super) async fn export(State(app): State<App>, body: Bytes) -> Response {
    match document::<Request>(&body) {
        Ok(request) => stream(|lines| run(app, request, lines)),
        Err(error) => error.into_response(),
    }
}

/// Ends an export, or a mount.
pub(super) async fn release(State(app): State<App>, body: Bytes) -> Reply {
    let Release { group, kind, location } = document(&body)?;
    let kind = match kind.as_str() {
        "nbd" => Kind::Nbd,
        "mount" => Kind::Mount,
        other => return Err(Error::usage(format!("{other:?} is neither nbd nor mount"))),
    };
    let known = app.groups.by_name(&group)?;
    if app.holdings.release(known.id(), kind, &location).await {
        return Ok(Json(json!({"schema": 1, "released": location})));
    }
    let message = format!("nothing of {group} is served at {location}");
    Err(Error::new(Code::NO_EXPORT, message).hint(format!("backspool status {group}")))
}

/// Which view is to be served.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) group: &'a str,
    pub(super) volume: Option<&'a str>,
    pub(super) at: &'a str,
    pub(super) nearest: bool,
    /// What clients may change, in bytes; `None`: nothing.
    pub(super) scratch_bytes: Option<u64>,
}

/// Opens it. Reads the disk: not for a thread that must not wait.
pub(super) fn open(app: &App, wanted: &Wanted<'_>) -> Result<Arc<Served>> {
    let version = app.groups.by_name(wanted.group)?.library()?.now();
    let at = when::resolve(&version, wanted.group, wanted.at, wanted.nearest)?;
    let view = version.view(at.seq)?;
    let volume = volume(&view, wanted.group, wanted.volume)?;
    let scratch = wanted.scratch_bytes.map(|limit| {
        let dir = scratch_dir(app.groups.catalog().dir().path());
        Scratch::new(&dir, limit).map_err(|error| error.context("no scratch can be made"))
    });
    Ok(Served::new(wanted.group, view, volume, at, scratch.transpose()?))
}

async fn run(app: App, request: Request, mut lines: Lines) -> Result<Value> {
    let group = app.groups.by_name(&request.group)?;
    let opened = {
        let app = app.clone();
        blocking(move || start(&app, &request, &mut lines).map(|export| (export, lines)))
    };
    let (export, mut lines) = opened.await?;
    let export = Arc::new(export);
    let place = Place { group: group.id(), kind: Kind::Nbd, location: export.address().to_string() };
    let mut holding = app.holdings.add(place, Arc::<NbdExport>::clone(&export));
    lines.event(ready(&export)).await;
    let why = tokio::select! {
        why = holding.released() => why,
        () = lines.deserted() => "nobody asks for it any more",
    };
    // Before the last word is said: clients are gone, the socket too, and the view.
    blocking(move || {
        export.end();
        Ok(())
    })
    .await?;
    drop(holding);
    Ok(json!({"schema": 1, "event": "stopped", "why": why}))
}

fn start(app: &App, request: &Request, lines: &mut Lines) -> Result<NbdExport> {
    let served = open(
        app,
        &Wanted {
            group: &request.group,
            volume: request.volume.as_deref(),
            at: &request.at,
            nearest: request.nearest,
            scratch_bytes: request.writable.then(|| request.scratch_bytes.unwrap_or(SCRATCH_BYTES)),
        },
    )?;
    let size = served.size_bytes();
    lines.plan(size, json!({"point": point(served.point()), "bytes_total": size, "target": request.nbd}));
    let remote = if request.remote { RemoteClients::Allowed } else { RemoteClients::Refused };
    NbdExport::start(served, &request.nbd, remote, now())
}

fn ready(export: &NbdExport) -> Value {
    let served = export.served();
    json!({
        "schema": 1, "event": "ready", "point": point(served.point()), "where": export.address().to_string(), "uri": export.uri(),
        "export": served.volume().name, "size_bytes": served.size_bytes(), "writable": served.is_writable(),
        "scratch_limit_bytes": served.scratch_bytes().map(|(_, limit)| limit),
    })
}
