//! `GET /v1/read?group&volume&at&offset&length`: bytes of a view as they are.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use journal::store::{View, VolumeInfo};
use journal::types::Extent;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::reply::{Chunks, blocking};
use super::{App, query, volume, when};
use crate::error::{Error, Result};

/// Sectors read at once: 1 MiB.
const PIECE_SECTORS: u64 = 2048;
/// Pieces between reading and sending.
const AHEAD: usize = 4;

#[derive(Deserialize)]
pub(super) struct Request {
    group: String,
    volume: Option<String>,
    at: String,
    offset: Option<u64>,
    length: Option<u64>,
}

/// The whole volume, or `length` bytes from `offset`, both multiples of 512. Damage in the first piece is an error document; behind it, the answer
/// is cut off: what was sent cannot be taken back.
pub(super) async fn read(
    State(app): State<App>,
    request: std::result::Result<Query<Request>, QueryRejection>,
) -> Result<Response> {
    let request = query(request)?;
    let (view, volume, extent, first) = blocking(move || {
        let version = app.groups.by_name(&request.group)?.library()?.now();
        let point = when::resolve(&version, &request.group, &request.at, false)?;
        let view = version.view(point.seq)?;
        let volume = volume(&view, &request.group, request.volume.as_deref())?;
        let extent = asked(&volume, request.offset.unwrap_or(0), request.length)?;
        let first = extent.and_then(|extent| extent.chunks(PIECE_SECTORS).next());
        let first = first.map(|piece| read_piece(&view, &volume, piece)).transpose()?;
        Ok((view, volume, extent, first))
    })
    .await?;
    let length = extent.map_or(0, |extent| extent.bytes());
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || send(&view, &volume, extent, first, &sender));
    let headers =
        [(header::CONTENT_TYPE, "application/octet-stream".to_owned()), (header::CONTENT_LENGTH, length.to_string())];
    Ok((headers, Body::new(Chunks(receiver))).into_response())
}

fn asked(volume: &VolumeInfo, offset: u64, length: Option<u64>) -> Result<Option<Extent>> {
    let size = volume.size.bytes();
    let rest = size.checked_sub(offset).ok_or_else(|| Error::usage(format!("the volume ends at byte {size}")))?;
    let length = length.unwrap_or(rest);
    if length > rest {
        return Err(Error::usage(format!("the volume ends at byte {size}")));
    }
    match Extent::of_bytes(offset, length) {
        None if length > 0 => Err(Error::usage("offset and length are multiples of 512")),
        extent => Ok(extent),
    }
}

fn send(
    view: &View,
    volume: &VolumeInfo,
    extent: Option<Extent>,
    first: Option<Bytes>,
    sender: &mpsc::Sender<std::io::Result<Bytes>>,
) {
    // A client that has gone needs no more.
    if first.is_some_and(|first| sender.blocking_send(Ok(first)).is_err()) {
        return;
    }
    for piece in extent.into_iter().flat_map(|extent| extent.chunks(PIECE_SECTORS)).skip(1) {
        let chunk = read_piece(view, volume, piece);
        let failed = chunk.is_err();
        let chunk = chunk.map_err(|error| {
            tracing::error!(volume = volume.name, %error, "a read of a view failed");
            std::io::Error::other(error)
        });
        if sender.blocking_send(chunk).is_err() || failed {
            return;
        }
    }
}

fn read_piece(view: &View, volume: &VolumeInfo, piece: Extent) -> Result<Bytes> {
    let mut buf = vec![0; usize::try_from(piece.bytes()).unwrap_or(0)];
    view.read(volume.number, piece.byte(), &mut buf)?;
    Ok(Bytes::from(buf))
}
