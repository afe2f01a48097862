//! Writes the log that a firmware keeps of what it measures (TCG PC Client Platform Firmware Profile, section 10.2), for nodes without a firmware.

use measurements::parse::tcg_log::{Log, LogEvent, NO_ACTION};
use measurements::{Bank, Event};

const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";

/// The log of a machine that measured the first legal digest of each of these events.
pub fn of(events: &[Event], banks: &[Bank]) -> Log {
    let logged = |event: &Event| {
        let legal = event.digests.legal().first().cloned().unwrap_or_default();
        LogEvent {
            register: event.register.into(),
            kind: event.kind,
            digests: legal.into_iter().filter(|(bank, _)| banks.contains(bank)).collect(),
            data: event.data.clone().unwrap_or_default(),
        }
    };
    Log { banks: banks.to_vec(), events: events.iter().map(logged).collect(), is_confidential: false, locality: 0 }
}

/// Its bytes.
pub fn write(log: &Log) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    // Platform class, version 2.0 errata 2, size of UINTN.
    header.extend([0, 0, 0, 0, 0, 2, 2, 2]);
    header.extend((log.banks.len() as u32).to_le_bytes());
    for bank in &log.banks {
        header.extend(bank.algorithm().to_le_bytes());
        header.extend((bank.length() as u16).to_le_bytes());
    }
    // No vendor information.
    header.push(0);
    // The first event is of the older form: one digest of SHA-1, zero.
    let mut bytes = [0_u32, NO_ACTION].map(u32::to_le_bytes).concat();
    bytes.extend([0; 20]);
    bytes.extend((header.len() as u32).to_le_bytes());
    bytes.extend(header);
    for event in &log.events {
        bytes.extend([event.register, event.kind, event.digests.len() as u32].map(u32::to_le_bytes).concat());
        for (bank, digest) in &event.digests {
            bytes.extend(bank.algorithm().to_le_bytes());
            bytes.extend(digest);
        }
        bytes.extend((event.data.len() as u32).to_le_bytes());
        bytes.extend(&event.data);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use measurements::Source;

    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let event = Event::of(4, 0x8000_0003, Source::Image, "the UKI", b"the UKI").with_data(*b"data");
        let log = of(&[event], &[Bank::Sha256, Bank::Sha384]);
        assert_eq!(Log::parse(&write(&log)).unwrap(), log);
        assert_eq!(log.events[0].digests.len(), 2);
    }
}
