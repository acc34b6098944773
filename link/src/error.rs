//! What QUIC reports, as the journal's errors.

use std::fmt;

use journal::error::Error;
use journal::wire::{Refusal, RefusalCode};
use quinn::{ApplicationClose, ConnectionError, ReadError, TransportErrorCode, VarInt, WriteError};

/// The other side is not who it should be, or does not take us for who we should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotTrusted(String);

impl fmt::Display for NotTrusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotTrusted {}

/// TLS alerts appear as these codes, from here on.
const CRYPTO: u64 = 0x100;
const NO_APPLICATION_PROTOCOL: u64 = CRYPTO + 120;

/// Why a connection ended: a refusal, trust, or simply out of reach.
pub fn connection_error(error: ConnectionError) -> Error {
    let (code, reason) = match &error {
        ConnectionError::ApplicationClosed(close) => return closed(close),
        ConnectionError::TransportError(error) => (error.code, error.reason.clone()),
        ConnectionError::ConnectionClosed(close) => {
            (close.error_code, String::from_utf8_lossy(&close.reason).into_owned())
        }
        ConnectionError::VersionMismatch => {
            return Error::unsupported("the other side speaks another QUIC").with_source(error);
        }
        ConnectionError::TimedOut => return Error::unavailable("no answer").with_source(error),
        _ => return Error::unavailable("the connection is gone").with_source(error),
    };
    from_transport(code, reason, error)
}

fn from_transport(code: TransportErrorCode, reason: String, error: ConnectionError) -> Error {
    match u64::from(code) {
        NO_APPLICATION_PROTOCOL => Error::unsupported("the other side does not speak this protocol").with_source(error),
        code if (CRYPTO..2 * CRYPTO).contains(&code) => {
            Error::invalid(format!("not trusted: {reason}")).with_source(NotTrusted(reason))
        }
        _ => Error::unavailable("the connection broke").with_source(error),
    }
}

fn closed(close: &ApplicationClose) -> Error {
    match close.error_code.into_inner() {
        0 => Error::unavailable("the other side has stopped"),
        code => refusal(code, &close.reason).into(),
    }
}

/// A refusal from the code and reason that closed a connection or a stream.
fn refusal(code: u64, reason: &[u8]) -> Refusal {
    let text = String::from_utf8_lossy(reason).chars().filter(|c| !c.is_control()).collect::<String>();
    Refusal::new(RefusalCode::from_number(code), text)
}

/// The refusal in an error of this crate, if it is one.
pub fn refusal_of(error: &Error) -> Option<&Refusal> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

/// Whether an error of this crate is a [`NotTrusted`].
pub fn is_not_trusted(error: &Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<NotTrusted>())
}

pub(crate) fn close_code(code: RefusalCode) -> VarInt {
    VarInt::from_u32(code.number().into())
}

pub(crate) fn read_error(error: ReadError) -> Error {
    match error {
        ReadError::ConnectionLost(error) => connection_error(error),
        ReadError::Reset(code) => refusal(code.into_inner(), &[]).into(),
        error => Error::unavailable("the stream is gone").with_source(error),
    }
}

pub(crate) fn write_error(error: WriteError) -> Error {
    match error {
        WriteError::ConnectionLost(error) => connection_error(error),
        WriteError::Stopped(code) => refusal(code.into_inner(), &[]).into(),
        error => Error::unavailable("the stream is gone").with_source(error),
    }
}
