//! `POST /v1/mount {group, dir, zone?, offset_seconds}`, answered with lines: mounted until the request is gone, or it is unmounted.

use std::path::Path;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use jiff::tz::{Offset, TimeZone};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{Lines, blocking, stream};
use super::{App, document};
use crate::error::{Code, Error, Result};
use crate::export::{Kind, Place};
use crate::mount::mount_past;

#[derive(Deserialize)]
struct Request {
    group: String,
    /// An absolute path.
    dir: String,
    /// Name of the zone in which times without one are meant.
    zone: Option<String>,
    /// If it has no name, how far it is from UTC.
    #[serde(default)]
    offset_seconds: i32,
}

/// Mounts a group's past.
pub(super) async fn mount(State(app): State<App>, body: Bytes) -> Response {
    match document::<Request>(&body) {
        Ok(request) => stream(|lines| run(app, request, lines)),
        Err(error) => error.into_response(),
    }
}

async fn run(app: App, request: Request, mut lines: Lines) -> Result<Value> {
    let group = app.groups.by_name(&request.group)?;
    let zone = zone(request.zone.as_deref(), request.offset_seconds)?;
    let store = app.groups.catalog().dir().path().to_owned();
    let (dir, of) = (request.dir.clone(), group.clone());
    let past = blocking(move || {
        let dir = Path::new(&dir);
        refuse_store(dir, &store)?;
        mount_past(&of, dir, zone)
    });
    let past = past.await?;
    let mut mounted = past.mounted;
    let location = mounted.dir().display().to_string();
    let place = Place { group: group.id(), kind: Kind::Mount, location: location.clone() };
    let mut holding = app.holdings.add(place, past.views);
    let ready = json!({
        "schema": 1, "event": "ready", "group": request.group, "where": location, "volumes": past.volumes,
    });
    lines.event(ready).await;
    let why = tokio::select! {
        why = holding.released() => why,
        () = lines.deserted() => "nobody asks for it any more",
        () = mounted.ended() => "unmounted",
    };
    blocking(move || {
        drop(mounted);
        Ok(())
    })
    .await?;
    drop(holding);
    Ok(json!({"schema": 1, "event": "stopped", "why": why}))
}

fn zone(name: Option<&str>, offset_seconds: i32) -> Result<TimeZone> {
    match name {
        Some(name) => TimeZone::get(name)
            .map_err(|error| Error::usage(format!("no zone {name} is known here")).with_source(error)),
        None => {
            let offset = Offset::from_seconds(offset_seconds);
            offset.map(TimeZone::fixed).map_err(|error| Error::usage("that is no offset").with_source(error))
        }
    }
}

/// A mount there would hide what the receiver stands on, or be taken for part of it.
fn refuse_store(dir: &Path, store: &Path) -> Result<()> {
    let (dir, store) = (dir.canonicalize(), store.canonicalize());
    match (dir, store) {
        (Ok(dir), Ok(store)) if dir.starts_with(&store) || store.starts_with(&dir) => {
            let message = format!("{} is the store, or in it, or holds it", dir.display());
            Err(Error::new(Code::TARGET_EXISTS, message).hint("name another directory"))
        }
        _ => Ok(()),
    }
}
