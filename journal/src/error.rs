//! The crate's one error value: a kind to react to, where it happened, and what caused it.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What the caller does about an error. There is one kind per reaction, not per cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The other side cannot be reached now: try again later.
    Unavailable,
    /// Somebody newer owns this: stop, and do not try again.
    Fenced,
    /// What was stored is not what was written: quarantine it, get it again from elsewhere.
    Corrupt,
    /// No room: slow down or free some, then try again.
    NoSpace,
    /// Needs a newer version, kernel or file system: upgrade or choose another way.
    Unsupported,
    /// What was asked for is wrong: change the request.
    Invalid,
    /// An earlier write-back failed, so what is on disk is unknown: reopen and recover.
    Poisoned,
    /// Another process holds it: stop that one first.
    Locked,
    /// It does not exist: create it or name another.
    NotFound,
    /// The device or the kernel failed: stop using the file and report it.
    Io,
}

impl ErrorKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "not available now",
            Self::Fenced => "taken over by a newer owner",
            Self::Corrupt => "corrupt",
            Self::NoSpace => "no space left",
            Self::Unsupported => "not supported",
            Self::Invalid => "invalid",
            Self::Poisoned => "unusable after a failed write-back",
            Self::Locked => "held by another process",
            Self::NotFound => "not found",
            Self::Io => "input/output error",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error: what to do about it ([`kind`](Self::kind)), what was going on, where, and the cause.
///
/// `Display` is one short line without the cause; the cause is [`source`](StdError::source).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    /// What failed, innermost first; empty when the kind says it all.
    context: Cow<'static, str>,
    path: Option<PathBuf>,
    /// Bytes from the start of `path`.
    offset: Option<u64>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $kind:ident,)*) => {$(
        $(#[$doc])*
        pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
            Self::new(ErrorKind::$kind, message)
        }
    )*};
}

impl Error {
    /// An error of `kind` saying `message`.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, context: message.into(), path: None, offset: None, source: None }))
    }

    constructors! {
        /// [`ErrorKind::Unavailable`].
        unavailable => Unavailable,
        /// [`ErrorKind::Fenced`].
        fenced => Fenced,
        /// [`ErrorKind::Corrupt`].
        corrupt => Corrupt,
        /// [`ErrorKind::NoSpace`].
        no_space => NoSpace,
        /// [`ErrorKind::Unsupported`].
        unsupported => Unsupported,
        /// [`ErrorKind::Invalid`].
        invalid => Invalid,
        /// [`ErrorKind::Poisoned`].
        poisoned => Poisoned,
        /// [`ErrorKind::Locked`].
        locked => Locked,
        /// [`ErrorKind::NotFound`].
        not_found => NotFound,
    }

    /// What the caller does about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The file or directory it happened in.
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Where in the file it happened, in bytes.
    pub fn offset(&self) -> Option<u64> {
        self.0.offset
    }

    /// Names the file; the innermost name wins, so outer layers may always call it.
    #[must_use]
    pub fn with_path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_owned());
        self
    }

    /// Names the place in the file, in bytes; the innermost place wins.
    #[must_use]
    pub fn with_offset(mut self, offset: u64) -> Self {
        self.0.offset.get_or_insert(offset);
        self
    }

    /// Says what was being done, in front of what is already said.
    #[must_use]
    pub fn context(mut self, doing: impl Into<Cow<'static, str>>) -> Self {
        let doing = doing.into();
        let inner = &mut self.0;
        inner.context =
            if inner.context.is_empty() { doing } else { Cow::Owned(format!("{doing}: {}", inner.context)) };
        self
    }

    /// Keeps the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.context.is_empty() {
            write!(f, "{}", self.0.kind)?;
        } else {
            f.write_str(&self.0.context)?;
        }
        match (&self.0.path, self.0.offset) {
            (Some(path), Some(offset)) => write!(f, " ({} at byte {offset})", path.display()),
            (Some(path), None) => write!(f, " ({})", path.display()),
            (None, Some(offset)) => write!(f, " (at byte {offset})"),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
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

impl From<io::Error> for Error {
    fn from(source: io::Error) -> Self {
        use io::ErrorKind as Cause;
        let kind = match source.kind() {
            Cause::StorageFull | Cause::QuotaExceeded => ErrorKind::NoSpace,
            Cause::NotFound => ErrorKind::NotFound,
            Cause::Unsupported => ErrorKind::Unsupported,
            Cause::AlreadyExists
            | Cause::InvalidInput
            | Cause::IsADirectory
            | Cause::NotADirectory
            | Cause::PermissionDenied
            | Cause::ReadOnlyFilesystem => ErrorKind::Invalid,
            Cause::ConnectionRefused
            | Cause::ConnectionReset
            | Cause::ConnectionAborted
            | Cause::HostUnreachable
            | Cause::NetworkUnreachable
            | Cause::NetworkDown
            | Cause::NotConnected
            | Cause::BrokenPipe
            | Cause::TimedOut => ErrorKind::Unavailable,
            _ => ErrorKind::Io,
        };
        Self::new(kind, "").with_source(source)
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(errno: i32, expect: ErrorKind) {
        assert_eq!(Error::from(io::Error::from_raw_os_error(errno)).kind(), expect);
    }

    #[test]
    fn an_errno_becomes_the_reaction_to_it() {
        check(libc::ENOSPC, ErrorKind::NoSpace);
        check(libc::EDQUOT, ErrorKind::NoSpace);
        check(libc::ENOENT, ErrorKind::NotFound);
        check(libc::EOPNOTSUPP, ErrorKind::Unsupported);
        check(libc::ENOSYS, ErrorKind::Unsupported);
        check(libc::EEXIST, ErrorKind::Invalid);
        check(libc::EROFS, ErrorKind::Invalid);
        check(libc::EACCES, ErrorKind::Invalid);
        check(libc::EINVAL, ErrorKind::Invalid);
        check(libc::ECONNRESET, ErrorKind::Unavailable);
        check(libc::EIO, ErrorKind::Io);
    }

    #[test]
    fn display_is_one_line_and_the_cause_is_kept() {
        let error = Error::from(io::Error::from_raw_os_error(libc::EIO));
        let error = error.context("cannot write").with_path("seg-1").with_offset(4096).with_path("outer");
        assert_eq!(error.to_string(), "cannot write (seg-1 at byte 4096)");
        let source = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        assert_eq!(source.and_then(io::Error::raw_os_error), Some(libc::EIO));
        assert_eq!(Error::from(io::Error::from_raw_os_error(libc::EIO)).to_string(), "input/output error");
        assert_eq!(Error::corrupt("bad checksum").context("cannot open").to_string(), "cannot open: bad checksum");
    }
}
