//! The control API: HTTP and JSON over a Unix socket, one handler a verb. The command line is its first client.
//!
//! Documents are those of the command line's `--json`. Work that takes a while answers with lines: `{"event":"plan",…}`,
//! `{"event":"progress",…}`, and at last its result or an error.

mod diff;
mod drill;
mod export;
mod invite;
mod mark;
mod mount;
mod points;
mod read;
mod reply;
mod restore;
mod retention;
mod rollback;
pub(crate) mod socket;
mod status;
#[cfg(test)]
mod tests;
mod verify;
mod when;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use axum::routing::{get, post};
use journal::store::{View, VolumeInfo};
use journal::wire::ReceiverId;
use serde::de::DeserializeOwned;

use crate::drill::Drills;
use crate::error::{Code, Error, Result};
use crate::export::Holdings;
use crate::group::Groups;
use crate::retention::Retention;
pub(crate) use drill::Running;
pub(crate) use reply::point;

/// What handlers work with.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) groups: Arc<Groups>,
    /// What is exported and mounted.
    pub(crate) holdings: Holdings,
    /// What came of drills.
    pub(crate) drills: Drills,
    /// Those that run.
    pub(crate) running: Running,
    pub(crate) retention: Arc<Retention>,
    /// Who this receiver is.
    pub(crate) id: ReceiverId,
    /// Where agents reach it.
    pub(crate) listen: SocketAddr,
}

/// All verbs.
pub(crate) fn router(app: App) -> Router {
    Router::new()
        .route("/v1/status", get(status::status))
        .route("/v1/points", get(points::points))
        .route("/v1/read", get(read::read))
        .route("/v1/invite", post(invite::invite))
        .route("/v1/mark", post(mark::mark))
        .route("/v1/restore", post(restore::restore))
        .route("/v1/retention", get(retention::shown).post(retention::set))
        .route("/v1/rollback", post(rollback::rollback))
        .route("/v1/diff", post(diff::diff))
        .route("/v1/verify", post(verify::verify))
        .route("/v1/export", post(export::export))
        .route("/v1/drill", post(drill::drill))
        .route("/v1/drilled", post(drill::drilled))
        .route("/v1/mount", post(mount::mount))
        .route("/v1/release", post(export::release))
        .with_state(app)
}

/// A request's document.
fn document<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| Error::usage("the request makes no sense").with_source(error))
}

/// A request's query.
fn query<T>(query: std::result::Result<Query<T>, QueryRejection>) -> Result<T> {
    query.map(|Query(query)| query).map_err(|error| Error::usage("the query makes no sense").with_source(error))
}

/// The volume of that name, or the only one there is.
fn volume(view: &View, group: &str, name: Option<&str>) -> Result<VolumeInfo> {
    let known = || view.volumes().iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, view.volumes()) {
        (Some(name), volumes) => volumes
            .iter()
            .find(|volume| volume.name == name)
            .cloned()
            .ok_or_else(|| Error::new(Code::NO_VOLUME, format!("{group} has no volume {name} then: {}", known()))),
        (None, [only]) => Ok(only.clone()),
        (None, _) => {
            let message = format!("{group} has several volumes: {}", known());
            Err(Error::new(Code::NO_VOLUME, message).hint(format!("name one: {group}/VOLUME")))
        }
    }
}
