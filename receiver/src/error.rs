//! The crate's one error value: a code that a person can look up and a program can react to.
//!
//! A code is the exit code of the command that shows it (two digits) and a number of its own (two digits).

use std::error::Error as StdError;
use std::fmt;

use journal::error::{Error as JournalError, ErrorKind};
use journal::types::{Seq, WallTime};
use serde_json::{Value, json};

use crate::time::rfc3339;

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong, as users and scripts know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Code(u16);

impl Code {
    /// Something that has no code of its own.
    pub const FAILED: Self = Self(101);
    /// The volumes are not what they were at that point.
    pub const VOLUMES_DIFFER: Self = Self(104);
    /// A write-back failed: what is on disk is unknown until the process starts again.
    pub const POISONED: Self = Self(102);
    /// The request makes no sense.
    pub const USAGE: Self = Self(201);
    /// The directory is not a store of ours.
    pub const NOT_OURS: Self = Self(202);
    /// Made by a newer version.
    pub const NEWER: Self = Self(203);
    /// That is no time.
    pub const NOT_A_TIME: Self = Self(207);
    /// No such group.
    pub const NO_GROUP: Self = Self(1001);
    /// No such volume in the group.
    pub const NO_VOLUME: Self = Self(1002);
    /// Nothing is served there.
    pub const NO_EXPORT: Self = Self(1003);
    /// Another process holds it.
    pub const LOCKED: Self = Self(1101);
    /// It belongs to another agent, or a newer session took over.
    pub const FENCED: Self = Self(1102);
    /// Another operation on it is running.
    pub const BUSY: Self = Self(1103);
    /// The target is mounted or in use.
    pub const TARGET_IN_USE: Self = Self(1104);
    /// No rollback is left to take back.
    pub const NOTHING_TO_UNDO: Self = Self(1105);
    /// Clients are attached to the tap.
    pub const ATTACHED: Self = Self(1106);
    /// There are no points now.
    pub const NOT_LIVE: Self = Self(1107);
    /// The peer's key is not known.
    pub const NOT_TRUSTED: Self = Self(1202);
    /// Nobody allowed it on the agent's machine.
    pub const NOT_ALLOWED: Self = Self(1203);
    /// There is no recovery point at that time.
    pub const NOT_COVERED: Self = Self(1301);
    /// What is stored is not what was written.
    pub const DAMAGED: Self = Self(1401);
    /// An image is not the one that it was said to be.
    pub const OTHER_IMAGE: Self = Self(1403);
    /// The target exists.
    pub const TARGET_EXISTS: Self = Self(1501);
    /// The agent cannot be reached.
    pub const NO_SESSION: Self = Self(1601);
    /// What answers is too old for this.
    pub const OLDER: Self = Self(1605);
    /// The file system is full.
    pub const NO_SPACE: Self = Self(1701);
    /// The target is smaller than what should go there.
    pub const TOO_SMALL: Self = Self(1702);
    /// The kernel or the file system lacks something.
    pub const UNSUPPORTED: Self = Self(1801);

    /// The exit code of the command that ends with it.
    pub fn exit(self) -> u8 {
        u8::try_from(self.0 / 100).unwrap_or(1)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{:04}", self.0)
    }
}

/// Oldest and newest instant there are points for, and the points around the one that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// The oldest.
    pub from: WallTime,
    /// The newest.
    pub to: WallTime,
    /// The last point before.
    pub before: Option<(Seq, WallTime)>,
    /// The first point after.
    pub after: Option<(Seq, WallTime)>,
}

/// An error: its code, what happened, what is covered if that is the question, what to do next, and the cause.
///
/// `Display` is one line without the cause; the cause is [`source`](StdError::source).
pub struct Error(Box<Inner>);

struct Inner {
    code: Code,
    message: String,
    covered: Option<Covered>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error with `code` saying `message`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { code, message: message.into(), covered: None, hint: None, source: None }))
    }

    /// What was asked for makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::USAGE, message)
    }

    /// There is no group of this name.
    pub fn no_group(name: &str) -> Self {
        Self::new(Code::NO_GROUP, format!("no group {name}")).hint("backspool status")
    }

    /// Its code.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Says what to do next: a command if there is one.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Says what is covered.
    #[must_use]
    pub fn covered(mut self, covered: Option<Covered>) -> Self {
        self.0.covered = covered;
        self
    }

    /// Says what was being done, in front of what is already said.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.0.message = format!("{doing}: {}", self.0.message);
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The document that programs get.
    pub fn json(&self) -> Value {
        let inner = &self.0;
        let mut message = inner.message.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            message = format!("{message}: {error}");
            cause = error.source();
        }
        let mut document =
            json!({"type": "error", "code": inner.code.to_string(), "exit": inner.code.exit(), "message": message});
        if let Some(Covered { from, to, before, after }) = inner.covered {
            let near = |point: Option<(Seq, WallTime)>| {
                point.map(|(seq, time)| json!({"seq": seq.number(), "time": rfc3339(time)}))
            };
            document["covered"] =
                json!({"from": rfc3339(from), "to": rfc3339(to), "before": near(before), "after": near(after)});
        }
        if let Some(hint) = &inner.hint {
            document["try"] = json!(hint);
        }
        document
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.code)?;
        match &self.0.source {
            Some(source) => write!(f, ": {source}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl From<JournalError> for Error {
    fn from(error: JournalError) -> Self {
        let code = match error.kind() {
            ErrorKind::Unavailable => Code::NO_SESSION,
            ErrorKind::Fenced => Code::FENCED,
            ErrorKind::Corrupt => Code::DAMAGED,
            ErrorKind::NoSpace => Code::NO_SPACE,
            ErrorKind::Unsupported => Code::UNSUPPORTED,
            ErrorKind::Invalid => Code::USAGE,
            ErrorKind::Poisoned => Code::POISONED,
            ErrorKind::Locked => Code::LOCKED,
            ErrorKind::NotFound | ErrorKind::Io => Code::FAILED,
        };
        let message = error.to_string();
        let told = Self::new(code, message);
        // The journal's line is the message already; what is left to tell is what the kernel said.
        match std::error::Error::source(&error).map(ToString::to_string) {
            Some(cause) => told.with_source(cause),
            None => told,
        }
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        JournalError::from(error).into()
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        JournalError::from(errno).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_names_the_exit_code() {
        assert_eq!((Code::NOT_COVERED.exit(), Code::NOT_COVERED.to_string().as_str()), (13, "E1301"));
        assert_eq!((Code::FAILED.exit(), Code::FAILED.to_string().as_str()), (1, "E0101"));
    }

    #[test]
    fn the_document_has_what_programs_ask_for() {
        let after = Seq::new(7).map(|seq| (seq, WallTime(1)));
        let covered = Covered { from: WallTime(1), to: WallTime(1_000_000), before: None, after };
        let error =
            Error::new(Code::NOT_COVERED, "no recovery point").covered(Some(covered)).hint("backspool points db");
        let expect = json!({"type": "error", "code": "E1301", "exit": 13, "message": "no recovery point",
            "covered": {"from": "1970-01-01T00:00:00.000001Z", "to": "1970-01-01T00:00:01.000000Z",
                "before": null, "after": {"seq": 7, "time": "1970-01-01T00:00:00.000001Z"}},
            "try": "backspool points db"});
        assert_eq!(error.json(), expect);
        let full = Error::from(std::io::Error::from_raw_os_error(28)).context("cannot write");
        assert_eq!(full.code().exit(), 17);
        assert!(full.json()["message"].as_str().unwrap().contains("No space left"), "{:?}", full.json());
    }
}
