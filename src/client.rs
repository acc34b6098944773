//! The control API's client: HTTP over a Unix socket.

use std::fmt::Write;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::error::Failure;

/// Asks the process behind a socket.
#[derive(Debug)]
pub(crate) struct Client {
    /// In order of preference; the first that is answered on is asked.
    sockets: Vec<PathBuf>,
}

impl Client {
    /// A client of the first of `sockets` that somebody answers on.
    pub(crate) fn new(sockets: Vec<PathBuf>) -> Self {
        Self { sockets }
    }

    /// A document.
    pub(crate) async fn get(&self, path: &str, query: &[(&str, String)]) -> Result<Value, Failure> {
        self.send(Method::GET, &with_query(path, query), None).await?.document().await
    }

    /// Bytes as they are.
    pub(crate) async fn read(&self, path: &str, query: &[(&str, String)]) -> Result<Answer, Failure> {
        self.send(Method::GET, &with_query(path, query), None).await
    }

    /// Does something; a document tells the result.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(body)).await?.document().await
    }

    /// Does something that takes a while, and tells about it line by line.
    pub(crate) async fn stream(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn send(&self, method: Method, uri: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let (socket, stream) = self.connect().await?;
        let cut = |error: hyper::Error| Failure::caused(format!("no answer from {}", socket.display()), &error);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(cut)?;
        // Its end shows in the answer.
        tokio::spawn(connection);
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header("host", "backspool")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| Failure::caused("cannot ask", &error))?;
        let response = sender.send_request(request).await.map_err(|_| cut_off(&socket))?;
        let answer = Answer { response, buffer: BytesMut::new(), socket };
        if answer.response.status().is_success() { Ok(answer) } else { Err(answer.refusal().await) }
    }

    async fn connect(&self) -> Result<(PathBuf, UnixStream), Failure> {
        let mut tried = Vec::new();
        for socket in &self.sockets {
            match UnixStream::connect(socket).await {
                Ok(stream) => return Ok((socket.clone(), stream)),
                Err(error) => tried.push(format!("{} ({})", socket.display(), short(&error))),
            }
        }
        Err(Failure::new("E1602", format!("nobody answers on {}", tried.join(" or on "))).advise(
            "start `backspool serve DIR`, `backspool protect` or `backspool agent`, or name its socket with --socket",
        ))
    }
}

/// What was answered, as it arrives.
#[derive(Debug)]
pub(crate) struct Answer {
    response: Response<Incoming>,
    /// What arrived of a line that is not whole.
    buffer: BytesMut,
    socket: PathBuf,
}

impl Answer {
    /// How many bytes there will be, if that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        self.response.body().size_hint().exact()
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.response.frame().await {
            let frame = frame.map_err(|_| cut_off(&self.socket))?;
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The next line's document; `None` at the end. An error document is an error.
    pub(crate) async fn line(&mut self) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return parse(&line).map(Some);
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                return Err(Failure::new("E0103", format!("a line from {} never ends", self.socket.display())));
            }
            match self.chunk().await? {
                Some(data) => self.buffer.extend_from_slice(&data),
                None if self.buffer.trim_ascii().is_empty() => return Ok(None),
                None => return parse(&std::mem::take(&mut self.buffer)).map(Some),
            }
        }
    }

    async fn document(mut self) -> Result<Value, Failure> {
        self.line().await?.ok_or_else(|| cut_off(&self.socket))
    }

    /// Why the answer is not a success.
    async fn refusal(mut self) -> Failure {
        let status = self.response.status();
        let socket = self.socket.display().to_string();
        match self.line().await {
            Err(failure) if failure != not_understood() => failure,
            _ if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) => Failure::new(
                "E1604",
                format!("what answers on {socket} does not answer this verb"),
            )
            .advise(
                "the agent answers status, mark and allow, the receiver everything else: name its socket with --socket",
            ),
            _ => Failure::new("E0103", format!("what answers on {socket} says {status} and no reason")),
        }
    }
}

/// A line is a document or an error.
fn parse(line: &[u8]) -> Result<Value, Failure> {
    let document = serde_json::from_slice::<Value>(line).ok().filter(Value::is_object).ok_or_else(not_understood)?;
    match Failure::from_document(&document) {
        Some(failure) => Err(failure),
        None => Ok(document),
    }
}

fn not_understood() -> Failure {
    Failure::new("E0103", "the answer is not a document")
}

fn cut_off(socket: &std::path::Path) -> Failure {
    Failure::new("E1603", format!("the answer from {} was cut off", socket.display()))
        .advise("see why the process behind it stopped, start it and call again")
}

fn short(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such socket",
        std::io::ErrorKind::ConnectionRefused => "nobody listens",
        std::io::ErrorKind::PermissionDenied => "permission denied",
        _ => "cannot connect",
    }
}

fn with_query(path: &str, query: &[(&str, String)]) -> String {
    let mut uri = path.to_owned();
    for (place, (key, value)) in query.iter().enumerate() {
        uri.push(if place == 0 { '?' } else { '&' });
        uri.push_str(key);
        uri.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => uri.push(char::from(byte)),
                // Writing to a string does not fail.
                _ => _ = write!(uri, "%{byte:02X}"),
            }
        }
    }
    uri
}

/// Longer than any document: a status of many groups, or a million points.
const LINE_BYTES_MAX: usize = 512 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_escaped() {
        let query = [("group", "db".to_owned()), ("at", "mark:a&b=c %ä".to_owned())];
        assert_eq!(with_query("/v1/points", &query), "/v1/points?group=db&at=mark%3Aa%26b%3Dc%20%25%C3%A4");
        assert_eq!(with_query("/v1/status", &[]), "/v1/status");
    }
}
