//! `GET /v1/retention?group`, `POST /v1/retention {group, every_write_seconds, …, trust_clock, dry_run}`

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use bytes::Bytes;
use journal::store::Cleaner;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::reply::{Reply, blocking};
use super::{App, document, query};
use crate::error::{Error, Result};
use crate::group::Group;
use crate::retention::{NAMES, Resolved, Wanted};
use crate::time::rfc3339;

#[derive(Deserialize)]
pub(super) struct Shown {
    group: String,
}

#[derive(Deserialize)]
struct Set {
    group: String,
    #[serde(flatten)]
    wanted: Values,
    #[serde(default)]
    trust_clock: bool,
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
struct Values {
    every_write_seconds: Option<u64>,
    every_minute_seconds: Option<u64>,
    hourly_seconds: Option<u64>,
    marks_seconds: Option<u64>,
}

/// What is kept, where each value came from, and what there is to clean.
pub(super) async fn shown(State(app): State<App>, request: std::result::Result<Query<Shown>, QueryRejection>) -> Reply {
    let request = query(request)?;
    blocking(move || {
        let group = app.groups.by_name(&request.group)?;
        let resolved = app.retention.resolved(&group);
        Ok(Json(told(&app, &group, resolved.as_ref())?))
    })
    .await
}

/// Sets what a group keeps, or shows what that would come to.
pub(super) async fn set(State(app): State<App>, body: Bytes) -> Reply {
    let Set { group, wanted, trust_clock, dry_run } = document(&body)?;
    let Values { every_write_seconds, every_minute_seconds, hourly_seconds, marks_seconds } = wanted;
    let wanted = Wanted { every_write_seconds, every_minute_seconds, hourly_seconds, marks_seconds };
    blocking(move || {
        let group = app.groups.by_name(&group)?;
        if trust_clock && !dry_run {
            app.retention.trust_clock()?;
        }
        let old = app.retention.resolved(&group);
        let new = app.retention.resolved_with(&group, &wanted);
        if let Some(new) = &new {
            new.check()?;
        }
        let shortens = new.as_ref().is_some_and(|new| old.is_none_or(|old| !new.policy().covers(&old.policy())));
        let left =
            new.as_ref().filter(|_| !wanted.is_empty()).map(|new| left(&app, &group, new)).transpose()?.flatten();
        if !wanted.is_empty() && !dry_run {
            app.groups.catalog().set_retention(group.id(), &wanted)?;
        }
        app.retention.wake();
        let mut told = told(&app, &group, new.as_ref())?;
        told["shortens"] = json!(shortens);
        told["applied"] = json!(!dry_run);
        told["left"] = left.unwrap_or(Value::Null);
        Ok(Json(told))
    })
    .await
}

/// What would be left at once; `None`: nothing goes.
fn left(app: &App, group: &Group, new: &Resolved) -> Result<Option<Value>> {
    let Ok(now) = app.retention.now()? else { return Ok(None) };
    let version = group.library()?.now();
    let horizon = version.covered()?.map(|(from, _)| from);
    let kept = Cleaner::new(Arc::clone(&version)).thinning(&new.policy(), now, &group.pins().all(&version))?;
    Ok(kept.map(|kept| {
        let oldest = kept.points.first().map_or(kept.upto_time, |point| point.time);
        json!({"points": kept.points.len(), "every_write_from": rfc3339(kept.upto_time), "horizon": rfc3339(oldest), "horizon_before": horizon.map(rfc3339)})
    }))
}

fn told(app: &App, group: &Group, resolved: Option<&Resolved>) -> Result<Value> {
    let snapshot = group.snapshot();
    let library = snapshot.library.ok_or_else(|| Error::new(crate::Code::DAMAGED, "the journal cannot be opened"))?;
    let version = library.now();
    let kept = version.timeline().kept();
    let clock = app.retention.now()?;
    let keeps = resolved.map(|resolved| {
        let of = |(name, (seconds, origin)): (&str, (u64, crate::retention::Origin))| {
            (name.to_owned(), json!({"seconds": seconds, "from": origin.name()}))
        };
        NAMES.into_iter().zip(resolved.values).map(of).collect::<Map<_, _>>()
    });
    let cleaned = &snapshot.cleaned;
    Ok(json!({
        "schema": 1,
        "group": group.name().as_str(),
        "keeps": keeps,
        "horizon": version.covered()?.map(|(from, _)| rfc3339(from)),
        "every_write_from": kept.map(|kept| rfc3339(kept.upto_time)),
        "points": kept.map_or(0, |kept| kept.points.len()),
        "store_bytes": version.bytes(),
        "thinned_bytes": cleaned.thinned_bytes,
        "dead_bytes": cleaned.dead_bytes,
        "rewritten_bytes": cleaned.rewritten_bytes,
        "freed_bytes": cleaned.freed_bytes,
        "clock": {"trusted": clock.is_ok(), "why": clock.err()},
        "why": cleaned.why,
    }))
}
