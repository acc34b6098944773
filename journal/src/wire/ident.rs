//! Who is at the other end: the hash of a public key.

use std::fmt;

use crate::types::Hash;

/// BLAKE3 of a certificate's SubjectPublicKeyInfo in DER: all that either side trusts of the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// The pin of the key with this SubjectPublicKeyInfo (DER).
    pub fn of_spki(der: &[u8]) -> Self {
        Self(Hash::of(der).0)
    }

    /// Parses 64 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
        let bytes: Vec<u8> = digits?
            .chunks_exact(2)
            .filter_map(|pair| u8::try_from(pair.iter().fold(0, |n, d| 16 * n + d)).ok())
            .collect();
        if text.len() == 64 { bytes.try_into().ok().map(Self) } else { None }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hash(self.0).fmt(f)
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pin({self})")
    }
}

macro_rules! roles {
    ($($(#[$doc:meta])+ $name:ident;)+) => {$(
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Pin);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

roles! {
    /// An agent: the pin of its key.
    AgentId;
    /// A receiver: the pin of its key.
    ReceiverId;
}
