//! `POST /v1/verify {group}`, answered with lines: all that is kept is read and checked, and what keeps a group from going on is mended.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use journal::log::Finding;
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{Lines, blocking, stream};
use super::{App, document};
use crate::error::{Code, Error, Result};
use crate::group::Group;
use crate::time::now;

#[derive(Deserialize)]
struct Request {
    group: String,
}

/// Reads and checks segments, indexes and the replica image.
pub(super) async fn verify(State(app): State<App>, body: Bytes) -> Response {
    match document::<Request>(&body) {
        Ok(request) => stream(|lines| run(app, request, lines)),
        Err(error) => error.into_response(),
    }
}

async fn run(app: App, request: Request, lines: Lines) -> Result<Value> {
    let group = app.groups.by_name(&request.group)?;
    let _alone = group.reserve("a verification")?;
    let lines = Arc::new(Mutex::new(lines));
    let (mut bytes, mut findings) = checked(&group, &lines).await?;
    if let Some(image) = app.groups.image(group.id()) {
        match image.check().await {
            Ok((compared, differing)) => {
                bytes += compared;
                findings.extend(differing);
            }
            Err(error) => findings.push(damage("the replica image", &error.to_string())),
        }
    }
    // After the image: it has noted by now that the journal ends before what it holds.
    if group.damage().is_some() {
        match group.mend().await {
            Ok(mended) => {
                let (_, left) = checked(&group, &lines).await?;
                let is_mended = group.damage().is_none();
                findings.iter_mut().for_each(|finding| finding.mended = is_mended && !left.contains(finding));
                findings.extend(mended);
            }
            Err(error) => findings.push(damage("the journal", &format!("it could not be mended: {error}"))),
        }
    }
    if findings.is_empty() {
        group.verified(now());
    }
    let findings: Vec<Value> = findings
        .iter()
        .map(|finding| json!({"where": finding.place, "what": finding.what, "mended": finding.mended}))
        .collect();
    Ok(json!({"schema": 1, "ok": findings.is_empty(), "bytes_checked": bytes, "findings": findings}))
}

async fn checked(group: &Group, lines: &Arc<Mutex<Lines>>) -> Result<(u64, Vec<Finding>)> {
    let (group, lines) = (group.clone(), Arc::clone(lines));
    blocking(move || journal(&group, &mut lines.lock().unwrap_or_else(PoisonError::into_inner))).await
}

/// The journal; what was found when it was opened counts too, but a torn tail that was cut is no damage.
fn journal(group: &Group, lines: &mut Lines) -> Result<(u64, Vec<Finding>)> {
    let snapshot = group.snapshot();
    let mut findings: Vec<Finding> = snapshot.findings.into_iter().filter(|finding| !finding.mended).collect();
    let Some(library) = snapshot.library else {
        let why = snapshot.progress.fault.map_or_else(String::new, |fault| fault.why().to_owned());
        return Ok((0, vec![damage("the journal", &why)]));
    };
    let version = library.now();
    lines.plan(version.bytes(), json!({"bytes_total": version.bytes()}));
    let mut done = 0;
    let verified = version.verify(|total| {
        lines.progress(total.saturating_sub(done), Instant::now());
        done = total;
        if lines.is_deserted() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if lines.is_deserted() {
        return Err(Error::new(Code::FAILED, "the verification was interrupted"));
    }
    for finding in verified.findings {
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    Ok((verified.bytes, findings))
}

fn damage(place: &str, what: &str) -> Finding {
    Finding { place: place.to_owned(), what: what.to_owned(), mended: false }
}
