//! Answers: one document, a stream of lines that ends in one, or bytes. An error is a document too.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::Frame;
use journal::store::PointInfo;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::error::{Code, Error, Result};
use crate::time::rfc3339;

/// Time between two lines of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// A document, or why there is none.
pub(super) type Reply = std::result::Result<axum::Json<Value>, Error>;

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self.code().exit() {
            2 => StatusCode::BAD_REQUEST,
            10 | 13 => StatusCode::NOT_FOUND,
            11 | 15 => StatusCode::CONFLICT,
            12 => StatusCode::FORBIDDEN,
            16 => StatusCode::SERVICE_UNAVAILABLE,
            17 => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, axum::Json(self.json())).into_response()
    }
}

/// A point as programs read it.
pub(crate) fn point(point: &PointInfo) -> Value {
    json!({
        "seq": point.seq.number(), "time": rfc3339(point.time), "class": point.class.name(), "mark": point.mark,
    })
}

/// Does what waits for the disk away from the threads that must not wait.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(Error::new(Code::FAILED, "the receiver failed while working on it: see its log")))
}

/// Where a job tells how far it is. The client may have gone: that stops only what asks.
#[derive(Debug)]
pub(super) struct Lines {
    sender: mpsc::Sender<std::result::Result<Bytes, Infallible>>,
    done: u64,
    total: u64,
    told: Option<Instant>,
}

impl Lines {
    /// Whether nobody listens any more.
    pub(super) fn is_deserted(&self) -> bool {
        self.sender.is_closed()
    }

    /// Waits until nobody listens any more.
    pub(super) async fn deserted(&self) {
        self.sender.closed().await;
    }

    /// Something that must not be missed.
    pub(super) async fn event(&mut self, line: Value) {
        // Who asked may have gone.
        let _ = self.sender.send(Ok(Bytes::from(format!("{line}\n")))).await;
    }

    /// What will be done; `details` are the plan's own.
    pub(super) fn plan(&mut self, total: u64, mut details: Value) {
        self.expect(total);
        details["event"] = json!("plan");
        self.send(&details);
    }

    /// How much there will be to do before there is a plan.
    pub(super) fn expect(&mut self, total: u64) {
        (self.done, self.total) = (0, total);
    }

    /// A line that is part of the result: waits for a client that reads slowly. Not for a thread that must not wait.
    pub(super) fn part(&self, line: &Value) -> Result<()> {
        let sent = self.sender.blocking_send(Ok(Bytes::from(format!("{line}\n"))));
        sent.map_err(|_| Error::new(Code::FAILED, "interrupted"))
    }

    /// `bytes` more are done.
    pub(super) fn progress(&mut self, bytes: u64, now: Instant) {
        self.done += bytes;
        if self.told.is_some_and(|told| now.duration_since(told) < PROGRESS_EVERY) {
            return;
        }
        self.told = Some(now);
        self.send(&json!({"event": "progress", "bytes_done": self.done, "bytes_total": self.total}));
    }

    fn send(&self, line: &Value) {
        // A client that reads slowly misses lines of progress; it does not slow the work down.
        let _ = self.sender.try_send(Ok(Bytes::from(format!("{line}\n"))));
    }
}

/// Answers with lines: whatever `job` tells, and at last its result.
pub(super) fn stream<F>(job: impl FnOnce(Lines) -> F) -> Response
where
    F: Future<Output = Result<Value>> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(16);
    let work = job(Lines { sender: sender.clone(), done: 0, total: 0, told: None });
    tokio::spawn(async move {
        let last = work.await.unwrap_or_else(|error| error.json());
        // Who asked may have gone.
        let _ = sender.send(Ok(Bytes::from(format!("{last}\n")))).await;
    });
    ([(header::CONTENT_TYPE, "application/jsonl")], Body::new(Chunks(receiver))).into_response()
}

/// A body that arrives piece by piece. An error cuts the answer off, which the client sees.
pub(super) struct Chunks<E>(pub(super) mpsc::Receiver<std::result::Result<Bytes, E>>);

impl<E> hyper::body::Body for Chunks<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, E>>> {
        self.0.poll_recv(context).map(|next| next.map(|chunk| chunk.map(Frame::data)))
    }
}
