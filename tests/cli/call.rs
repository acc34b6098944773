//! Calls the real binary.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a call left behind.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Call {
    /// The one line of JSON that stdout must be.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        one_document(&self.stdout)
    }

    /// The one line of JSON that stderr must be.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        one_document(&self.stderr)
    }
}

#[track_caller]
fn one_document(text: &str) -> Value {
    assert!(text.ends_with('\n') && text.lines().count() == 1, "not one line: {text:?}");
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// Calls `backspool` without a terminal and without this machine's config.
pub(crate) fn backspool<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Call {
    let output = command().args(args).output().unwrap();
    let Output { status, stdout, stderr } = output;
    Call {
        exit: status.code().unwrap_or(-1),
        stdout: String::from_utf8(stdout).unwrap(),
        stderr: String::from_utf8(stderr).unwrap(),
    }
}

/// The binary under test, with nothing on stdin and UTC as its zone.
pub(crate) fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backspool"));
    command.stdin(Stdio::null()).env("TZ", "UTC").env_remove("NO_COLOR");
    command
}

/// Calls `backspool --socket SOCKET ARGS`.
pub(crate) fn call_at(socket: &Path, line: &[&str]) -> Call {
    let args = [OsStr::new("--socket"), socket.as_os_str()];
    backspool(args.into_iter().chain(line.iter().map(OsStr::new)))
}
