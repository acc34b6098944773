//! What a file of a mount is called: which instant a name means, and which names are listed. Pure.

use std::ffi::OsStr;

use jiff::Zoned;
use journal::types::WallTime;

use crate::time::rfc3339;
use crate::when::When;

/// What every image's name ends with.
const SUFFIX: &str = ".img";
/// Bytes of a file's name.
const NAME_MAX: usize = 255;
/// The directory of marks.
pub(super) const MARKS: &str = "marks";

/// What a name may mean in a directory of images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The directory of marks.
    Marks,
    /// The volume at this time.
    Image(When),
}

/// What `name` means in a directory of images; `None`: nothing that there could be.
pub(super) fn meaning(name: &OsStr, now: &Zoned) -> Option<Meaning> {
    let name = name.to_str()?;
    if name == MARKS {
        return Some(Meaning::Marks);
    }
    let stem = name.strip_suffix(SUFFIX)?;
    // A zone's name has a slash; without one it would be another way to say the same.
    let plain = stem.trim() == stem && !stem.contains(|c: char| c.is_control() || c == '[');
    let when = plain.then(|| When::parse(stem, now).ok()).flatten()?;
    Some(Meaning::Image(when))
}

/// The mark that `name` means in a directory of marks.
pub(super) fn mark(name: &OsStr) -> Option<&str> {
    name.to_str()?.strip_suffix(SUFFIX)
}

/// The name of a mark's image; `None` of one that no file can have.
pub(super) fn of_mark(mark: &str) -> Option<String> {
    let name = format!("{mark}{SUFFIX}");
    (name.len() <= NAME_MAX && !name.contains(['/', '\0'])).then_some(name)
}

/// The newest image's name.
pub(super) fn latest() -> String {
    format!("latest{SUFFIX}")
}

/// The name of an instant, which is a whole second.
pub(super) fn of_time(time: WallTime) -> String {
    let text = rfc3339(time);
    let second = text.split_once('.').map_or(text.as_str(), |(second, _)| second);
    format!("{second}Z{SUFFIX}")
}

const MINUTE: u64 = 60_000_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The instants that are listed: the minutes of the last hour, the hours of the last day, the days of the last year; oldest first,
/// within `from` and `to`.
pub(super) fn ladder(now: WallTime, from: WallTime, to: WallTime) -> Vec<WallTime> {
    let rung = |step: u64, count: u64| {
        (0..count).filter_map(move |back| (now.0 / step).checked_sub(back)).map(move |at| at * step)
    };
    let mut all: Vec<u64> = rung(MINUTE, 60).chain(rung(HOUR, 24)).chain(rung(DAY, 366)).collect();
    all.retain(|at| (from.0..=to.0).contains(at));
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(WallTime).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    fn now() -> Zoned {
        "2026-11-20T10:15:30.5+00:00[UTC]".parse().unwrap()
    }

    fn at(name: &str) -> Option<When> {
        match meaning(OsStr::new(name), &now())? {
            Meaning::Image(when) => Some(when),
            Meaning::Marks => None,
        }
    }

    #[test]
    fn any_time_is_a_name() {
        let expect = |text: &str| {
            let time: jiff::Timestamp = text.parse().unwrap();
            Some(When::At(WallTime(u64::try_from(time.as_microsecond()).unwrap())))
        };
        assert_eq!(at("latest.img"), Some(When::Latest));
        assert_eq!(at("10 minutes ago.img"), expect("2026-11-20T10:05:30.5Z"));
        assert_eq!(at("-90s.img"), expect("2026-11-20T10:14:00.5Z"));
        assert_eq!(at("09:15:20.250.img"), expect("2026-11-20T09:15:20.25Z"));
        assert_eq!(at("2026-11-20T09:15:20.250Z.img"), expect("2026-11-20T09:15:20.25Z"));
        assert_eq!(at("2026-11-20 09:15.img"), expect("2026-11-20T09:15:00Z"));
        assert_eq!(at("@1763630000.25.img"), Some(When::At(WallTime(1_763_630_000_250_000))));
        assert!(matches!(at("seq:7.img"), Some(When::Seq(_))) && matches!(at("mark:a.img"), Some(When::Mark(_))));
        assert_eq!(meaning(OsStr::new("marks"), &now()), Some(Meaning::Marks));
        assert_eq!(mark(OsStr::new("before.img")), Some("before"));
    }

    #[test]
    fn hostile_names_mean_nothing() {
        let long = format!("{}.img", "9".repeat(5000));
        let names =
            ["", ".", "..", ".img", "latest", "latest.IMG", " latest.img", "latest .img", "latest.img.img", "img"];
        let more = ["%s.img", "-.img", "10.img", "seq:0.img", "seq:99999999999999999999.img", "2026-02-30T00:00Z.img"];
        let odd = [
            "\u{202e}latest.img",
            "latest\n.img",
            "2026-11-20T09:15[UTC].img",
            "mark:../../etc.img",
            "99999999999999999d.img",
        ];
        for name in names.into_iter().chain(more).chain(odd).chain([long.as_str()]) {
            assert_eq!(meaning(OsStr::new(name), &now()), None, "{name:?}");
        }
        assert_eq!(meaning(OsStr::from_bytes(b"latest\xff.img"), &now()), None);
        assert_eq!(mark(OsStr::from_bytes(b"\xff.img")), None);
        for mark in ["/", "../../etc/passwd", "a\0", &"9".repeat(252)] {
            assert_eq!(of_mark(mark), None, "{mark:?}");
        }
        assert_eq!(of_mark("..").as_deref(), Some("...img"));
    }

    #[test]
    fn what_is_listed_is_found_again() {
        let now = WallTime(1_763_633_730_500_000);
        let all = ladder(now, WallTime(0), now);
        // Days, hours and minutes that fall together are one.
        assert!((440..=450).contains(&all.len()), "{}", all.len());
        assert!(all.is_sorted() && all.iter().all(|at| *at <= now && at.0.is_multiple_of(MINUTE)));
        for time in &all {
            assert_eq!(at(&of_time(*time)), Some(When::At(*time)), "{}", of_time(*time));
        }
        let part = ladder(now, WallTime(now.0 - 150_000_000), now);
        assert_eq!(part.len(), 2, "{part:?}");
        assert_eq!(ladder(WallTime(5), WallTime(0), WallTime(5)), [WallTime(0)]);
        assert_eq!(ladder(now, now, WallTime(0)), []);
    }
}
