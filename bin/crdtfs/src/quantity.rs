//! Durations, sizes and times as people write and read them.

use std::time::Duration;

use crdtfs_control::status::Missing;
pub(crate) use crdtfs_control::text::size;

/// Reads `24h`, `1h30m`, `90s`, `250ms`, `2 days`, and `0`; another bare number could be anything, and is refused.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let refuse = || format!("`{text}` is no duration: write it like 60s, 1h30m or 7d");
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(refuse());
    }
    if let Ok(number) = rest.parse::<u64>() {
        let hint = || format!("`{text}` of what? say {number}s, {number}m, {number}h or {number}d");
        return if number == 0 { Ok(Duration::ZERO) } else { Err(hint()) };
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let seconds = match rest[..letters].to_ascii_lowercase().as_str() {
            "ms" => 0.001,
            "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
            "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
            "d" | "day" | "days" => 86_400.0,
            "w" | "week" | "weeks" => 604_800.0,
            _ => return Err(refuse()),
        };
        // Also refuses what is too large to count.
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| refuse())?;
        total = total.checked_add(part).ok_or_else(refuse)?;
        rest = rest[letters..].trim_start();
    }
    Ok(total)
}

/// Reads a time of the past, in milliseconds since the Unix epoch: `2026-03-01`, `2026-03-01 18:30` and
/// `2026-03-01 18:30:59` in the local zone, `2026-03-01T17:30:00Z` or with another offset, or how long ago (`2h`). A time to
/// the second is the end of that second, as listings cut fractions off.
pub(crate) fn parse_time(text: &str) -> Result<i64, String> {
    let text = text.trim();
    let zone = jiff::tz::TimeZone::system();
    let time = if let Ok(time) = text.parse::<jiff::Timestamp>() {
        time
    } else if let Ok(time) = text.parse::<jiff::civil::DateTime>().and_then(|time| time.to_zoned(zone)) {
        time.timestamp()
    } else if let Ok(ago) = parse_duration(text) {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(jiff::Timestamp::now().as_millisecond().saturating_sub(ago));
    } else {
        return Err(format!("`{text}` is no time: write it like 2026-03-01 18:30, 2026-03-01T17:30:00Z, or 2h (ago)"));
    };
    let seconds_given = text.bytes().filter(|byte| *byte == b':').count() >= 2 && time.subsec_nanosecond() == 0;
    Ok(time.as_millisecond() + if seconds_given && !text.contains('.') { 999 } else { 0 })
}

/// Reads `10GiB`, `500 MB`, `1.5g`; a bare number is bytes. K, M, G, T and KiB … are powers of 1024, kB, MB … of 1000.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let refuse = || format!("`{text}` is no size: write it like 500MiB or 10GiB");
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let number: f64 = trimmed[..digits].parse().map_err(|_| refuse())?;
    let unit = trimmed[digits..].trim().to_ascii_lowercase();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some(letter) => 1 + "kmgtpe".find(letter).ok_or_else(refuse)? as i32,
    };
    let base = match unit.get(1..).unwrap_or_default() {
        "" | "i" | "ib" => 1024.0_f64,
        "b" if power > 0 => 1000.0,
        _ => return Err(refuse()),
    };
    let bytes = number * base.powi(power);
    if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(refuse()) }
}

/// A duration in milliseconds, as the control protocol counts them.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// `12,345`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `2,000 files`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A length of time in its two largest units: `3 d 4 h`, `12 s`.
pub(crate) fn duration(duration: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let seconds = duration.as_secs();
    let Some(first) = UNITS.iter().position(|(unit, _)| seconds >= *unit) else {
        return format!("{} ms", duration.as_millis());
    };
    let (unit, name) = UNITS[first];
    let mut text = format!("{} {name}", seconds / unit);
    if let Some((smaller, name)) = UNITS.get(first + 1)
        && seconds % unit / smaller > 0
    {
        text.push_str(&format!(" {} {name}", seconds % unit / smaller));
    }
    text
}

/// What a device lacks, as it says itself: it has yet to do something with what came if no content is missing.
pub(crate) fn lacks(missing: &Missing) -> String {
    match missing.bytes {
        0 => "is not done with what came".to_owned(),
        bytes => format!("lacks {}, {}", counted(missing.files, "file"), size(bytes)),
    }
}

/// How long ago a time was, in words; milliseconds since the Unix epoch.
pub(crate) fn ago(then_ms: i64) -> String {
    let now = jiff::Timestamp::now().as_millisecond();
    match u64::try_from(now.saturating_sub(then_ms)) {
        Ok(past) if past < 1_000 => "just now".to_owned(),
        Ok(past) => format!("{} ago", duration(Duration::from_millis(past))),
        Err(_) => "in the future (check the clocks)".to_owned(),
    }
}

/// A time in the local zone, to the second.
pub(crate) fn local_time(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => time.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("@{ms}ms"),
    }
}

/// A time in UTC as RFC 3339 with milliseconds, for scripts.
pub(crate) fn utc_time(ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => format!("@{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("4k", 4096),
            ("4 KiB", 4096),
            ("2MB", 2_000_000),
            ("1.5GiB", 3 << 29),
            ("10gib", 10 << 30),
            ("1T", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "GiB", "-1", "10 apples", "1.2.3", "10bb", "10GiBs", "99999999999E"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, ms) in [
            ("60s", 60_000),
            ("24h", 86_400_000),
            ("1h30m", 5_400_000),
            ("1h 30min", 5_400_000),
            ("2 days", 172_800_000),
            ("250ms", 250),
            ("1.5h", 5_400_000),
            ("0", 0),
            (" 1W ", 604_800_000),
        ] {
            assert_eq!(parse_duration(text).map(|d| d.as_millis()), Ok(ms), "{text}");
        }
        assert_eq!(parse_duration("5"), Err("`5` of what? say 5s, 5m, 5h or 5d".to_owned()));
        for text in ["", " ", "h", "90", "1x", "-1s", "1h-", "..s", "1e3s", "99999999999999999999w", "1 2", "1h5", "ä"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_time("1970-01-01T00:00:01.500Z"), Ok(1_500));
        assert_eq!(parse_time("1970-01-01T00:00:01Z"), Ok(1_999), "what was done within the second is in it");
        assert_eq!(parse_time("1970-01-01T02:00:01.25+02:00"), Ok(1_250));
        let local = parse_time("2026-03-01 18:30:59").expect("a time");
        assert_eq!(local_time(local), "2026-03-01 18:30:59");
        assert_eq!(parse_time("2026-03-01 18:30").map(local_time), Ok("2026-03-01 18:30:00".to_owned()));
        assert_eq!(parse_time("2026-03-01").map(local_time), Ok("2026-03-01 00:00:00".to_owned()));
        let now = jiff::Timestamp::now().as_millisecond();
        let ago = parse_time("2h").expect("a duration");
        assert!((now - 7_200_000..now - 7_200_000 + 60_000).contains(&ago), "{ago} at {now}");
        for text in ["", "yesterday", "2026-13-01", "18:30", "-1h"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_are_grouped() {
        assert_eq!([count(0), count(999), count(1_000), count(1_234_567)], ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([counted(1, "file"), counted(0, "file")], ["1 file", "0 files"]);
    }

    #[test]
    fn lengths_of_time_have_two_units() {
        let of = |seconds| duration(Duration::from_secs(seconds));
        assert_eq!([of(0), of(59), of(60), of(3_700), of(90_000)], ["0 ms", "59 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn times_for_scripts_are_utc() {
        assert_eq!(utc_time(1_500), "1970-01-01T00:00:01.500Z");
    }
}
