//! Enrolment: one message of a fixed size each way, and nothing else is parsed from a peer who is not known yet.

use std::fmt;

use super::fields::is_name;
use crate::codec::{Malformed, Reader, Writer};

/// Bytes of each of the two messages.
pub const JOIN_BYTES: usize = 256;
const REQUEST_MAGIC: [u8; 8] = *b"BSPLJOIN";
const REPLY_MAGIC: [u8; 8] = *b"BSPLJRPL";
const VERSION: u16 = 1;
const NAME_ROOM: usize = crate::limits::NAME_BYTES;

/// What an invitation proves itself with. Whoever holds it may join, so it is never printed.
#[derive(Clone, Copy)]
pub struct JoinSecret(pub [u8; 16]);

impl PartialEq for JoinSecret {
    /// Compares all bytes whatever the first ones are: how long it takes says nothing.
    fn eq(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

impl Eq for JoinSecret {}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(…)")
    }
}

/// What an agent sends. Who it is says its TLS key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinRequest {
    /// From the invitation.
    pub secret: JoinSecret,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JoinOutcome {
    /// The agent is enrolled, under this name.
    Joined(String),
    /// No invitation has this secret.
    Unknown,
    /// It was good once.
    Expired,
    /// Another key has used it.
    Used,
    /// The request's version is not spoken here.
    Version,
    /// The receiver failed: try again.
    Internal,
    /// This key is enrolled under another name.
    OtherName,
}

/// What a receiver answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinReply(pub JoinOutcome);

impl JoinRequest {
    /// Its bytes.
    pub fn encode(&self) -> [u8; JOIN_BYTES] {
        let mut w = Writer::with_capacity(JOIN_BYTES);
        w.put(&REQUEST_MAGIC).u16(VERSION).zeroes(6).put(&self.secret.0).pad_to(JOIN_BYTES);
        fixed(w)
    }

    /// Checked. A request of another version is an answer of its own.
    pub fn decode(bytes: &[u8; JOIN_BYTES]) -> Result<Self, JoinRefused> {
        let mut r = Reader::new(bytes);
        r.magic(REQUEST_MAGIC)?;
        if r.u16()? != VERSION {
            return Err(JoinRefused::Version);
        }
        r.reserved(6)?;
        let secret = JoinSecret(r.array()?);
        r.reserved(r.rest().len())?;
        Ok(Self { secret })
    }
}

/// Why a request is not looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinRefused {
    /// Answered with [`JoinOutcome::Version`].
    Version,
    /// Not answered.
    Malformed(Malformed),
}

impl From<Malformed> for JoinRefused {
    fn from(reason: Malformed) -> Self {
        Self::Malformed(reason)
    }
}

impl JoinReply {
    /// Its bytes.
    ///
    /// # Panics
    /// If the name is none.
    pub fn encode(&self) -> [u8; JOIN_BYTES] {
        let (code, name) = match &self.0 {
            JoinOutcome::Joined(name) => (0, name.as_str()),
            JoinOutcome::Unknown => (1, ""),
            JoinOutcome::Expired => (2, ""),
            JoinOutcome::Used => (3, ""),
            JoinOutcome::Version => (4, ""),
            JoinOutcome::Internal => (5, ""),
            JoinOutcome::OtherName => (6, ""),
        };
        assert!(is_name(name) == (code == 0), "{name:?} is no name for an agent");
        let mut w = Writer::with_capacity(JOIN_BYTES);
        w.put(&REPLY_MAGIC).u16(VERSION).u16(code).u8(u8::try_from(name.len()).unwrap_or(0)).zeroes(3);
        w.put(name.as_bytes()).pad_to(JOIN_BYTES);
        fixed(w)
    }

    /// Checked.
    pub fn decode(bytes: &[u8; JOIN_BYTES]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        r.magic(REPLY_MAGIC)?;
        if r.u16()? != VERSION {
            return Err(Malformed("an answer of another version"));
        }
        let code = r.u16()?;
        let len = usize::from(r.u8()?);
        r.reserved(3)?;
        let mut name = Reader::new(r.bytes(NAME_ROOM)?);
        r.reserved(r.rest().len())?;
        let text = std::str::from_utf8(name.bytes(len)?).unwrap_or_default();
        name.reserved(name.rest().len())?;
        match (code, len) {
            (0, _) if is_name(text) => Ok(Self(JoinOutcome::Joined(text.to_owned()))),
            (1, 0) => Ok(Self(JoinOutcome::Unknown)),
            (2, 0) => Ok(Self(JoinOutcome::Expired)),
            (3, 0) => Ok(Self(JoinOutcome::Used)),
            (4, 0) => Ok(Self(JoinOutcome::Version)),
            (5, 0) => Ok(Self(JoinOutcome::Internal)),
            (6, 0) => Ok(Self(JoinOutcome::OtherName)),
            _ => Err(Malformed("an answer of no known kind")),
        }
    }
}

fn fixed(w: Writer) -> [u8; JOIN_BYTES] {
    w.finish().try_into().expect("padded to its size")
}
