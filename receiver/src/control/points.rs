//! `GET /v1/points?group&since&until&limit`

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use journal::codec::GapReason;
use journal::store::{Version, When, WhyNoPoints};
use journal::types::WallTime;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{Reply, blocking, point};
use super::{App, query, when};
use crate::error::Result;
use crate::time::rfc3339;

const LIMIT_DEFAULT: usize = 1000;
/// What fits into one document that a client still reads.
const LIMIT_MAX: usize = 1_000_000;

#[derive(Deserialize)]
pub(super) struct Request {
    group: String,
    since: Option<String>,
    until: Option<String>,
    limit: Option<usize>,
}

/// The timeline, ascending, the newest `limit` points.
pub(super) async fn points(
    State(app): State<App>,
    request: std::result::Result<Query<Request>, QueryRejection>,
) -> Reply {
    let request = query(request)?;
    blocking(move || {
        let version = app.groups.by_name(&request.group)?.library()?.now();
        let (since, until) = (instant(&version, &request.since)?, instant(&version, &request.until)?);
        let limit = request.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
        let (points, truncated) = version.points(since, until, limit)?;
        let points: Vec<Value> = points.iter().map(point).collect();
        let gaps = gaps(&version, since, until)?;
        let resizes = resizes(&version, since, until);
        Ok(Json(json!({"schema": 1, "points": points, "truncated": truncated, "gaps": gaps, "resizes": resizes})))
    })
    .await
}

/// The time that is meant; `None`: no bound.
fn instant(version: &Arc<Version>, text: &Option<String>) -> Result<Option<WallTime>> {
    let Some(text) = text else { return Ok(None) };
    Ok(match when::parse(text)? {
        When::Latest => None,
        When::At(time) => Some(time),
        When::Seq(seq) => version.time_of(seq)?,
        When::Mark(_) => Some(when::resolve(version, "the group", text, false)?.time),
    })
}

fn gaps(version: &Version, since: Option<WallTime>, until: Option<WallTime>) -> Result<Vec<Value>> {
    let all = version.gaps()?.into_iter().filter(|gap| {
        let ended_before = gap.to.is_some_and(|(_, to)| since.is_some_and(|since| to < since));
        !ended_before && until.is_none_or(|until| gap.from_time <= until)
    });
    let json = all.map(|gap| {
        json!({
            "from_seq": gap.from.number(),
            "to_seq": gap.to.and_then(|(seq, _)| seq.before()).map(|seq| seq.number()),
            "from": rfc3339(gap.from_time),
            "to": gap.to.map(|(_, to)| rfc3339(to)),
            "reason": reason(gap.why),
            "text": gap.text,
        })
    });
    Ok(json.collect())
}

fn resizes(version: &Version, since: Option<WallTime>, until: Option<WallTime>) -> Vec<Value> {
    let all = version.timeline().resizes().into_iter();
    let within =
        all.filter(|one| since.is_none_or(|since| since <= one.time) && until.is_none_or(|until| one.time <= until));
    let json = within.map(|one| {
        json!({
            "seq": one.seq.number(),
            "time": rfc3339(one.time),
            "volume": one.volume,
            "from_bytes": one.from.bytes(),
            "to_bytes": one.to.bytes(),
        })
    });
    json.collect()
}

fn reason(why: WhyNoPoints) -> &'static str {
    let WhyNoPoints::Gap(reason) = why else { return "rollback" };
    match reason {
        GapReason::FirstCopy => "first copy",
        GapReason::UncleanStart => "unclean start",
        GapReason::SpoolFull => "spool full",
        GapReason::SourceError => "source error",
        GapReason::TrackerLost => "tracker lost",
        GapReason::ChangedWhileStopped => "changed while stopped",
    }
}
