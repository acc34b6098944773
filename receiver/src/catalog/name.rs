//! Names of agents, groups and volumes: data for people, checked where they enter, never part of a path.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Checked.
    pub fn parse(text: &str) -> Result<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let mut bytes = text.bytes();
        let first = bytes.next().is_some_and(plain);
        if first && text.len() <= 64 && bytes.all(|byte| plain(byte) || b"._-".contains(&byte)) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(Error::usage(format!("{shown:?} is not a name"))
            .hint("a-z, 0-9, then also . _ -, at most 64 in all, as in db or web-1"))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for good in ["a", "0", "db", "web-1", "a.b_c-d", &"x".repeat(64)] {
            assert_eq!(Name::parse(good).unwrap().as_str(), good);
        }
        let long = "x".repeat(65);
        let hostile = ["", ".", "..", ".hidden", "-rf", "_x", "a/b", "/etc/passwd", "../up", "A", "a b", "a\0", "a\n"];
        for bad in hostile.into_iter().chain(["ä", "a\u{202e}b", "%2e%2e", "a\\b", "*", "~", &long]) {
            assert_eq!(Name::parse(bad).unwrap_err().code().exit(), 2, "{bad:?}");
            let json = serde_json::to_string(bad).unwrap();
            assert!(serde_json::from_str::<Name>(&json).is_err(), "{bad:?} through JSON");
        }
    }
}
