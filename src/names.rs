//! Names of groups, volumes, marks and agents: short, lower-case, never a path.

use std::fmt;

use crate::error::Failure;

/// `[a-z0-9][a-z0-9._-]{0,63}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(String);

impl Name {
    /// Reads a name; `what` says whose it is, for the error.
    pub(crate) fn parse(what: &str, text: &str) -> Result<Self, Failure> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        let why = match text.chars().next() {
            None => "it is empty".to_owned(),
            Some(first) if !first.is_ascii_lowercase() && !first.is_ascii_digit() => {
                format!("it starts with {first:?}")
            }
            Some(_) => match text.chars().find(|&c| !legal(c)) {
                Some(c) => format!("{c:?} is not allowed"),
                None if text.len() > Self::BYTES_MAX => format!("it has {} characters", text.len()),
                None => return Ok(Self(text.to_owned())),
            },
        };
        Err(Failure::new("E0208", format!("{what} cannot be called {text:?}: {why}")).advise(
            "1 to 64 characters of a-z, 0-9, '.', '_' and '-', the first one a letter or a digit, as in `db-1`",
        ))
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    const BYTES_MAX: usize = 64;
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `GROUP` or `GROUP/VOLUME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Which group.
    pub(crate) group: Name,
    /// Which of its volumes; none: the only one, or all of them.
    pub(crate) volume: Option<Name>,
}

impl Target {
    /// Reads one.
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let (group, volume) = match text.split_once('/') {
            Some((group, volume)) => (group, Some(Name::parse("a volume", volume)?)),
            None => (text, None),
        };
        Ok(Self { group: Name::parse("a group", group)?, volume })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.volume {
            Some(volume) => write!(f, "{}/{volume}", self.group),
            None => self.group.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        let longest = "a".repeat(64);
        for good in ["a", "0", "db", "db-1", "a.b_c-d", "7.", longest.as_str()] {
            assert_eq!(Name::parse("a group", good).unwrap().as_str(), good);
        }
        let long = "a".repeat(65);
        for bad in ["", "-a", ".", "..", "_a", "A", "aB", "a b", "a/b", "ä", "aä", "a\0", "a\n", long.as_str()] {
            assert_eq!(Name::parse("a group", bad).unwrap_err().exit(), 2, "{bad:?}");
        }
    }

    #[test]
    fn a_target_is_a_group_or_one_of_its_volumes() {
        let target = Target::parse("db/data").unwrap();
        assert_eq!((target.group.as_str(), target.volume.as_ref().map(Name::as_str)), ("db", Some("data")));
        assert_eq!(target.to_string(), "db/data");
        assert_eq!(Target::parse("db").unwrap().volume, None);
        for bad in ["", "/", "db/", "/data", "db/data/more", "../db", "db/.."] {
            assert_eq!(Target::parse(bad).unwrap_err().exit(), 2, "{bad:?}");
        }
    }
}
