//! The values that the numbers of `broker.toml` may have. They are compared before the file is read into its types, so that every number which is too large for its type is refused with the same words.

use anyhow::{Result, ensure};
use toml::{Table, Value};

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// 100 years, in days.
const CENTURY: i64 = 36_525;
/// More than a process can have open, or should keep waiting.
const MANY: i64 = 1_000_000;
/// A node keeps each session without a decision as long as its challenge lives (crates/attester/src/unanswered.rs): at most so many.
const MAX_CHALLENGE: i64 = 10 * MINUTE;
/// More than a broker can answer in a minute.
const MAX_PER_MINUTE: i64 = 10_000_000;

/// Section, key, minimum, maximum.
const RANGES: [(&str, &str, i64, i64); 18] = [
    ("limits", "connections", 1, MANY),
    ("limits", "connections_per_address", 1, MANY),
    ("limits", "handshake_seconds", 1, HOUR),
    ("limits", "queue", 1, MANY),
    ("limits", "patience_seconds", 1, HOUR),
    ("limits", "connection_seconds", 1, DAY),
    ("limits", "challenge_seconds", 1, MAX_CHALLENGE),
    ("limits", "commit_seconds", 1, 7 * DAY),
    ("limits", "store_seconds", 0, DAY),
    ("limits", "hold_seconds", 1, DAY),
    ("limits", "requests_per_minute", 1, MAX_PER_MINUTE),
    ("limits", "hellos_per_minute", 1, MAX_PER_MINUTE),
    ("limits", "strangers_per_minute", 0, MAX_PER_MINUTE),
    ("limits", "stale_unlock_days", 0, CENTURY),
    ("policy", "least_rebuilders", 0, 1000),
    ("policy", "unreported_boots", 1, MANY),
    ("policy", "certificate_days", 1, CENTURY),
    ("audit", "witness_seconds", 1, DAY),
];

/// Refuses a number that is not in its range.
pub(super) fn check(file: &Table) -> Result<()> {
    for (section, key, least, most) in RANGES {
        if let Some(Value::Integer(value)) = file.get(section).and_then(|section| section.get(key)) {
            ensure!(
                (least..=most).contains(value),
                "cannot use {key} = {value} in [{section}]: expected a number from {least} to {most}"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::Config;

    fn file(section: &str, key: &str, value: i64) -> String {
        format!("listen = \"127.0.0.1:1\"\n[{section}]\n{key} = {value}\n")
    }

    #[test]
    fn every_number_is_refused_outside_of_its_range_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        for (section, key, least, most) in RANGES {
            for value in [i64::MIN, -1, 0, 1, least - 1, least, most, most + 1, i64::from(u32::MAX) + 1, i64::MAX] {
                let (text, is_good) = (file(section, key, value), (least..=most).contains(&value));
                assert_eq!(check(&text.parse().unwrap()).is_ok(), is_good, "{text}");
                if is_good {
                    continue;
                }
                std::fs::write(&path, &text).unwrap();
                let error = Config::read(&path).map_or_else(|error| format!("{error:#}"), |_| format!("read: {text}"));
                for word in [&path.display().to_string(), key, &value.to_string(), &format!("{least} to {most}")] {
                    assert!(error.contains(word), "{error}");
                }
            }
        }
    }

    #[test]
    fn every_number_that_init_writes_has_a_range() {
        let text = Config::text("127.0.0.1:1".parse().unwrap());
        let lines = text.lines().filter_map(|line| line.strip_prefix("# ")?.split_once(" = "));
        let numbers: BTreeSet<&str> =
            lines.filter(|(_, value)| value.parse::<i64>().is_ok()).map(|(key, _)| key).collect();
        assert_eq!(numbers, RANGES.map(|(_, key, ..)| key).into_iter().collect());
    }

    #[test]
    fn largest_numbers_can_be_added_to_the_time() {
        let numbers = |wanted: &str| {
            let lines = RANGES.iter().filter(|(section, ..)| *section == wanted);
            lines.map(|(_, key, _, most)| format!("{key} = {most}\n")).collect::<String>()
        };
        let text = ["limits", "policy", "audit"].map(|section| format!("[{section}]\n{}", numbers(section))).concat();
        let config: Config = toml::from_str(&format!("listen = \"127.0.0.1:1\"\n{text}")).unwrap();
        let (settings, now) = (config.settings(), std::time::Instant::now());
        for time in [settings.challenge, settings.commit, settings.store, settings.stale_unlock, settings.certificate] {
            assert!(now.checked_add(time).is_some() && u32::try_from(time.as_secs()).is_ok(), "{time:?}");
        }
        assert!(config.limits.connections < tokio::sync::Semaphore::MAX_PERMITS);
        assert!(config.limits.queue < tokio::sync::Semaphore::MAX_PERMITS);
    }
}
