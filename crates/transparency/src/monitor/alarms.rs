//! Alarms that stay until an operator acknowledges them: each has a number, which is never used for another alarm, and is part of the monitor's state.

use measurements::bytes::{Bytes32, at_most};
use serde::{Deserialize, Serialize};

/// Maximum number of alarms in the state. Whoever has one of the keys can cause any number: further entries are counted by one alarm.
const MAX_ALARMS: usize = 256;
/// Maximum number of forks in the state, each with a head. Further forks are not kept: the first ones prove that the log forked.
pub(super) const MAX_FORKS: usize = 16;

/// A condition that an operator must examine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "condition", deny_unknown_fields)]
pub enum Alarm {
    /// The log's heads contradict each other, or its entries.
    Fork {
        /// The contradiction.
        found: String,
        /// The head that contradicts the state, as the log signed it.
        head: String,
    },
    /// An entry under a key of the trust root, whose statement is in none of the published files.
    Unpublished {
        /// Number of the entry, from 0.
        index: u64,
        /// SHA-256 of the signed bytes.
        digest: Bytes32,
    },
    /// Further entries of this kind, for which the state has no room.
    Unlisted {
        /// Number of the first entry.
        index: u64,
        /// Number of entries.
        count: u64,
    },
    /// The log has not grown.
    Frozen {
        /// Time since the last new entry was read.
        seconds: u64,
    },
}

/// An alarm that no operator has acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAlarm {
    /// The condition, as it was seen last.
    pub alarm: Alarm,
    /// Number by which the alarm is acknowledged, from 1.
    pub number: u64,
    /// Time of the look that raised it, seconds since 1970.
    pub raised: u64,
}

/// All alarms that are open, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenAlarms {
    /// Number of the newest alarm, open or not.
    newest: u64,
    #[serde(deserialize_with = "at_most::<MAX_ALARMS, _, _>")]
    open: Vec<OpenAlarm>,
}

impl OpenAlarms {
    /// Whether no alarm was ever raised.
    pub fn is_unused(&self) -> bool {
        self.newest == 0
    }

    /// Open alarms, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &OpenAlarm> {
        self.open.iter()
    }

    /// Adds an alarm, or updates the open one of the same condition.
    pub(super) fn raise(&mut self, alarm: Alarm, now: u64) {
        let forks = self.open.iter().filter(|open| matches!(open.alarm, Alarm::Fork { .. })).count();
        let same = |open: &&mut OpenAlarm| match (&open.alarm, &alarm) {
            (Alarm::Frozen { .. }, Alarm::Frozen { .. }) => true,
            (Alarm::Fork { found, .. }, Alarm::Fork { found: again, .. }) => found == again,
            _ => false,
        };
        if let Some(open) = self.open.iter_mut().find(same) {
            if matches!(alarm, Alarm::Frozen { .. }) {
                open.alarm = alarm;
            }
            return;
        }
        // One place each is left for `Unlisted` and `Frozen`, and MAX_FORKS for forks.
        let listed = self.open.len() - forks;
        match alarm {
            Alarm::Fork { .. } if forks >= MAX_FORKS => {}
            Alarm::Unpublished { index, .. } if listed >= MAX_ALARMS - MAX_FORKS - 2 => self.count_unlisted(index, now),
            alarm => self.push(alarm, now),
        }
    }

    fn count_unlisted(&mut self, index: u64, now: u64) {
        let unlisted = self.open.iter_mut().find_map(|open| match &mut open.alarm {
            Alarm::Unlisted { index, count } => Some((index, count)),
            _ => None,
        });
        match unlisted {
            // Entries that are read again have lower numbers.
            Some((first, count)) => (*first, *count) = (index.min(*first), *count + 1),
            None => self.push(Alarm::Unlisted { index, count: 1 }, now),
        }
    }

    fn push(&mut self, alarm: Alarm, now: u64) {
        self.newest += 1;
        self.open.push(OpenAlarm { alarm, number: self.newest, raised: now });
    }

    /// Removes the alarms with these numbers; if one of them is not open, returns it and removes nothing.
    ///
    /// # Errors
    /// The number.
    pub fn acknowledge(&mut self, numbers: &[u64]) -> Result<(), u64> {
        let is_open = |number: u64| self.open.iter().any(|open| open.number == number);
        if let Some(unknown) = numbers.iter().copied().find(|number| !is_open(*number)) {
            return Err(unknown);
        }
        self.open.retain(|open| !numbers.contains(&open.number));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpublished(index: u64) -> Alarm {
        Alarm::Unpublished { index, digest: Bytes32([7; 32]) }
    }

    #[test]
    fn number_of_an_acknowledged_alarm_is_not_used_again() {
        let mut alarms = OpenAlarms::default();
        alarms.raise(unpublished(3), 5);
        alarms.raise(unpublished(4), 5);
        assert_eq!(alarms.acknowledge(&[2, 9]), Err(9));
        assert_eq!(alarms.iter().count(), 2, "a wrong number acknowledges nothing");
        assert_eq!(alarms.acknowledge(&[2]), Ok(()));
        alarms.raise(unpublished(5), 6);
        assert_eq!(alarms.iter().map(|open| open.number).collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn alarms_of_any_number_are_kept_in_bounded_space_and_none_is_forgotten() {
        let mut alarms = OpenAlarms::default();
        (0..1000).for_each(|index| alarms.raise(unpublished(index), 5));
        for index in 0..100 {
            alarms.raise(Alarm::Fork { found: format!("fork {index}"), head: "x".into() }, 6);
            alarms.raise(Alarm::Frozen { seconds: index }, 6);
        }
        assert!(alarms.iter().count() <= MAX_ALARMS);
        let mut entries = 0;
        for open in alarms.iter() {
            match &open.alarm {
                Alarm::Unpublished { .. } => entries += 1,
                Alarm::Unlisted { index, count } => {
                    assert_eq!(*index, entries);
                    entries += count;
                }
                Alarm::Frozen { seconds } => assert_eq!(*seconds, 99),
                Alarm::Fork { .. } => {}
            }
        }
        assert_eq!(entries, 1000);
    }
}
