//! No, and why: stable numbers for programs, a sentence for people.

use std::fmt;

use super::fields::{TEXT_BYTES, put_text, text};
use crate::codec::{Malformed, Reader, Writer};
use crate::error::{Error, ErrorKind};

macro_rules! codes {
    ($($(#[$doc:meta])+ $name:ident = $number:literal, $kind:ident, $words:literal;)+) => {
        /// Why the other side refuses. The same numbers close connections and streams.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum RefusalCode {
            $($(#[$doc])+ $name,)+
        }

        impl RefusalCode {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// Its number on the wire.
            pub fn number(self) -> u16 {
                match self {
                    $(Self::$name => $number,)+
                }
            }

            /// What whoever was refused does about it.
            pub fn kind(self) -> ErrorKind {
                match self {
                    $(Self::$name => ErrorKind::$kind,)+
                }
            }
        }

        impl fmt::Display for RefusalCode {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $words,)+
                })
            }
        }
    };
}

codes! {
    /// This key was never enrolled here.
    NotEnrolled = 1, Invalid, "not enrolled here";
    /// No version of the protocol in common.
    Version = 2, Unsupported, "no common version";
    /// A feature is required that this side does not know.
    Feature = 3, Unsupported, "an unknown feature is required";
    /// No such group here.
    UnknownGroup = 4, NotFound, "no such group";
    /// The group belongs to another agent.
    Fenced = 5, Fenced, "the group belongs to another agent";
    /// Another history has the same place in the order: one of two clones.
    Sibling = 6, Fenced, "another history has taken this place";
    /// A history that the other knows nothing of.
    UnknownHistory = 7, Fenced, "an unknown history";
    /// A frame that does not continue the chain: open the group again and go on from the head.
    ChainBroken = 8, Unavailable, "a frame that does not continue the chain";
    /// Bytes that do not parse, or a message out of place.
    Malformed = 9, Corrupt, "malformed";
    /// Not now.
    Busy = 10, Unavailable, "busy";
    /// The group is damaged and is not written to.
    Damaged = 11, Poisoned, "the group is damaged";
    /// No room.
    NoSpace = 12, NoSpace, "no space left";
    /// A newer session of the same identity has taken over.
    Superseded = 13, Fenced, "superseded by a newer session";
    /// A failure that is nobody's fault but this side's.
    Internal = 14, Unavailable, "an internal failure";
    /// A `sealed` record whose base is not here as it says: begin anew at the head, with another base.
    BaseLost = 15, Unavailable, "the base that is sealed is not here";
}

impl RefusalCode {
    /// The code with this number. One that a newer version has added counts as [`Internal`](Self::Internal): its text
    /// still says what it is.
    pub fn from_number(number: u64) -> Self {
        Self::ALL.iter().copied().find(|code| u64::from(code.number()) == number).unwrap_or(Self::Internal)
    }
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people, at most 512 bytes.
    pub text: String,
}

impl Refusal {
    /// A refusal with a sentence for people; an empty one leaves it at the code's own words.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub(super) fn encode(&self, w: &mut Writer) {
        w.u16(self.code.number());
        put_text(w, &self.text, TEXT_BYTES);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { code: RefusalCode::from_number(r.u16()?.into()), text: text(r, TEXT_BYTES)? })
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text.as_str() {
            "" => write!(f, "refused: {}", self.code),
            text => write!(f, "refused: {}: {text}", self.code),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<Malformed> for Refusal {
    fn from(reason: Malformed) -> Self {
        Self::new(RefusalCode::Malformed, reason.0)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code.kind(), refusal.to_string()).with_source(refusal)
    }
}
