//! `POST /v1/mark {group, name, lock_seconds}`

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use journal::types::WallTime;
use serde::Deserialize;
use serde_json::json;

use super::reply::{Reply, blocking, point};
use super::{App, document, when};
use crate::catalog::Name;
use crate::time::now;

#[derive(Deserialize)]
struct Request {
    group: String,
    name: String,
    lock_seconds: Option<u64>,
}

/// A named point, asked for at the agent; answered when it is durable here.
pub(super) async fn mark(State(app): State<App>, body: Bytes) -> Reply {
    let request: Request = document(&body)?;
    let group = app.groups.by_name(&request.group)?;
    let name = Name::parse(&request.name)?;
    let micros = request.lock_seconds.map(|seconds| seconds.saturating_mul(1_000_000));
    let locked_until = micros.map(|micros| WallTime(now().0.saturating_add(micros)));
    let seq = group.mark(name.as_str(), locked_until).await?;
    blocking(move || {
        let marked = when::resolve(&group.library()?.now(), &request.group, &format!("seq:{seq}"), false)?;
        Ok(Json(json!({"schema": 1, "point": point(&marked)})))
    })
    .await
}
