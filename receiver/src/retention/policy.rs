//! How long what is kept of a group, and who said so. Pure.

use journal::limits::KEPT_POINTS;
use journal::retention::Policy;
use journal::types::Micros;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const DAY: u64 = 24 * 3600;
/// What counts where somebody said something, but not this.
const DEFAULTS: [u64; 4] = [DAY, 7 * DAY, 30 * DAY, 365 * DAY];
/// No more than can be listed, with room for marks.
const POINTS_MAX: u64 = KEPT_POINTS as u64 - 50_000;
const YEARS_MAX: u64 = 100 * 365 * DAY;

/// What somebody said, in seconds; nothing at all: everything is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// So long, every write is a point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_write_seconds: Option<u64>,
    /// So long, the last point of each minute is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_minute_seconds: Option<u64>,
    /// So long, the last point of each hour is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hourly_seconds: Option<u64>,
    /// So long, marks are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks_seconds: Option<u64>,
}

/// Who said a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Group,
    Config,
    Default,
}

impl Origin {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Config => "config",
            Self::Default => "default",
        }
    }
}

/// What counts for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// In the order of [`NAMES`].
    pub(crate) values: [(u64, Origin); 4],
}

/// What the values are called.
pub(crate) const NAMES: [&str; 4] = ["every_write", "every_minute", "hourly", "marks"];

impl Wanted {
    fn values(&self) -> [Option<u64>; 4] {
        [self.every_write_seconds, self.every_minute_seconds, self.hourly_seconds, self.marks_seconds]
    }

    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        self.values().iter().all(Option::is_none)
    }

    /// These values, and `older` ones where nothing is said.
    pub(crate) fn over(&self, older: &Self) -> Self {
        Self {
            every_write_seconds: self.every_write_seconds.or(older.every_write_seconds),
            every_minute_seconds: self.every_minute_seconds.or(older.every_minute_seconds),
            hourly_seconds: self.hourly_seconds.or(older.hourly_seconds),
            marks_seconds: self.marks_seconds.or(older.marks_seconds),
        }
    }
}

impl Resolved {
    /// What counts; `None`: everything is kept.
    pub(crate) fn of(group: &Wanted, config: &Wanted) -> Option<Self> {
        if group.is_empty() && config.is_empty() {
            return None;
        }
        let (group, config) = (group.values(), config.values());
        let value = |at: usize| match (group[at], config[at]) {
            (Some(seconds), _) => (seconds, Origin::Group),
            (None, Some(seconds)) => (seconds, Origin::Config),
            (None, None) => (DEFAULTS[at], Origin::Default),
        };
        Some(Self { values: std::array::from_fn(value) })
    }

    /// Refuses what cannot be kept.
    pub(crate) fn check(&self) -> Result<()> {
        let [every_write, every_minute, hourly, marks] = self.values.map(|(seconds, _)| seconds);
        if every_write == 0 {
            return Err(Error::usage("every_write is at least a second: the newest points are never thinned"));
        }
        if [every_write, every_minute, hourly, marks].iter().any(|seconds| *seconds > YEARS_MAX) {
            return Err(Error::usage("more than a hundred years: leave retention out, and everything is kept"));
        }
        let points = every_minute.saturating_sub(every_write) / 60 + hourly / 3600;
        if points > POINTS_MAX {
            let message =
                format!("these are {points} points of minutes and hours, and at most {POINTS_MAX} can be kept");
            return Err(Error::usage(message).hint("every_minute up to 600d, hourly beyond"));
        }
        Ok(())
    }

    /// As the rule takes it.
    pub(crate) fn policy(&self) -> Policy {
        let [every_write, every_minute, hourly, marks] =
            self.values.map(|(seconds, _)| Micros(seconds.saturating_mul(1_000_000)));
        Policy { every_write, every_minute, hourly, marks }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(values: [Option<u64>; 4]) -> Wanted {
        let [every_write_seconds, every_minute_seconds, hourly_seconds, marks_seconds] = values;
        Wanted { every_write_seconds, every_minute_seconds, hourly_seconds, marks_seconds }
    }

    #[test]
    fn a_value_comes_from_who_is_nearest() {
        let nothing = Wanted::default();
        assert_eq!(Resolved::of(&nothing, &nothing), None);
        let (group, config) = (wanted([Some(5), None, None, None]), wanted([Some(7), Some(8), None, None]));
        let resolved = Resolved::of(&group, &config).unwrap();
        let expect =
            [(5, Origin::Group), (8, Origin::Config), (30 * DAY, Origin::Default), (365 * DAY, Origin::Default)];
        assert_eq!(resolved.values, expect);
        assert_eq!(resolved.policy().every_minute, Micros(8_000_000));
        assert_eq!(wanted([None, Some(1), None, None]).over(&group), wanted([Some(5), Some(1), None, None]));
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let check = |values| Resolved::of(&wanted(values), &Wanted::default()).unwrap().check();
        assert!(check([Some(1), Some(0), Some(0), Some(0)]).is_ok());
        assert!(check([Some(0), None, None, None]).is_err());
        assert!(check([None, Some(600 * DAY), Some(10 * 365 * DAY), None]).is_ok());
        assert!(check([None, Some(900 * DAY), None, None]).is_err());
        assert!(check([None, None, Some(u64::MAX), None]).is_err());
    }
}
