//! `POST /v1/drill {group, volume?, at, nearest, command, scratch_bytes?}`, answered with lines: the view is there until the request is gone.
//! `POST /v1/drilled {id, command_status, open_seconds, command_seconds, why?}` tells what came of it, and ends it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::export::{SCRATCH_BYTES, Wanted, open};
use super::reply::{Lines, Reply, blocking, point, stream};
use super::{App, document};
use crate::drill::{Drill, Stage, stage_dir};
use crate::error::{Code, Error, Result};
use crate::export::{Kind, NbdExport, Place};
use crate::time::now;

#[derive(Deserialize)]
struct Request {
    group: String,
    volume: Option<String>,
    at: String,
    #[serde(default)]
    nearest: bool,
    /// For the record: whoever asks runs it.
    command: String,
    scratch_bytes: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Outcome {
    id: String,
    command_status: Option<i32>,
    open_seconds: Option<f64>,
    command_seconds: Option<f64>,
    why: Option<String>,
}

/// Drills that run, by the name that only who asked for them knows. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Running {
    all: Arc<Mutex<HashMap<String, oneshot::Sender<Told>>>>,
}

/// What came of a drill, and where to say that all of it is over.
#[derive(Debug)]
struct Told {
    outcome: Outcome,
    over: oneshot::Sender<Result<Value>>,
}

impl Running {
    fn begin(&self, id: &str) -> oneshot::Receiver<Told> {
        let (sender, told) = oneshot::channel();
        self.all.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), sender);
        told
    }

    fn take(&self, id: &str) -> Option<oneshot::Sender<Told>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

/// Makes a writable view for a command.
pub(super) async fn drill(State(app): State<App>, body: Bytes) -> Response {
    match document::<Request>(&body) {
        Ok(request) => stream(|lines| run(app, request, lines)),
        Err(error) => error.into_response(),
    }
}

/// What came of the command. Answered once nothing of the drill is left, and it is remembered.
pub(super) async fn drilled(State(app): State<App>, body: Bytes) -> Reply {
    let outcome: Outcome = document(&body)?;
    let gone = || Error::new(Code::FAILED, "that drill is over already").hint("backspool status");
    let told = app.running.take(&outcome.id).ok_or_else(gone)?;
    let (over, result) = oneshot::channel();
    told.send(Told { outcome, over }).map_err(|_| gone())?;
    result.await.map_err(|_| gone())?.map(Json)
}

async fn run(app: App, request: Request, lines: Lines) -> Result<Value> {
    let group = app.groups.by_name(&request.group)?;
    let (opener, command) = (app.clone(), request.command.clone());
    let (stage, mut lines) = blocking(move || set(&opener, &request, lines)).await?;
    let export = Arc::clone(stage.export());
    let served = export.served();
    let mut drill = Drill::of(served.point(), &served.volume().name, &command);
    let location = export.address().to_string();
    let place = Place { group: group.id(), kind: Kind::Nbd, location };
    let mut holding = app.holdings.add(place, Arc::<NbdExport>::clone(&export));
    let id = journal::types::Hash::of(&link::random::<16>()).to_string();
    let told = app.running.begin(&id);
    lines.event(ready(&stage, &id)).await;
    let told = tokio::select! {
        told = told => told.map_err(|_| "it was forgotten"),
        why = holding.released() => Err(why),
        () = lines.deserted() => Err("who ran the command is gone"),
    };
    app.running.take(&id);
    let over = match told {
        Ok(Told { outcome, over }) => {
            drill.command_status = outcome.command_status;
            (drill.open_seconds, drill.command_seconds) = (outcome.open_seconds, outcome.command_seconds);
            drill.why = outcome.why;
            Some(over)
        }
        Err(why) => {
            drill.why = Some(why.to_owned());
            None
        }
    };
    drop(export);
    let drills = app.drills.clone();
    let ended = blocking(move || {
        drop(stage);
        drill.time = now().0;
        let document = result(&drill);
        drills.add(group.id(), drill).map_err(|error| error.context("the drill cannot be remembered"))?;
        Ok(document)
    });
    let ended = ended.await;
    drop(holding);
    match over {
        // Who told is told, and whoever listens has nothing more to hear.
        Some(over) => {
            _ = over.send(ended);
            Ok(json!({"schema": 1, "event": "stopped"}))
        }
        None => ended.map(|_| json!({"schema": 1, "event": "stopped"})),
    }
}

fn set(app: &App, request: &Request, mut lines: Lines) -> Result<(Stage, Lines)> {
    let served = open(
        app,
        &Wanted {
            group: &request.group,
            volume: request.volume.as_deref(),
            at: &request.at,
            nearest: request.nearest,
            scratch_bytes: Some(request.scratch_bytes.unwrap_or(SCRATCH_BYTES)),
        },
    )?;
    let size = served.size_bytes();
    lines.plan(size, json!({"point": point(served.point()), "bytes_total": size}));
    let stage = Stage::set(&served, &stage_dir(app.groups.catalog().dir().path()), now())?;
    Ok((stage, lines))
}

fn ready(stage: &Stage, id: &str) -> Value {
    let served = stage.export().served();
    json!({
        "schema": 1, "event": "ready", "id": id, "point": point(served.point()), "image": stage.image().display().to_string(),
        "uri": stage.export().uri(), "volume": served.volume().name, "size_bytes": served.size_bytes(),
    })
}

fn result(drill: &Drill) -> Value {
    let mut document = json!({"schema": 1});
    if let (Some(result), Value::Object(parts)) = (document.as_object_mut(), drill.document()) {
        result.extend(parts);
    }
    document
}
