//! `GET /v1/status?group=`

use std::time::Instant;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use journal::disk::RESERVE_BYTES;
use serde::Deserialize;
use serde_json::json;

use super::reply::{Reply, blocking};
use super::{App, query};
use crate::status::document;
use crate::time;

#[derive(Deserialize)]
pub(super) struct Request {
    group: Option<String>,
}

/// How the groups are.
pub(super) async fn status(State(app): State<App>, request: Result<Query<Request>, QueryRejection>) -> Reply {
    let request = query(request)?;
    blocking(move || {
        let groups = match &request.group {
            Some(name) => vec![app.groups.by_name(name)?],
            None => app.groups.all(),
        };
        let (id, now) = (app.id.to_string(), Instant::now());
        let documents = groups.iter().map(|group| {
            let mut told = document(group, app.groups.image(group.id()).as_ref(), &id, now)?;
            told["last_drill"] = app.drills.last(group.id()).map(|drill| drill.document()).into();
            told["exports"] = app.holdings.documents(group.id(), time::now()).into();
            Ok(told)
        });
        let groups = documents.collect::<crate::error::Result<Vec<_>>>()?;
        let reserve = json!({"bytes": RESERVE_BYTES, "whole": app.groups.catalog().dir().reserve().is_whole()});
        Ok(Json(json!({"schema": 1, "groups": groups, "reserve": reserve})))
    })
    .await
}
