//! Every form of `WHEN`, against one fixed moment.

use jiff::Zoned;

use super::When;

/// The forms are read at this moment unless a test says otherwise: 11:31:02.114201 in Berlin.
const NOW: &str = "2026-11-20T11:31:02.114201+01:00[Europe/Berlin]";

fn read_at(text: &str, now: &str) -> Result<String, String> {
    let now: Zoned = now.parse().unwrap();
    When::parse(text, &now).map(|when| when.to_string()).map_err(|failure| {
        assert_eq!(failure.code().exit(), 2, "{text}");
        failure.json()["message"].as_str().unwrap().to_owned()
    })
}

/// `expect` is an instant in RFC 3339.
#[track_caller]
fn check_at(text: &str, now: &str, expect: &str) {
    let micros = expect.parse::<jiff::Timestamp>().unwrap().as_microsecond();
    let expect = format!("@{}.{:06}", micros / 1_000_000, micros % 1_000_000);
    assert_eq!(read_at(text, now), Ok(expect), "{text:?} at {now}");
}

#[track_caller]
fn check(text: &str, expect: &str) {
    check_at(text, NOW, expect);
}

#[track_caller]
fn refuse(text: &str, why: &str) {
    let said = read_at(text, NOW).unwrap_err();
    assert!(said.contains(why), "{text:?}: {said}");
}

#[test]
fn words_places_and_names_go_through() {
    for text in ["latest", "now", "seq:1", "seq:123456", "mark:before-upgrade", "mark:0.1"] {
        assert_eq!(read_at(text, NOW), Ok(text.to_owned()));
    }
    assert_eq!(read_at("  latest ", NOW), Ok("latest".to_owned()));
}

#[test]
fn lengths_count_back_from_now() {
    check("-90s", "2026-11-20T10:29:32.114201Z");
    check("90s", "2026-11-20T10:29:32.114201Z");
    check("90s ago", "2026-11-20T10:29:32.114201Z");
    check("10m", "2026-11-20T10:21:02.114201Z");
    check("10 minutes ago", "2026-11-20T10:21:02.114201Z");
    check("1 minute ago", "2026-11-20T10:30:02.114201Z");
    check("1h 30m ago", "2026-11-20T09:01:02.114201Z");
    check("1h30m", "2026-11-20T09:01:02.114201Z");
    check("-250ms", "2026-11-20T10:31:01.864201Z");
    check("1.5s", "2026-11-20T10:31:00.614201Z");
    check("14us", "2026-11-20T10:31:02.114187Z");
    check("0s", "2026-11-20T10:31:02.114201Z");
    check("2 days ago", "2026-11-18T10:31:02.114201Z");
    check("1w", "2026-11-13T10:31:02.114201Z");
    // A day is 24 hours, also over a change of clocks.
    check_at("1d", "2026-10-25T12:00:00+01:00[Europe/Berlin]", "2026-10-24T11:00:00Z");
}

#[test]
fn a_time_of_day_is_the_latest_one_not_in_the_future() {
    check("09:15", "2026-11-20T08:15:00Z");
    check("09:15:20", "2026-11-20T08:15:20Z");
    check("09:15:20.250", "2026-11-20T08:15:20.25Z");
    check("11:31:02.114201", "2026-11-20T10:31:02.114201Z");
    check("11:31:02.114202", "2026-11-19T10:31:02.114202Z");
    check("11:32", "2026-11-19T10:32:00Z");
    check("00:00", "2026-11-19T23:00:00Z");
    check("23:59:59.999999", "2026-11-19T22:59:59.999999Z");
}

#[test]
fn a_time_of_day_that_came_twice_is_the_later_unless_that_is_still_to_come() {
    // Berlin: at 03:00+02:00 on 2026-10-25 it became 02:00+01:00.
    check_at("02:30", "2026-10-25T12:00:00+01:00[Europe/Berlin]", "2026-10-25T01:30:00Z");
    check_at("02:30", "2026-10-25T02:45:00+01:00[Europe/Berlin]", "2026-10-25T01:30:00Z");
    check_at("02:30", "2026-10-25T02:15:00+01:00[Europe/Berlin]", "2026-10-25T00:30:00Z");
    check_at("02:30", "2026-10-25T02:45:00+02:00[Europe/Berlin]", "2026-10-25T00:30:00Z");
    check_at("02:30", "2026-10-25T02:15:00+02:00[Europe/Berlin]", "2026-10-24T00:30:00Z");
    check_at("2026-10-25 02:30", NOW, "2026-10-25T01:30:00Z");
    check_at("2026-10-25 02:30", "2026-10-25T02:15:00+01:00[Europe/Berlin]", "2026-10-25T00:30:00Z");
}

#[test]
fn a_time_of_day_that_clocks_skipped_is_the_one_of_the_day_before() {
    // Berlin: at 02:00+01:00 on 2026-03-29 it became 03:00+02:00.
    check_at("02:30", "2026-03-29T12:00:00+02:00[Europe/Berlin]", "2026-03-28T01:30:00Z");
    let said = read_at("2026-03-29 02:30", NOW).unwrap_err();
    assert!(said.contains("clocks in Europe/Berlin skipped 2026-03-29T02:30:00"), "{said}");
}

#[test]
fn dates_are_in_this_zone_unless_they_say_otherwise() {
    check("2026-11-20 09:15", "2026-11-20T08:15:00Z");
    check("2026-11-20T09:15", "2026-11-20T08:15:00Z");
    check("2026-07-20 09:15:20.25", "2026-07-20T07:15:20.25Z");
    check_at("2026-11-20 09:15", "2026-11-20T11:31:02+00:00[UTC]", "2026-11-20T09:15:00Z");
    check("2026-11-20T09:15:20Z", "2026-11-20T09:15:20Z");
    check("2026-11-20T09:15Z", "2026-11-20T09:15:00Z");
    check("2026-11-20t09:15:20z", "2026-11-20T09:15:20Z");
    check("2026-11-20 09:15:20+05:30", "2026-11-20T03:45:20Z");
    check("2026-11-20T09:15:20.114201-08:00", "2026-11-20T17:15:20.114201Z");
    check("2026-11-20T09:15[America/New_York]", "2026-11-20T14:15:00Z");
    check("2026-11-20 09:15:20.5[Europe/Berlin]", "2026-11-20T08:15:20.5Z");
    check("2026-10-25T02:30+02:00[Europe/Berlin]", "2026-10-25T00:30:00Z");
    check("2026-10-25T02:30+01:00[Europe/Berlin]", "2026-10-25T01:30:00Z");
    check("2026-11-20T09:15Z[Europe/Berlin]", "2026-11-20T09:15:00Z");
}

#[test]
fn the_future_is_for_the_receiver_to_refuse() {
    check("2030-01-01T00:00Z", "2030-01-01T00:00:00Z");
    check("2026-11-20 23:00", "2026-11-20T22:00:00Z");
}

#[test]
fn what_is_finer_than_a_microsecond_is_rounded_down() {
    check("2026-11-20T09:15:20.9999999Z", "2026-11-20T09:15:20.999999Z");
    assert_eq!(read_at("@1763630000.9999999", NOW).unwrap(), "@1763630000.999999");
}

#[test]
fn epochs_are_exact() {
    for (text, expect) in [
        ("@1763630000.25", "@1763630000.250000"),
        ("@1763630000", "@1763630000.000000"),
        ("@0.000001", "@0.000001"),
        // Not representable as a double.
        ("@9007199254740.123457", "@9007199254740.123457"),
    ] {
        assert_eq!(read_at(text, NOW).unwrap(), expect);
    }
}

#[test]
fn what_cannot_be_read_is_refused_with_the_reason() {
    for text in ["@", "@-1", "@1.", "@.5", "@1e9", "@1,5", "@99999999999999999999"] {
        refuse(text, "seconds since 1970");
    }
    for text in ["seq:", "seq:0", "seq:-1", "seq:+1", "seq:1.5", "seq:18446744073709551616"] {
        refuse(text, "a number from 1");
    }
    refuse("mark:", "not a mark's name");
    refuse("mark:Bad Name", "not a mark's name");
    refuse("2026-11-20", "needs a time of day, as in `2026-11-20 09:15`");
    refuse("1969-12-31T23:59:59Z", "before 1970");
    refuse("+5m", "in the future");
    refuse("90", "90 of what?");
    refuse("1 month ago", "write days");
    refuse("9:15", "HH:MM");
    refuse("25:00", "HH:MM");
    refuse("09:15 yesterday", "HH:MM");
    refuse("2026-11-20T09:15-08:00[Europe/Berlin]", "");
    refuse("2026-11-20T09:15[Europe/Nowhere]", "");
    for text in ["2026-13-01 09:15", "2026-02-30 09:15", "2026-11-20 24:01", "2026-11-20T09:15Q"] {
        refuse(text, "");
    }
    for text in ["", "yesterday", "LATEST", "10 parsecs", "--", "ago"] {
        refuse(text, "none of the forms");
    }
}
