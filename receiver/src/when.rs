//! `WHEN`: the instants people ask for, and the text forms that the control API carries.
//!
//! Whatever depends on this machine's clock or zone is settled here, once: what goes to the receiver is an instant.

use std::fmt;

use jiff::civil::{DateTime, Time};
use jiff::fmt::friendly::SpanParser;
use jiff::fmt::temporal::Pieces;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SpanRelativeTo, Timestamp, Zoned};
use journal::types::{Seq, WallTime};

use crate::catalog::Name;
use crate::error::{Code, Error, Result};

/// An instant, a place in the order or a name. Its `Display` is what the control API reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// The newest point there is.
    Latest,
    /// The newest point at this moment.
    Now,
    /// The newest point not after this instant.
    At(WallTime),
    /// This place in the order.
    Seq(Seq),
    /// The point of this name.
    Mark(Name),
}

impl When {
    /// Reads any form of it; `now` is this moment in the zone that times without one are in.
    pub fn parse(text: &str, now: &Zoned) -> Result<Self> {
        let text = text.trim();
        match text {
            "latest" => Ok(Self::Latest),
            "now" => Ok(Self::Now),
            _ => Self::parse_long(text, now),
        }
        .map_err(|why| Error::new(Code::NOT_A_TIME, format!("cannot read {text:?} as a time: {why}")).hint(FORMS))
    }

    fn parse_long(text: &str, now: &Zoned) -> std::result::Result<Self, String> {
        if let Some(decimal) = text.strip_prefix('@') {
            return epoch(decimal).map(Self::At).ok_or_else(|| "after `@` come seconds since 1970".to_owned());
        }
        if let Some(number) = text.strip_prefix("seq:") {
            let digits = number.bytes().all(|b| b.is_ascii_digit());
            let seq = number.parse().ok().filter(|_| digits).and_then(Seq::new);
            return seq.map(Self::Seq).ok_or_else(|| "after `seq:` comes a number from 1".to_owned());
        }
        if let Some(name) = text.strip_prefix("mark:") {
            return Name::parse(name).map(Self::Mark).map_err(|_| "that is not a mark's name".to_owned());
        }
        let instant = match () {
            () if starts_like_date(text) => date_time(text, now)?,
            () if text.contains(':') => time_of_day(text, now)?,
            () => ago(text, now)?,
        };
        micros(instant).map(Self::At)
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Now => f.write_str("now"),
            Self::At(time) => time.fmt(f),
            Self::Seq(seq) => write!(f, "seq:{seq}"),
            Self::Mark(name) => write!(f, "mark:{name}"),
        }
    }
}

/// `1763630000.25`, exactly: digits beyond the microsecond only say that it is a later part of it.
fn epoch(decimal: &str) -> Option<WallTime> {
    let (whole, part) = decimal.split_once('.').unwrap_or((decimal, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) {
        return None;
    }
    let part = format!("{:0<6}", part.get(..part.len().min(6))?);
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(part.parse().ok()?).map(WallTime)
}

fn starts_like_date(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    digits >= 4 && matches!(text.as_bytes().get(digits), Some(b'-'))
}

/// RFC 3339 with any offset, with or without a zone's name; without either, in `now`'s zone.
fn date_time(text: &str, now: &Zoned) -> std::result::Result<Timestamp, String> {
    let pieces = Pieces::parse(text).map_err(reason)?;
    let Some(time) = pieces.time() else { return Err(format!("it needs a time of day, as in `{text} 09:15`")) };
    let zone = pieces.to_time_zone().map_err(reason)?;
    if pieces.offset().is_some() {
        return match zone {
            // Parsed as a whole, so that an offset which the zone never had then is refused.
            Some(_) => text.parse::<Zoned>().map(|zoned| zoned.timestamp()).map_err(reason),
            None => text.parse().map_err(reason),
        };
    }
    let zone = zone.unwrap_or_else(|| now.time_zone().clone());
    let clock = pieces.date().to_datetime(time);
    past(clock, &zone, now).ok_or_else(|| {
        let name = zone.iana_name().unwrap_or("this zone");
        format!("clocks in {name} skipped {clock}")
    })
}

/// The latest such time of day that is not in the future.
fn time_of_day(text: &str, now: &Zoned) -> std::result::Result<Timestamp, String> {
    let shape = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.'));
    let time: Time = match text.parse() {
        Ok(time) if shape => time,
        _ => return Err("a time of day is HH:MM, HH:MM:SS or HH:MM:SS.ffffff".to_owned()),
    };
    // A day on which clocks skipped it has no such time: more than two in a row do not exist.
    now.date()
        .series(-jiff::Span::new().days(1))
        .take(4)
        .filter_map(|date| past(date.to_datetime(time), now.time_zone(), now))
        .find(|&instant| instant <= now.timestamp())
        .ok_or_else(|| "there was no such time in the last days".to_owned())
}

/// The instant at which clocks of `zone` showed `clock`: of two, the latest that is not in the future; `None` when
/// they skipped it.
fn past(clock: DateTime, zone: &TimeZone, now: &Zoned) -> Option<Timestamp> {
    let instant = zone.to_ambiguous_timestamp(clock);
    match instant.offset() {
        AmbiguousOffset::Gap { .. } => None,
        AmbiguousOffset::Unambiguous { .. } => instant.unambiguous().ok(),
        AmbiguousOffset::Fold { .. } => {
            let later = instant.later().ok().filter(|&later| later <= now.timestamp());
            later.or_else(|| instant.earlier().ok())
        }
    }
}

/// `-90s`, `10m`, `10 minutes ago`: that long before now; a day is 24 hours.
fn ago(text: &str, now: &Zoned) -> std::result::Result<Timestamp, String> {
    if text.starts_with('+') {
        return Err("it lies in the future".to_owned());
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{text} of what? `{text}s`, `@{text}` or `seq:{text}`"));
    }
    let span = SpanParser::new().parse_span(text).map_err(|_| "it is none of the forms".to_owned())?;
    let length = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| "months and years differ in length: write days".to_owned())?;
    now.timestamp().checked_sub(length.abs()).map_err(|_| "it lies before all time".to_owned())
}

/// Whole microseconds: a record has no finer time, so rounding down finds the same point.
fn micros(instant: Timestamp) -> std::result::Result<WallTime, String> {
    u64::try_from(instant.as_microsecond()).map(WallTime).map_err(|_| "it lies before 1970".to_owned())
}

/// jiff's errors, without its habit of repeating the input.
fn reason(error: jiff::Error) -> String {
    let text = error.to_string();
    text.rsplit(": ").next().unwrap_or(&text).to_owned()
}

const FORMS: &str = "latest, now, -90s, '10 minutes ago', 09:15, '2026-11-20 09:15', 2026-11-20T09:15:20.25+01:00, \
                     '2026-11-20T09:15[Europe/Berlin]', @1763630000.25, seq:123456 or mark:NAME";

#[cfg(test)]
mod tests;
