//! Whether sources may be taken back now. Decisions only.
//!
//! | a receiver asks to | this agent remembers one that is not over | it does not |
//! |---|---|---|
//! | look | refused: busy | if allowed and live |
//! | begin | refused: busy | if allowed and live |
//! | go on, look or not | if live: it was allowed when it began | refused: nothing has begun |
//!
//! Clients of the tap are counted, and put out, after that, under the lock that lets them in.

use std::time::Duration;

use journal::types::WallTime;
use journal::wire::{NoRollback, RollbackOpening};

/// The longest that a person may allow at once: nobody remembers for longer.
pub const ALLOW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Why not, for programs and for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    pub(crate) reason: NoRollback,
    pub(crate) text: String,
}

impl Denied {
    pub(crate) fn new(reason: NoRollback, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    /// For what may be otherwise in a moment.
    pub(crate) fn failed(error: &crate::Error) -> Self {
        Self::new(NoRollback::Failed, error.to_string())
    }
}

impl From<crate::Error> for Denied {
    fn from(error: crate::Error) -> Self {
        Self::failed(&error)
    }
}

/// What it depends on.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    /// One has begun and is not over.
    pub(crate) unfinished: bool,
    /// A person has said so, and its time is not over.
    pub(crate) allowed: bool,
    /// Why not all that the sources hold is within a point, if it is not.
    pub(crate) not_live: Option<String>,
}

/// The table above.
pub(crate) fn admit(asked: &RollbackOpening, facts: &Facts) -> Result<(), Denied> {
    let refused = |reason, text: &str| Err(Denied::new(reason, text));
    match (asked.goes_on, facts.unfinished) {
        (false, true) => return refused(NoRollback::Busy, "another one has begun and is not over"),
        (true, false) => return refused(NoRollback::NothingBegun, "this agent knows of none that is not over"),
        (false, false) if !facts.allowed => {
            return refused(NoRollback::NotAllowed, "the agent was not told that its sources may be written to");
        }
        (false, false) | (true, true) => {}
    }
    match &facts.not_live {
        Some(why) => Err(Denied::new(NoRollback::NotLive, why.clone())),
        None => Ok(()),
    }
}

/// Until when a receiver may write to the sources, by the clock that nobody sets. It ends with the process.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Allowed(Option<WallTime>);

impl Allowed {
    /// For so long from now on, whatever was said before; for nothing: not any more.
    pub(crate) fn for_another(now: WallTime, time: Duration) -> Self {
        let micros = u64::try_from(time.min(ALLOW_MAX).as_micros()).unwrap_or(0);
        Self((micros > 0).then(|| WallTime(now.0.saturating_add(micros))))
    }

    /// For how much longer; `None`: not, or not any more.
    pub(crate) fn left(self, now: WallTime) -> Option<Duration> {
        self.0.filter(|until| *until > now).map(|until| Duration::from_micros(until.since(now).0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use journal::types::{GroupId, Seq};

    #[test]
    fn nothing_is_begun_that_was_not_allowed_and_nothing_gone_on_with_that_had_not_begun() {
        use NoRollback::{Busy, NotAllowed, NotLive, NothingBegun};
        let check = |goes_on: bool, unfinished: bool, allowed: bool, live: bool, expect: Option<NoRollback>| {
            for looks_only in [false, true] {
                let asked = RollbackOpening {
                    group: GroupId([1; 16]),
                    target: Seq::FIRST,
                    looks_only,
                    even_if_attached: true,
                    goes_on,
                    locked_until: None,
                    mark: String::new(),
                };
                let facts = Facts { unfinished, allowed, not_live: (!live).then(|| "why".to_owned()) };
                assert_eq!(admit(&asked, &facts).err().map(|denied| denied.reason), expect, "{asked:?} {facts:?}");
            }
        };
        //    goes on, unfinished, allowed, live
        check(false, false, true, true, None);
        check(false, false, false, true, Some(NotAllowed));
        check(false, false, false, false, Some(NotAllowed));
        check(false, false, true, false, Some(NotLive));
        check(true, true, false, true, None);
        check(true, true, true, true, None);
        check(true, true, false, false, Some(NotLive));
        for allowed in [false, true] {
            check(false, true, allowed, true, Some(Busy));
            check(true, false, allowed, true, Some(NothingBegun));
        }
    }

    #[test]
    fn what_is_allowed_ends() {
        let (now, second) = (WallTime(5_000_000), Duration::from_secs(1));
        let left = |allowed: Allowed, after: u64| allowed.left(WallTime(now.0 + after));
        assert_eq!(left(Allowed::default(), 0), None);
        let allowed = Allowed::for_another(now, 10 * second);
        assert_eq!((left(allowed, 0), left(allowed, 9_000_000)), (Some(10 * second), Some(second)));
        assert_eq!((left(allowed, 10_000_000), left(allowed, u64::MAX - now.0)), (None, None));
        assert_eq!(left(Allowed::for_another(now, Duration::ZERO), 0), None, "withdrawn");
        assert_eq!(left(Allowed::for_another(now, Duration::MAX), 0), Some(ALLOW_MAX));
        assert_eq!(Allowed::for_another(WallTime(u64::MAX), second).left(WallTime(u64::MAX)), None);
    }
}
