//! When it is said that too much is exposed: once for each threshold that is crossed, and once when all is well again. Pure: time is handed in.

use std::time::Duration;

/// How long the age has to stay below a threshold before that is believed: one that goes up and down over it is one event.
const HOLD: Duration = Duration::from_secs(5);

/// Ages of the oldest change that is not durable, from which on a person wants to hear of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rpo {
    /// It is time to look.
    pub warn: Option<Duration>,
    /// It is not what was promised.
    pub error: Option<Duration>,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    #[default]
    Fine,
    Warn,
    Error,
}

/// What was said last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Alarm {
    said: Level,
    /// While it is less than what was said: the worst since, and since when.
    since: Option<(Level, Duration)>,
}

impl Rpo {
    fn level(self, age: Duration) -> Level {
        let over = |threshold: Option<Duration>| threshold.is_some_and(|threshold| age >= threshold);
        match (over(self.error), over(self.warn)) {
            (true, _) => Level::Error,
            (false, true) => Level::Warn,
            (false, false) => Level::Fine,
        }
    }

    /// What was crossed to get to a level, from below or from above.
    pub(super) fn threshold(self, level: Level) -> Option<Duration> {
        match level {
            Level::Error => self.error,
            Level::Warn => self.warn.or(self.error),
            Level::Fine => None,
        }
    }
}

impl Alarm {
    /// The oldest change is so old, `now` by a clock that never goes back: what is to be said, if anything.
    pub(super) fn observe(&mut self, rpo: Rpo, age: Duration, now: Duration) -> Option<Level> {
        let level = rpo.level(age);
        if level >= self.said {
            self.since = None;
            let is_news = level > self.said;
            self.said = level;
            return is_news.then_some(level);
        }
        let (worst, since) = self.since.map_or((level, now), |(worst, since)| (worst.max(level), since));
        self.since = Some((worst, since));
        if now.saturating_sub(since) < HOLD {
            return None;
        }
        (self.said, self.since) = (worst, None);
        Some(worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RPO: Rpo = Rpo { warn: Some(Duration::from_secs(5)), error: Some(Duration::from_secs(60)) };

    /// What is said of these ages in seconds, one second after the other, and when.
    fn said(rpo: Rpo, ages: &[u64]) -> Vec<(usize, Level)> {
        let mut alarm = Alarm::default();
        let at = |second: usize| Duration::from_secs(second as u64);
        let looks = ages.iter().enumerate();
        looks
            .filter_map(|(second, age)| {
                let level = alarm.observe(rpo, Duration::from_secs(*age), at(second))?;
                Some((second, level))
            })
            .collect()
    }

    #[test]
    fn each_crossing_is_said_once() {
        let mut ages: Vec<u64> = (0..100).collect();
        ages.extend([0; 20]);
        assert_eq!(said(RPO, &ages), [(5, Level::Warn), (60, Level::Error), (105, Level::Fine)]);
        assert_eq!(said(RPO, &[0, 100, 100]), [(1, Level::Error)]);
    }

    #[test]
    fn up_and_down_over_a_threshold_is_one_event() {
        let ages = [4, 5, 4, 5, 4, 5, 6, 4, 4, 5, 4, 4, 4, 4, 4, 4, 4];
        assert_eq!(said(RPO, &ages), [(1, Level::Warn), (15, Level::Fine)]);
        // From the worst to the middle, for good.
        let ages = [60, 10, 0, 10, 0, 10, 0, 10, 10, 10, 10, 10, 10, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(said(RPO, &ages), [(0, Level::Error), (6, Level::Warn), (18, Level::Fine)]);
    }

    #[test]
    fn one_threshold_or_none_will_do() {
        let none = Rpo::default();
        assert_eq!(said(none, &[1_000_000]), []);
        let error = Rpo { warn: None, ..RPO };
        assert_eq!(said(error, &[59, 60, 0, 0, 0, 0, 0, 0]), [(1, Level::Error), (7, Level::Fine)]);
        let warn = Rpo { error: None, ..RPO };
        assert_eq!(said(warn, &[5, 1000]), [(0, Level::Warn)]);
        assert_eq!([Level::Warn, Level::Error].map(|level| error.threshold(level)), [RPO.error; 2]);
    }
}
