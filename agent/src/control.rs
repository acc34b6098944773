//! Answers on the agent's socket: HTTP and JSON, one handler a verb.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use journal::disk::RESERVE_BYTES;
use journal::types::{Seq, WallTime};
use journal::wire::{AgentState, Pin};
use local::{ListenError, SocketFile};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::capture::{Clock, SystemClock};
use crate::run::{ALLOW_MAX, Condition, Group, Link, Unmarked};
use crate::source::Storage;
use crate::{Error, ErrorKind, Result};

/// More than this of changes that are not durable is `behind`, in seconds.
const BEHIND: f64 = 1.0;

/// The listening socket. Stopped, its file is gone.
#[derive(Debug)]
pub(crate) struct Control {
    file: SocketFile,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

#[derive(Clone)]
struct Answers {
    groups: Vec<Arc<Group>>,
    receiver: Pin,
}

#[derive(Deserialize)]
struct Which {
    group: Option<String>,
}

#[derive(Deserialize)]
struct MarkRequest {
    group: String,
    name: String,
    lock_seconds: Option<u64>,
}

#[derive(Deserialize)]
struct AllowRequest {
    group: String,
    for_seconds: u64,
}

#[derive(Deserialize)]
struct GiveUpRequest {
    group: String,
}

impl Control {
    /// Listens on `path`. The file of an agent that was killed is replaced; one that is answered on is another's.
    pub(crate) fn start(path: &Path, receiver: Pin, groups: Vec<Arc<Group>>) -> Result<Self> {
        let (listener, file) = local::listen(path).map_err(cannot_listen)?;
        let listener = UnixListener::from_std(listener)?;
        let routes = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/mark", post(mark))
            .route("/v1/allow", post(allow))
            .route("/v1/give-up", post(give_up));
        let routes = routes.with_state(Answers { groups, receiver });
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = axum::serve(listener, routes).with_graceful_shutdown(async { drop(stopped.await) });
        Ok(Self { file, stop, task: tokio::spawn(async { serving.await }) })
    }

    /// Answers nobody any more.
    pub(crate) async fn stop(self) {
        // While somebody answers: who finds it dead may replace it.
        drop(self.file);
        // A client that keeps its connection open is not waited for.
        drop(self.stop);
        self.task.abort();
        let _ = self.task.await;
    }
}

fn cannot_listen(error: ListenError) -> Error {
    match error {
        ListenError::InUse(path) => Error::locked("another process answers there").with_path(path),
        ListenError::NotASocket(path) => Error::invalid("this is there, and no socket").with_path(path),
        ListenError::Io { path, source } => Error::from(source).context("cannot listen there").with_path(path),
    }
}

async fn status(State(answers): State<Answers>, Query(which): Query<Which>) -> Response {
    let wanted = answers.groups.iter().filter(|group| which.group.as_deref().is_none_or(|name| name == group.name()));
    let groups: Vec<Value> = wanted.map(|group| described(group, answers.receiver)).collect();
    match which.group {
        Some(name) if groups.is_empty() => refused(no_group(&name)),
        _ => {
            let reserve = answers.groups.first().map(|group| group.reserve());
            let reserve = reserve.map(|reserve| json!({"bytes": RESERVE_BYTES, "whole": reserve.is_whole()}));
            Json(json!({"schema": 1, "groups": groups, "reserve": reserve})).into_response()
        }
    }
}

/// A group as the agent knows it; what only the receiver knows is null.
fn described(group: &Group, receiver: Pin) -> Value {
    let link = group.link().borrow().clone();
    let Condition { state, why, next } = group.condition();
    let spool = group.spool_status();
    let report = group.report();
    let age = report.oldest.map_or(0.0, |age| age.seconds());
    let progress = report.progress;
    let shown = match state {
        AgentState::Halted => "halted",
        AgentState::Tracking => "tracking",
        _ if !link.connected => "stopped",
        AgentState::Seeding => "seeding",
        AgentState::Resync => "resync",
        AgentState::Spooling => "spooling",
        AgentState::Running if age > BEHIND => "behind",
        AgentState::Running => "live",
    };
    let why: Vec<String> = not_open(&link).into_iter().chain(Some(why).filter(|why| !why.is_empty())).collect();
    let why = (!why.is_empty()).then(|| why.join("; "));
    let seq = |seq: Option<Seq>| seq.map(Seq::number);
    let durable = seq(link.durable.map(|head| head.seq));
    let sent = seq(group.sent_to());
    let rpo = group.rpo();
    let volumes: Vec<Value> = group
        .volumes()
        .iter()
        .map(|volume| {
            let size = volume.source.size().bytes();
            json!({"name": volume.name, "size_bytes": size, "tracker": "tap", "image": null})
        })
        .collect();
    json!({
        "name": group.name(),
        "state": shown,
        "rpo_seconds": link.connected.then_some(age),
        "lag": {"p50_seconds": null, "p99_seconds": null, "max_seconds": null},
        "captured": spool.as_ref().and_then(|spool| seq(spool.captured.0)),
        "receivers": [{"id": receiver.to_string(), "sent": sent, "received": null, "durable": durable, "applied": null}],
        "why": why,
        "window": {"from": null, "to": null},
        "spool": {"bytes": spool.as_ref().map(|spool| spool.bytes), "limit_bytes": spool.as_ref().map(|spool| spool.limit_bytes)},
        "store_bytes": null,
        "volumes": volumes,
        "clients": group.clients(),
        "allowed_seconds": group.allowed_for().map(|left| left.as_secs_f64()),
        "rollback": group.rolling().map(|rolling| json!({
            "target_seq": rolling.target.number(), "done_bytes": rolling.done_bytes, "total_bytes": rolling.total_bytes,
        })),
        "flush": if group.flushes_wait() { "durable" } else { "local" },
        "limit_bytes_per_second": group.limit().bytes_per_second(),
        "rpo": {
            "warn_seconds": rpo.warn.map(|age| age.as_secs_f64()),
            "error_seconds": rpo.error.map(|age| age.as_secs_f64()),
        },
        "next": next.map(|(state, seconds)| json!({"state": state, "seconds": seconds})),
        "progress": {"done_bytes": progress.done_bytes, "total_bytes": progress.total_bytes},
        "gaps_total": null,
        "last_verified": null,
    })
}

/// Why the receiver does not have the group open.
fn not_open(link: &Link) -> Option<String> {
    let refused = || link.refused.as_ref().map(ToString::to_string);
    let why = || link.no_session.clone().or_else(refused).unwrap_or_else(|| "no session with the receiver".to_owned());
    (!link.connected).then(why)
}

async fn mark(State(answers): State<Answers>, Json(asked): Json<MarkRequest>) -> Response {
    let Some(group) = answers.groups.iter().find(|group| group.name() == asked.group) else {
        return refused(no_group(&asked.group));
    };
    match make_mark(Arc::clone(group), asked).await {
        Ok(document) => Json(document).into_response(),
        Err(Unmarked::Failed(error)) => refused(error),
        Err(Unmarked::NoPoints { why, hint }) => {
            let document = json!({"type": "error", "code": "E1301", "exit": 13, "message": why, "try": hint});
            (StatusCode::NOT_FOUND, Json(document)).into_response()
        }
    }
}

/// Lets the receiver write to the sources for a while, or not any more.
async fn allow(State(answers): State<Answers>, Json(asked): Json<AllowRequest>) -> Response {
    let AllowRequest { group: name, for_seconds } = asked;
    let Some(group) = answers.groups.iter().find(|group| group.name() == name) else {
        return refused(no_group(&name));
    };
    let time = Duration::from_secs(for_seconds);
    if time > ALLOW_MAX {
        return refused(Error::invalid(format!("at most {} s are allowed at once", ALLOW_MAX.as_secs())));
    }
    group.allow(time);
    tracing::warn!(group = name, for_seconds, "the receiver may write to the sources");
    let micros = for_seconds.saturating_mul(1_000_000);
    let until = (for_seconds > 0).then(|| rfc3339(WallTime(SystemClock.wall().0.saturating_add(micros))));
    Json(json!({"schema": 1, "group": name, "allowed_seconds": for_seconds, "until": until})).into_response()
}

/// Ends a live rollback that cannot be carried to its end.
async fn give_up(State(answers): State<Answers>, Json(asked): Json<GiveUpRequest>) -> Response {
    let GiveUpRequest { group: name } = asked;
    let Some(group) = answers.groups.iter().find(|group| group.name() == name) else {
        return refused(no_group(&name));
    };
    let group = Arc::clone(group);
    let given_up = spawn_blocking(move || {
        let busy = || Error::locked("the receiver is at it just now: it can be given up while it does not go on");
        group.take_turn().ok_or_else(busy)?.give_up()
    });
    match given_up.await {
        Ok(Ok(target)) => Json(json!({"schema": 1, "group": name, "given_up_seq": target.number()})).into_response(),
        Ok(Err(error)) => refused(error),
        Err(error) => refused(Error::unavailable("a thread failed").with_source(error)),
    }
}

/// Records the mark and waits until it is durable.
async fn make_mark(group: Arc<Group>, asked: MarkRequest) -> std::result::Result<Value, Unmarked> {
    let gone = || Error::unavailable("the receiver is not connected");
    let mut link = group.link();
    if !link.borrow().connected {
        return Err(Unmarked::Failed(gone()));
    }
    let MarkRequest { name, lock_seconds, .. } = asked;
    let locked =
        lock_seconds.map(|seconds| WallTime(SystemClock.wall().0.saturating_add(seconds.saturating_mul(1_000_000))));
    let (marking, label) = (Arc::clone(&group), name.clone());
    let marked = spawn_blocking(move || {
        let seq = marking.mark(&label, locked)?;
        Ok((seq, marking.time_of(seq).map_err(Unmarked::Failed)?))
    });
    let failed = |error| Unmarked::Failed(Error::unavailable("a thread failed").with_source(error));
    let (seq, time) = marked.await.map_err(failed)??;
    let reached = link.wait_for(|link| !link.connected || link.durable.is_some_and(|head| head.seq >= seq)).await;
    match reached {
        Ok(link) if link.durable.is_some_and(|head| head.seq >= seq) => {}
        _ => return Err(Unmarked::Failed(gone().context("the mark is made, but not known to be durable"))),
    }
    let time = time.map(rfc3339);
    Ok(json!({"schema": 1, "point": {"seq": seq.number(), "time": time, "class": "write", "mark": name}}))
}

/// As `docs` of the command line say: UTC, microseconds.
fn rfc3339(time: WallTime) -> String {
    let at = i64::try_from(time.0).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
    at.map_or_else(|| time.to_string(), |at| format!("{at:.6}"))
}

fn no_group(name: &str) -> Error {
    Error::not_found(format!("this agent protects no group {name}"))
}

/// The error document, with the code and exit code of its kind.
fn refused(error: Error) -> Response {
    let (code, exit, status) = match error.kind() {
        ErrorKind::NotFound => ("E1001", 10, StatusCode::NOT_FOUND),
        ErrorKind::Locked | ErrorKind::Fenced => ("E1101", 11, StatusCode::CONFLICT),
        ErrorKind::Unavailable => ("E1601", 16, StatusCode::SERVICE_UNAVAILABLE),
        ErrorKind::NoSpace => ("E1701", 17, StatusCode::INSUFFICIENT_STORAGE),
        ErrorKind::Invalid => ("E0201", 2, StatusCode::BAD_REQUEST),
        _ => ("E0101", 1, StatusCode::INTERNAL_SERVER_ERROR),
    };
    let document = json!({"type": "error", "code": code, "exit": exit, "message": error.to_string()});
    (status, Json(document)).into_response()
}
