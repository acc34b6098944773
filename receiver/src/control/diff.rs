//! `POST /v1/diff {group, volume?, from, to, nearest, map}`, answered with lines.

use std::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use journal::types::{Extent, Sectors};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{Lines, blocking, point, stream};
use super::{App, document, when};
use crate::diff::{Diff, Differing, Sizes};
use crate::error::{Code, Error, Result};

/// Extents on one line.
const EXTENTS_A_LINE: usize = 4096;

#[derive(Deserialize)]
struct Request {
    group: String,
    volume: Option<String>,
    from: String,
    to: String,
    #[serde(default)]
    nearest: bool,
    /// Whether the extents are told too, in lines of their own.
    #[serde(default)]
    map: bool,
}

/// What differs between two points.
pub(super) async fn diff(State(app): State<App>, body: Bytes) -> Response {
    match document::<Request>(&body) {
        Ok(request) => stream(|lines| blocking(move || run(&app, &request, lines))),
        Err(error) => error.into_response(),
    }
}

fn run(app: &App, request: &Request, mut lines: Lines) -> Result<Value> {
    let started = Instant::now();
    let version = app.groups.by_name(&request.group)?.library()?.now();
    let at = |text: &str| when::resolve(&version, &request.group, text, request.nearest);
    let (from, to) = (at(&request.from)?, at(&request.to)?);
    let only = request.volume.as_deref();
    let diff = Diff::new(version.view(from.seq)?, version.view(to.seq)?, only);
    let volumes = diff.volumes();
    if let Some(name) = only.filter(|_| volumes.is_empty()) {
        let message = format!("{} has no volume {name} at either point", request.group);
        return Err(Error::new(Code::NO_VOLUME, message).hint(format!("backspool status {}", request.group)));
    }
    lines.plan(diff.bytes(), json!({"from": point(&from), "to": point(&to), "bytes_total": diff.bytes()}));
    let lines = Mutex::new(lines);
    let mut told = Map { lines: &lines, volumes: &volumes, volume: 0, extents: Vec::new() };
    let tick = |bytes| {
        let mut lines = held(&lines);
        lines.progress(bytes, Instant::now());
        if lines.is_deserted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let found = |volume, extent| if request.map { told.add(volume, extent) } else { Ok(()) };
    let differing = diff.run(&tick, found)?;
    told.send()?;
    let sum = |part: fn(&Differing) -> u64| differing.iter().map(part).sum::<u64>();
    let volumes: Vec<Value> =
        volumes.iter().zip(&differing).map(|(sizes, differing)| volume(sizes, differing)).collect();
    Ok(json!({
        "schema": 1, "from": point(&from), "to": point(&to), "bytes": sum(|one| one.bytes),
        "blocks": sum(|one| one.blocks), "extents_total": sum(|one| one.extents), "volumes": volumes,
        "seconds": started.elapsed().as_secs_f64(),
    }))
}

fn volume(sizes: &Sizes, differing: &Differing) -> Value {
    let bytes = |size: Option<Sectors>| size.map(Sectors::bytes);
    json!({
        "name": sizes.name, "from_bytes": bytes(sizes.from), "to_bytes": bytes(sizes.to), "bytes": differing.bytes,
        "blocks": differing.blocks, "extents_total": differing.extents,
    })
}

/// The extents, as many on a line as make the line worth it.
struct Map<'a> {
    lines: &'a Mutex<Lines>,
    volumes: &'a [Sizes],
    volume: usize,
    extents: Vec<[u64; 2]>,
}

impl Map<'_> {
    fn add(&mut self, volume: usize, extent: Extent) -> Result<()> {
        if volume != self.volume || self.extents.len() == EXTENTS_A_LINE {
            self.send()?;
            self.volume = volume;
        }
        self.extents.push([extent.byte(), extent.bytes()]);
        Ok(())
    }

    fn send(&mut self) -> Result<()> {
        let extents = std::mem::take(&mut self.extents);
        match self.volumes.get(self.volume).filter(|_| !extents.is_empty()) {
            Some(sizes) => {
                held(self.lines).part(&json!({"event": "extents", "volume": sizes.name, "extents": extents}))
            }
            None => Ok(()),
        }
    }
}

fn held(lines: &Mutex<Lines>) -> MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(PoisonError::into_inner)
}
