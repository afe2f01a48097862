//! Dates of the archive as seconds since 1970. No clock is read here.
//!
//! Two spellings exist: RFC 3339 in our own files, and the RFC 5322 form of `InRelease`. Only UTC is accepted.

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// Seconds since 1970 of `2026-01-02T03:04:05Z`.
pub fn parse_rfc3339(text: &str) -> Result<u64> {
    ensure!(text.ends_with('Z'), "{text:?} is not a date in UTC such as 2026-01-02T03:04:05Z");
    let time: Timestamp =
        text.parse().with_context(|| format!("{text:?} is not a date such as 2026-01-02T03:04:05Z"))?;
    u64::try_from(time.as_second()).with_context(|| format!("{text:?} lies before 1970"))
}

/// Seconds since 1970 of `Fri, 02 Jan 2026 03:04:05 UTC`.
pub fn parse_rfc5322(text: &str) -> Result<u64> {
    let numeric = text
        .strip_suffix(" UTC")
        .or_else(|| text.strip_suffix(" +0000"))
        .with_context(|| format!("{text:?} is not a date in UTC"))?;
    let time = rfc2822::DateTimeParser::new()
        .parse_timestamp(format!("{numeric} +0000"))
        .with_context(|| format!("{text:?} is not a date such as Fri, 02 Jan 2026 03:04:05 UTC"))?;
    u64::try_from(time.as_second()).with_context(|| format!("{text:?} lies before 1970"))
}

/// `2026-01-02T03:04:05Z` of seconds since 1970.
pub fn format_rfc3339(time: u64) -> Result<String> {
    let seconds = i64::try_from(time).with_context(|| format!("{time} is not a time"))?;
    Ok(Timestamp::from_second(seconds).with_context(|| format!("{time} is not a time"))?.to_string())
}

/// `20260102T030405Z`: how a snapshot service of the archive names a date.
pub fn snapshot_name(time: u64) -> Result<String> {
    Ok(format_rfc3339(time)?.replace(['-', ':'], ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_give_the_same_second() {
        for (rfc3339, rfc5322, time) in [
            ("1970-01-01T00:00:00Z", "Thu, 01 Jan 1970 00:00:00 UTC", 0),
            ("2000-02-29T23:59:59Z", "Tue, 29 Feb 2000 23:59:59 UTC", 951_868_799),
            ("2026-01-02T03:04:05Z", "Fri, 02 Jan 2026 03:04:05 +0000", 1_767_323_045),
        ] {
            assert_eq!(parse_rfc3339(rfc3339).unwrap(), time);
            assert_eq!(parse_rfc5322(rfc5322).unwrap(), time);
            assert_eq!(format_rfc3339(time).unwrap(), rfc3339);
        }
        assert_eq!(snapshot_name(1_767_323_045).unwrap(), "20260102T030405Z");
    }

    #[test]
    fn another_zone_or_shape_is_refused() {
        for text in ["", "2026-01-02", "2026-01-02T03:04:05+01:00", "2026-13-02T03:04:05Z", "1950-01-02T00:00:00Z"] {
            assert!(parse_rfc3339(text).is_err(), "{text}");
        }
        for text in ["", "Fri, 02 Jan 2026 03:04:05 CET", "Fri, 02 Foo 2026 03:04:05 UTC", "Fri, 02 Jan 2026 UTC"] {
            assert!(parse_rfc5322(text).is_err(), "{text}");
        }
    }
}
