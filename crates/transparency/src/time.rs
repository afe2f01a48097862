//! Times as documents have them, for people.

/// Seconds since 1970 as RFC 3339 writes them, in UTC.
pub fn shown(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    time.map_or_else(|| format!("{seconds} seconds after 1970"), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_no_calendar_has_is_shown_as_it_is() {
        assert_eq!(shown(1_800_000_000), "2027-01-15T08:00:00Z");
        assert_eq!(shown(u64::MAX), "18446744073709551615 seconds after 1970");
    }
}
