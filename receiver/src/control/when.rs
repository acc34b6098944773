//! Which point is meant. Times come in the one form that the command line makes of all others.

use std::sync::Arc;

use journal::store::{NotCovered, PointInfo, Version, When};
use journal::types::{Seq, WallTime};

use crate::error::{Code, Covered, Error, Result};
use crate::time::rfc3339;

/// `latest`, `now`, `@SECONDS.MICROS`, `seq:N` or `mark:NAME`.
pub(super) fn parse(text: &str) -> Result<When> {
    let parsed = match text {
        "latest" | "now" => Some(When::Latest),
        _ => match text.split_at_checked(1) {
            Some(("@", seconds)) => micros(seconds).map(|time| When::At(WallTime(time))),
            _ => match text.split_once(':') {
                Some(("seq", number)) => digits(number).and_then(Seq::new).map(When::Seq),
                Some(("mark", name)) if !name.is_empty() => Some(When::Mark(name.to_owned())),
                _ => None,
            },
        },
    };
    parsed
        .ok_or_else(|| Error::usage(format!("{text:?} is none of latest, now, @SECONDS.MICROS, seq:NUMBER, mark:NAME")))
}

/// `SECONDS` or `SECONDS.MICROS`, with 1 to 6 digits behind the point.
fn micros(text: &str) -> Option<u64> {
    let (seconds, part) = text.split_once('.').unwrap_or((text, "0"));
    let scale = 10_u64.checked_pow(6_u32.checked_sub(u32::try_from(part.len()).ok()?)?)?;
    digits(seconds)?.checked_mul(1_000_000)?.checked_add(digits(part)? * scale)
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The point, or with `nearest` the one before, else the one after; else why not.
pub(super) fn resolve(version: &Arc<Version>, group: &str, text: &str, nearest: bool) -> Result<PointInfo> {
    let when = parse(text)?;
    let around = match version.find(&when)? {
        Ok(point) => return Ok(point),
        Err(around) => around,
    };
    if let Some((seq, _)) = around.before.or(around.after).filter(|_| nearest)
        && let Ok(point) = version.find(&When::Seq(seq))?
    {
        return Ok(point);
    }
    Err(not_covered(group, &when, &around))
}

fn not_covered(group: &str, when: &When, around: &NotCovered) -> Error {
    let NotCovered { before, after, covered } = *around;
    let Some((from, to)) = covered else {
        return Error::new(Code::NOT_COVERED, format!("{group} has no recovery point yet"))
            .hint(format!("wait until the first copy is whole: backspool status {group}"));
    };
    let covered = Some(Covered { from, to, before, after });
    let message = match when {
        When::At(time) => format!("no recovery point at {} for {group}", rfc3339(*time)),
        When::Seq(seq) => format!("no recovery point at seq:{seq} for {group}"),
        When::Mark(name) => format!("no recovery point is marked {name} for {group}"),
        When::Latest => format!("{group} has no recovery point"),
    };
    let hint = match before.or(after) {
        Some((_, time)) => format!("--at {}, or --nearest, or backspool points {group}", rfc3339(time)),
        None => format!("backspool points {group}"),
    };
    Error::new(Code::NOT_COVERED, message).covered(covered).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::History;

    #[test]
    fn only_the_canonical_forms_are_understood() {
        let at = |time| When::At(WallTime(time));
        for (text, expect) in [
            ("latest", When::Latest),
            ("now", When::Latest),
            ("@0", at(0)),
            ("@1763630000", at(1_763_630_000_000_000)),
            ("@1763630000.25", at(1_763_630_000_250_000)),
            ("@1763630000.000001", at(1_763_630_000_000_001)),
            ("seq:7", When::Seq(Seq::new(7).unwrap())),
            ("mark:a:b", When::Mark("a:b".into())),
        ] {
            assert_eq!(parse(text).unwrap(), expect, "{text}");
        }
        let bad = ["", "@", "@-1", "@+1", "@1.", "@1.1234567", "@99999999999999999999", "@18446744073710", "@1 "];
        for text in bad.into_iter().chain(["seq:", "seq:0", "seq:-1", "mark:", "Latest", "10m", "ä", "yesterday"]) {
            assert_eq!(parse(text).unwrap_err().code(), Code::USAGE, "{text:?}");
        }
    }

    #[test]
    fn outside_of_what_is_covered_both_neighbours_are_told() {
        let mut history = History::new(2, &[100]);
        history.run(40);
        let version = history.version();
        let (_, newest, gap, after) = version.timeline().gaps().next().map(|(s, t, _, e)| (s, t, s, e)).unwrap();
        let gap_point = format!("seq:{gap}");
        let error = resolve(&version, "db", &gap_point, false).unwrap_err();
        assert_eq!(error.code().exit(), 13);
        let covered = &error.json()["covered"];
        assert_eq!(covered["before"]["seq"], gap.number() - 1);
        assert_eq!(covered["after"]["seq"], after.unwrap().0.number());
        assert_eq!(resolve(&version, "db", &gap_point, true).unwrap().seq, gap.before().unwrap());
        assert_eq!(resolve(&version, "db", "@0", true).unwrap().seq, *history.points.keys().next().unwrap());
        assert_eq!(resolve(&version, "db", "latest", false).unwrap().seq, *history.points.keys().last().unwrap());
        assert_eq!(resolve(&version, "db", "@9999999", false).unwrap_err().code(), Code::NOT_COVERED);
        assert_eq!(resolve(&version, "db", "mark:none", true).unwrap_err().code(), Code::NOT_COVERED);
        assert!(newest > WallTime(0));
    }
}
