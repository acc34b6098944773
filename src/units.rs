//! Lengths of time and sizes, as people write and read them.

use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;

use crate::error::Failure;

/// Reads `90s`, `15m`, `1h 30m`, `30d`: a length above zero; a day is 24 hours.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, Failure> {
    let seconds = SpanParser::new()
        .parse_span(text.trim())
        .ok()
        .and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    match seconds.map(Duration::try_from) {
        Some(Ok(duration)) if !duration.is_zero() => Ok(duration),
        _ => Err(Failure::argument(format!("{text:?} is not a length of time"))
            .advise("a number and a unit of ms, s, m, h, d or w, as in `15m` or `1h 30m`")),
    }
}

/// Reads `4096`, `256MiB`, `8GiB`: bytes, above zero.
pub(crate) fn parse_size(text: &str) -> Result<u64, Failure> {
    let text = text.trim();
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let shift = match unit.trim() {
        "" | "B" => Some(0),
        unit => UNITS.iter().position(|&name| name == unit).map(|place| 10 * place),
    };
    let bytes = digits.parse::<u64>().ok().zip(shift).and_then(|(count, shift)| count.checked_mul(1 << shift));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| {
        Failure::argument(format!("{text:?} is not a size"))
            .advise("a whole number and a unit of KiB, MiB, GiB or TiB, as in `256MiB`")
    })
}

/// Reads `400MiB/s`: bytes a second, enough to be of use.
pub(crate) fn parse_rate(text: &str) -> Result<u64, Failure> {
    let size = text.trim().strip_suffix("/s").map(parse_size);
    match size {
        Some(Ok(bytes)) if bytes >= RATE_MIN => Ok(bytes),
        Some(Ok(_)) => Err(Failure::argument(format!("{text:?} is too little")).advise("16KiB/s or more")),
        _ => Err(Failure::argument(format!("{text:?} is not a rate"))
            .advise("a whole number and a unit of KiB/s, MiB/s or GiB/s, as in `400MiB/s`")),
    }
}

/// Reads how long something is kept: as a length of time, or `1y` of 365 days, or `0` for not at all. In whole seconds, never shorter.
pub(crate) fn parse_keep(text: &str) -> Result<u64, Failure> {
    let years = text.trim().strip_suffix('y').and_then(|years| years.trim_end().parse::<u64>().ok());
    match years.and_then(|years| years.checked_mul(365 * 86_400)) {
        Some(seconds) => Ok(seconds),
        None if text.trim() == "0" => Ok(0),
        None => parse_duration(text).map(whole_seconds),
    }
}

/// In whole seconds, never shorter.
pub(crate) fn whole_seconds(length: Duration) -> u64 {
    length.as_secs() + u64::from(length.subsec_nanos() > 0)
}

/// `256.0 MiB`.
#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(crate) fn bytes(count: u64) -> String {
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut place = 1;
    while value >= 1023.95 && place + 1 < UNITS.len() {
        value /= 1024.0;
        place += 1;
    }
    format!("{value:.1} {}", UNITS[place])
}

/// `4.2 ms`, `12.5 s`, `2 h 5 min`.
pub(crate) fn seconds(seconds: f64) -> String {
    match seconds {
        0.0 => "0 s".to_owned(),
        s if s < 0.000_999_5 => format!("{:.0} µs", s * 1e6),
        s if s < 0.999_5 => format!("{:.1} ms", s * 1e3),
        s if s < 119.5 => format!("{s:.1} s"),
        s if s < 7199.5 => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s if s < 172_800.0 => format!("{:.0} h {:02.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

/// A frame takes a minute at this rate.
const RATE_MIN: u64 = 16 << 10;
const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read() {
        let check =
            |text: &str, ms: u64| assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(ms), "{text}");
        check("10ms", 10);
        check("15m", 900_000);
        check("1h 30m", 5_400_000);
        check("30d", 30 * 86_400_000);
        check("2w", 14 * 86_400_000);
        check("1.5s", 1500);
        for bad in ["", "15", "m", "-15m", "15m ago", "0s", "1y", "1mo", "soon", "99999999999999h"] {
            assert_eq!(parse_duration(bad).unwrap_err().exit(), 2, "{bad}");
        }
    }

    #[test]
    fn how_long_something_is_kept_is_read() {
        for (text, seconds) in [("24h", 86_400), ("7d", 604_800), ("1y", 31_536_000), ("0", 0), ("1500ms", 2)] {
            assert_eq!(parse_keep(text).unwrap(), seconds, "{text}");
        }
        for bad in ["", "y", "-1y", "1.5y", "99999999999999y", "later"] {
            assert_eq!(parse_keep(bad).unwrap_err().exit(), 2, "{bad}");
        }
    }

    #[test]
    fn a_part_of_a_second_is_not_lost() {
        let seconds = [1, 1000, 1001, 2000].map(|ms| whole_seconds(Duration::from_millis(ms)));
        assert_eq!(seconds, [1, 1, 2, 2]);
    }

    #[test]
    fn sizes_are_read() {
        for (text, size) in [("1", 1), ("512B", 512), ("4KiB", 4096), ("256MiB", 256 << 20), ("8 GiB", 8 << 30)] {
            assert_eq!(parse_size(text).unwrap(), size, "{text}");
        }
        for bad in ["", "0", "MiB", "-1MiB", "1.5GiB", "256MB", "99999999999TiB", "1XiB"] {
            assert_eq!(parse_size(bad).unwrap_err().exit(), 2, "{bad}");
        }
    }

    #[test]
    fn rates_are_read() {
        for (text, rate) in [("400MiB/s", 400 << 20), ("16KiB/s", 16 << 10), (" 1 GiB/s", 1 << 30)] {
            assert_eq!(parse_rate(text).unwrap(), rate, "{text}");
        }
        for bad in ["", "400MiB", "/s", "0MiB/s", "15KiB/s", "400Mbit/s", "1MiB/m"] {
            assert_eq!(parse_rate(bad).unwrap_err().exit(), 2, "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        let shown = [0, 1023, 1024, 1536, (1 << 20) - 1, 256 << 20, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "256.0 MiB", "16384.0 PiB"]);
    }

    #[test]
    fn lengths_of_time_are_shown() {
        let shown = [0.0, 0.000_25, 0.0042, 0.9999, 12.5, 119.9, 3725.0, 7325.0, 864_000.0].map(seconds);
        assert_eq!(
            shown,
            ["0 s", "250 µs", "4.2 ms", "1.0 s", "12.5 s", "1 min 59 s", "62 min 05 s", "2 h 02 min", "10.0 d"]
        );
    }
}
