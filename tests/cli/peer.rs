//! Stands in for the process behind a control socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tempfile::TempDir;

use crate::call::{Call, call_at};

/// What was asked of a [`Peer`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) body: Value,
}

/// What a [`Peer`] answers.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: String,
    /// Says that there is more, and hangs up.
    pub(crate) cut: bool,
}

impl Reply {
    /// A success with these lines.
    pub(crate) fn lines(lines: &[Value]) -> Self {
        let body = lines.iter().map(|line| format!("{line}\n")).collect();
        Self { status: 200, body, cut: false }
    }

    /// This status, with this text.
    pub(crate) fn status(status: u16, body: impl ToString) -> Self {
        Self { status, body: body.to_string(), cut: false }
    }
}

/// A process behind a control socket, of few words.
pub(crate) struct Peer {
    dir: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Peer {
    /// One that gives these answers in turn, the last one for ever.
    pub(crate) fn answering(replies: Vec<Reply>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        std::thread::spawn(move || {
            for (turn, stream) in listener.incoming().enumerate() {
                let reply = &replies[turn.min(replies.len() - 1)];
                // A client that leaves early is its own affair.
                _ = serve(stream.unwrap(), reply, &log);
            }
        });
        Self { dir, asked }
    }

    /// What it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Calls `backspool` with its socket.
    pub(crate) fn call(&self, line: &[&str]) -> Call {
        call_at(&self.dir.path().join("socket"), line)
    }
}

fn serve(mut stream: UnixStream, reply: &Reply, log: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    reader.read_line(&mut head)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.to_lowercase().split_once(':') {
            Some(("content-length", value)) => length = value.trim().parse().unwrap(),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let mut words = head.split(' ').map(str::to_owned);
    let (method, uri) = (words.next().unwrap(), words.next().unwrap());
    log.lock().unwrap().push(Asked { method, uri, body: serde_json::from_slice(&body).unwrap_or(Value::Null) });
    let promised = reply.body.len() + usize::from(reply.cut);
    write!(
        stream,
        "HTTP/1.1 {} X\r\ncontent-length: {promised}\r\nconnection: close\r\n\r\n{}",
        reply.status, reply.body
    )
}
