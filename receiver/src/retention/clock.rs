//! Whether the receiver's clock can be believed: retention takes history away by it. The decision is pure; what it rests on is one
//! small file of the store.
//!
//! ```text
//!   wall clock  ──────── within an hour of what is trusted ────────▶ now is the earlier of both
//!               ──────── ahead or behind by more ──────────────────▶ nothing expires, until a person says that it is right
//! ```

use journal::disk::{Disk, read_file, replace_file};
use journal::types::{Micros, WallTime};
use serde::{Deserialize, Serialize};

use crate::checked::Format;
use crate::error::Result;

const FORMAT: Format = Format { name: "backspool-clock", version: 1 };
const FILE: &str = "clock.json";
const FILE_BYTES: u64 = 4096;
/// How far the wall clock may be from what is trusted.
const LEEWAY: u64 = 3600 * 1_000_000;

/// What is trusted moves towards the wall clock by this part of what has passed, a second in a minute: more than any clock drifts. So one
/// that is set ahead again and again, by less than an hour each time, is not believed either.
const DRIFT_PART: u64 = 60;

/// What the clocks say at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) wall: WallTime,
    /// Microseconds since the machine booted, with those it slept.
    pub(crate) boottime: u64,
    /// Which boot.
    pub(crate) boot: String,
}

/// The last moment of which the time was believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Trusted {
    wall: u64,
    boottime: u64,
    boot: String,
}

/// What is made of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judged {
    /// It is this late.
    Now(WallTime),
    /// The wall clock is ahead of what is trusted by so much.
    Ahead(Micros),
    /// It is behind.
    Behind(Micros),
}

impl Trusted {
    /// A person, or nothing else that is known, says that the wall clock is right.
    pub(crate) fn at(reading: &Reading) -> Self {
        Self { wall: reading.wall.0, boottime: reading.boottime, boot: reading.boot.clone() }
    }

    /// How late it is at least: what has passed in the same boot, or since the machine booted.
    fn elapsed(&self, reading: &Reading) -> WallTime {
        let since = if self.boot == reading.boot { self.boottime } else { 0 };
        WallTime(self.wall.saturating_add(reading.boottime.saturating_sub(since)))
    }

    /// What is trusted after a reading that is within the leeway.
    fn towards(&self, reading: &Reading, now: WallTime) -> WallTime {
        let most = match self.boot == reading.boot {
            true => now.0.saturating_sub(self.wall) / DRIFT_PART,
            // Nobody knows how long the machine was off.
            false => LEEWAY,
        };
        WallTime(reading.wall.0.clamp(now.0.saturating_sub(most), now.0.saturating_add(most)))
    }

    /// What to make of a reading, and what is trusted from then on.
    pub(crate) fn judge(&self, reading: &Reading) -> (Judged, Self) {
        let now = self.elapsed(reading);
        let on = |wall: WallTime| Self { wall: wall.0, ..Self::at(reading) };
        let (ahead, behind) = (reading.wall.since(now), now.since(reading.wall));
        match (ahead.0 > LEEWAY, behind.0 > LEEWAY) {
            (true, _) => (Judged::Ahead(ahead), on(now)),
            (_, true) => (Judged::Behind(behind), on(now)),
            _ => (Judged::Now(now.min(reading.wall)), on(self.towards(reading, now))),
        }
    }

    /// What was trusted last; `None`: this store has never been asked.
    pub(crate) fn load(disk: &dyn Disk) -> Result<Option<Self>> {
        match read_file(disk, FILE, FILE_BYTES)? {
            Some(file) => FORMAT.decode(&file).map(Some).map_err(|error| error.context(FILE)),
            None => Ok(None),
        }
    }

    /// Makes it durable.
    pub(crate) fn save(&self, disk: &dyn Disk) -> Result<()> {
        Ok(replace_file(disk, FILE, &FORMAT.encode(self))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const MINUTE: u64 = 60 * SECOND;
    const HOUR: u64 = LEEWAY;

    fn reading(wall: u64, boottime: u64, boot: &str) -> Reading {
        Reading { wall: WallTime(wall), boottime, boot: boot.to_owned() }
    }

    #[test]
    fn a_clock_is_believed_within_an_hour() {
        let begin = Trusted::at(&reading(1000 * HOUR, 5 * HOUR, "a"));
        // (wall, boottime, boot): what is made of it.
        let table = [
            (1001 * HOUR, 6 * HOUR, "a", Judged::Now(WallTime(1001 * HOUR))),
            (1002 * HOUR, 6 * HOUR, "a", Judged::Now(WallTime(1001 * HOUR))), // just ahead: by what has passed
            (1000 * HOUR, 6 * HOUR, "a", Judged::Now(WallTime(1000 * HOUR))),
            (1002 * HOUR + 1, 6 * HOUR, "a", Judged::Ahead(Micros(HOUR + 1))),
            (1000 * HOUR - 1, 6 * HOUR, "a", Judged::Behind(Micros(HOUR + 1))),
            // Nobody knows how long the machine was off.
            (1001 * HOUR, HOUR / 2, "b", Judged::Now(WallTime(1000 * HOUR + HOUR / 2))),
            (1009 * HOUR, HOUR, "b", Judged::Ahead(Micros(8 * HOUR))),
            (u64::MAX, u64::MAX, "b", Judged::Now(WallTime(u64::MAX))),
        ];
        for (wall, boottime, boot, expect) in table {
            assert_eq!(begin.judge(&reading(wall, boottime, boot)).0, expect, "{wall} {boottime} {boot}");
        }
    }

    #[test]
    fn a_jump_is_not_forgotten_and_not_believed_later() {
        let mut trusted = Trusted::at(&reading(1000 * HOUR, 0, "a"));
        for hours in 1..100 {
            let (judged, next) = trusted.judge(&reading((1010 + hours) * HOUR, hours * HOUR, "a"));
            assert_eq!(judged, Judged::Ahead(Micros(10 * HOUR)), "whatever has passed since");
            trusted = next;
        }
        // It is set right, or somebody says that it is.
        assert_eq!(trusted.judge(&reading(1100 * HOUR, 100 * HOUR, "a")).0, Judged::Now(WallTime(1100 * HOUR)));
        let said = Trusted::at(&reading(1110 * HOUR, 100 * HOUR, "a"));
        assert_eq!(said.judge(&reading(1111 * HOUR, 101 * HOUR, "a")).0, Judged::Now(WallTime(1111 * HOUR)));
    }

    #[test]
    fn a_clock_that_is_set_ahead_bit_by_bit_is_not_believed() {
        let (begin, mut refused) = (1000 * HOUR, 0);
        let mut trusted = Trusted::at(&reading(begin, 0, "a"));
        for look in 1..500 {
            let (passed, set) = (look * MINUTE, look * HOUR / 2);
            let (judged, next) = trusted.judge(&reading(begin + passed + set, passed, "a"));
            match judged {
                Judged::Now(now) => assert!(now.0 <= begin + passed + look * SECOND, "look {look}"),
                _ => refused += 1,
            }
            trusted = next;
        }
        assert!(refused > 490, "{refused}");
    }

    #[test]
    fn a_clock_that_drifts_is_followed() {
        let begin = 1000 * HOUR;
        for drift_ms in [-1000, -500, 1, 500, 900] {
            let mut trusted = Trusted::at(&reading(begin, 0, "a"));
            for look in 1..20_000 {
                let passed = look * MINUTE;
                let wall = (begin + passed).saturating_add_signed(drift_ms * 1000 * look.cast_signed());
                let (judged, next) = trusted.judge(&reading(wall, passed, "a"));
                let Judged::Now(now) = judged else { panic!("{drift_ms} after {look} minutes: {judged:?}") };
                assert!(wall.abs_diff(now.0) <= SECOND, "{drift_ms} after {look} minutes");
                trusted = next;
            }
        }
        // Set by half an hour, it is believed less than it says, and nothing is wrong; nor is it when the machine is off now and then.
        let mut trusted = Trusted::at(&reading(begin, 0, "a"));
        for boot in 1..50 {
            let wall = begin + boot * HOUR / 2;
            let (judged, next) = trusted.judge(&reading(wall, 0, &boot.to_string()));
            assert_eq!(judged, Judged::Now(WallTime(wall - HOUR / 2)));
            trusted = next;
        }
    }

    #[test]
    fn it_survives_its_file() {
        let disk = journal::disk::SimDisk::new(1);
        assert_eq!(Trusted::load(&disk).unwrap(), None);
        let trusted = Trusted::at(&reading(5, 6, "a"));
        trusted.save(&disk).unwrap();
        assert_eq!(Trusted::load(&disk).unwrap(), Some(trusted));
        disk.flip_bit(FILE, 8 * 150).unwrap();
        assert!(Trusted::load(&disk).is_err());
    }
}
