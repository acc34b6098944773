//! Instants as people and programs read them. The clock itself is read in drivers only.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use journal::types::WallTime;

/// RFC 3339 in UTC with microseconds, the only form that leaves this crate.
pub fn rfc3339(time: WallTime) -> String {
    let micros = i64::try_from(time.0).unwrap_or(i64::MAX);
    // Beyond the year 9999 there is nothing to print; what a hostile agent sends must not stop a listing.
    let stamp = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
    format!("{stamp:.6}")
}

/// The wall clock, now. For drivers: decisions get it as an argument.
pub fn now() -> WallTime {
    let micros = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
    WallTime(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_has_a_form() {
        assert_eq!(rfc3339(WallTime(1_763_630_000_250_000)), "2025-11-20T09:13:20.250000Z");
        assert_eq!(rfc3339(WallTime(0)), "1970-01-01T00:00:00.000000Z");
        assert!(rfc3339(WallTime(u64::MAX)).starts_with("9999-12-30"), "{}", rfc3339(WallTime(u64::MAX)));
    }
}
