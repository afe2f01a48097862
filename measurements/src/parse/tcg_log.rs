//! The firmware's log in its crypto-agile form (TCG PC Client Platform Firmware Profile, section 10.2: TCG_PCR_EVENT2), as the kernel gives it in `binary_bios_measurements`.
//!
//! Read as it comes: separators twice, text in any encoding, events without action, tails of zeros or of 0xff. Refused: an event that leaves the log, digests of
//! algorithms that the header does not declare, a header that is not `Spec ID Event03`.

use super::bytes::At;
use super::log_kind::{self, READ};
use crate::Bank;
use crate::event::kind;

/// EV_NO_ACTION: informs, extends nothing.
pub const NO_ACTION: u32 = 3;
/// What the data of a header begins with.
const SIGNATURE: &[u8] = b"Spec ID Event03\0";
/// Most banks that a header may declare.
const MOST_BANKS: usize = 16;

/// A log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Banks that the header declares, those that are known here.
    pub banks: Vec<Bank>,
    /// The events behind the header.
    pub events: Vec<LogEvent>,
    /// Whether it is a CC event log (UEFI 2.10, section 38.4): its registers are those of TDX, 1 to 4 for RTMR 0 to 3.
    pub is_confidential: bool,
    /// StartupLocality, where the log has one: what PCR 0 begins with.
    pub locality: u8,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEvent {
    /// Register, as the log says.
    pub register: u32,
    /// Type (TCG_EVENTTYPE).
    pub kind: u32,
    /// Digests by bank, those that are known here.
    pub digests: Vec<(Bank, Vec<u8>)>,
    /// Event data.
    pub data: Vec<u8>,
}

/// Why a log is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first event is not the header.
    #[error("the log does not begin with a Spec ID Event03 header: {0}\nhint: {READ}")]
    Header(&'static str),
    /// It is another kind of log: which one, and what to do.
    #[error("{0}\nhint: {1}")]
    Other(String, String),
    /// An event cannot be read: its position among those that extend a register, its place in bytes, and what is wrong.
    #[error("event {0} at byte {1} cannot be read: {2}\nhint: copy the log again, as a binary file and to its end")]
    Event(usize, usize, &'static str),
}

impl Log {
    /// Reads a log.
    ///
    /// # Errors
    /// [`Error`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        Self::parse_agile(bytes).map_err(|error| match (&error, log_kind::of(bytes)) {
            (Error::Header(_), Some((found, hint))) => Error::Other(found, hint),
            _ => error,
        })
    }

    fn parse_agile(bytes: &[u8]) -> Result<Self, Error> {
        let short = || Error::Header("it is cut short");
        if bytes.word(4) != Some(NO_ACTION) {
            return Err(Error::Header("the first event is not EV_NO_ACTION"));
        }
        let length = bytes.word(28).ok_or_else(short)? as usize;
        let header = bytes.range(32, length).ok_or_else(short)?;
        if !header.starts_with(SIGNATURE) {
            return Err(Error::Header("it has another signature"));
        }
        let count = header.word(24).ok_or_else(short)? as usize;
        if count == 0 || count > MOST_BANKS {
            return Err(Error::Header("it declares no bank, or more than 16"));
        }
        let declared: Vec<(u16, usize)> = (0..count)
            .map(|index| Some((header.half(28 + 4 * index)?, usize::from(header.half(30 + 4 * index)?))))
            .collect::<Option<_>>()
            .ok_or_else(short)?;
        for (algorithm, size) in &declared {
            if Bank::of_algorithm(*algorithm).is_some_and(|bank| bank.length() != *size) {
                return Err(Error::Header("it declares a digest with a wrong length"));
            }
        }
        let mut log = Self {
            banks: declared.iter().filter_map(|(id, _)| Bank::of_algorithm(*id)).collect(),
            events: Vec::new(),
            is_confidential: bytes.word(0) != Some(0),
            locality: 0,
        };
        let mut has_hcrtm = false;
        let mut at = 32 + length;
        let tail = tail(bytes);
        while at < tail {
            let wrong = |problem| Error::Event(log.extending().count(), at, problem);
            let (event, end) = event(bytes, at, &declared).map_err(wrong)?;
            if event.data.starts_with(SIGNATURE) {
                return Err(wrong("another log begins there, with a header of its own"));
            }
            if event.kind == NO_ACTION && event.data.starts_with(b"StartupLocality\0") {
                log.locality = event.data.byte(16).unwrap_or(0);
            }
            has_hcrtm |= event.kind == kind::HCRTM && event.register == 0;
            log.events.push(event);
            at = end;
        }
        // An H-CRTM was measured before the TPM was started, which takes the locality of both (TPM 2.0 Library, Part 1, 34.3).
        if has_hcrtm {
            log.locality = HCRTM_LOCALITY;
        }
        Ok(log)
    }

    /// The events that extend a register, in order: positions in errors and verdicts are among these.
    pub fn extending(&self) -> impl Iterator<Item = &LogEvent> {
        self.events.iter().filter(|event| event.kind != NO_ACTION)
    }

    /// The value of a register in a bank after all events.
    pub fn replay(&self, bank: Bank, register: u32) -> Vec<u8> {
        let mut value = vec![0; bank.length()];
        if register == 0 {
            *value.last_mut().unwrap_or(&mut 0) = self.locality;
        }
        let events = self.extending().filter(|event| event.register == register);
        for (_, digest) in events.flat_map(|event| &event.digests).filter(|(found, _)| *found == bank) {
            value = bank.extend(&value, digest);
        }
        value
    }
}

/// Of `_TPM_Hash_Start`, which an H-CRTM uses.
const HCRTM_LOCALITY: u8 = 4;

/// Where the zeros or the 0xff at the end begin: no event begins there.
fn tail(bytes: &[u8]) -> usize {
    let last = bytes.last().copied().filter(|byte| matches!(byte, 0 | 0xff));
    bytes.iter().rposition(|byte| Some(*byte) != last).map_or(0, |at| at + 1)
}

fn event(bytes: &[u8], start: usize, declared: &[(u16, usize)]) -> Result<(LogEvent, usize), &'static str> {
    const SHORT: &str = "it leaves the log";
    let (register, kind) = (bytes.word(start).ok_or(SHORT)?, bytes.word(start + 4).ok_or(SHORT)?);
    let count = bytes.word(start + 8).ok_or(SHORT)? as usize;
    if count > declared.len() {
        return Err("it has more digests than the header declares banks");
    }
    let mut at = start + 12;
    let mut digests = Vec::new();
    for _ in 0..count {
        let algorithm = bytes.half(at).ok_or(SHORT)?;
        let (_, size) =
            declared.iter().find(|(id, _)| *id == algorithm).ok_or("it has a digest of an undeclared bank")?;
        let digest = bytes.range(at + 2, *size).ok_or(SHORT)?;
        if let Some(bank) = Bank::of_algorithm(algorithm) {
            digests.push((bank, digest.to_vec()));
        }
        at += 2 + size;
    }
    let length = bytes.word(at).ok_or(SHORT)? as usize;
    let data = bytes.range(at + 4, length).ok_or(SHORT)?.to_vec();
    Ok((LogEvent { register, kind, digests, data }, at + 4 + length))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Event;

    /// The log of a machine that measured these events, in these banks.
    pub(crate) fn log_of(events: &[Event], banks: &[Bank]) -> Log {
        let event = |event: &Event| {
            let legal = event.digests.legal()[0].clone().into_iter();
            LogEvent {
                register: event.register.into(),
                kind: event.kind,
                digests: legal.filter(|(bank, _)| banks.contains(bank)).collect(),
                data: event.data.clone().unwrap_or_default(),
            }
        };
        Log { banks: banks.to_vec(), events: events.iter().map(event).collect(), is_confidential: false, locality: 0 }
    }

    fn header() -> Vec<u8> {
        let mut spec = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02\x02\0\0\0".to_vec();
        for (id, size) in [(4_u16, 20_u16), (11, 32)] {
            spec.extend(id.to_le_bytes());
            spec.extend(size.to_le_bytes());
        }
        spec.push(0);
        let mut log = [0, 0, 0, 0, 3, 0, 0, 0].to_vec();
        log.extend([0; 20]);
        log.extend((spec.len() as u32).to_le_bytes());
        log.extend(spec);
        log
    }

    fn event(register: u32, data: &[u8]) -> Vec<u8> {
        let mut event = [register, 4, 2].iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        for bank in [Bank::Sha1, Bank::Sha256] {
            event.extend(bank.algorithm().to_le_bytes());
            event.extend(bank.digest(data));
        }
        event.extend((data.len() as u32).to_le_bytes());
        event.extend(data);
        event
    }

    #[test]
    fn events_are_replayed_in_order_and_tails_are_ignored() {
        let mut bytes = [header(), event(4, b"one"), event(5, b"x"), event(4, b"two")].concat();
        for tail in [&[0; 40][..], &[0xff; 7], &[]] {
            let length = bytes.len();
            bytes.extend(tail);
            let log = Log::parse(&bytes).unwrap();
            assert_eq!((log.banks.as_slice(), log.events.len()), (&[Bank::Sha1, Bank::Sha256][..], 3));
            let bank = Bank::Sha256;
            let once = bank.extend(&[0; 32], &bank.digest(b"one"));
            assert_eq!(log.replay(bank, 4), bank.extend(&once, &bank.digest(b"two")));
            assert_eq!(log.replay(bank, 9), [0; 32]);
            bytes.truncate(length);
        }
    }

    #[test]
    fn register_0_of_a_machine_with_an_h_crtm_begins_with_its_locality() {
        let bank = Bank::Sha256;
        let replay = |events: &[Vec<u8>]| Log::parse(&[header(), events.concat()].concat()).unwrap().replay(bank, 0);
        let of_kind = |kind: u32, mut event: Vec<u8>| {
            event[4..8].copy_from_slice(&kind.to_le_bytes());
            event
        };
        let hcrtm = of_kind(kind::HCRTM, event(0, b"HCRTM"));
        let mut start = [0; 32];
        let from = |start: &[u8; 32]| bank.extend(start, &bank.digest(b"HCRTM"));
        assert_eq!(replay(&[event(0, b"HCRTM")]), from(&start), "another type of event");
        start[31] = 4;
        assert_eq!(replay(std::slice::from_ref(&hcrtm)), from(&start));
        // What a later event says of a locality is of the start without it.
        let locality = of_kind(NO_ACTION, event(0, b"StartupLocality\0\x03"));
        assert_eq!(replay(&[hcrtm, locality.clone()]), from(&start));
        start[31] = 3;
        assert_eq!(replay(&[locality, event(0, b"HCRTM")]), from(&start));
    }

    #[test]
    fn two_logs_in_one_file_are_refused() {
        let log = [header(), event(4, b"one")].concat();
        let error = Log::parse(&log.repeat(2)).unwrap_err().to_string();
        assert!(error.contains("another log begins there") && error.contains("hint: copy the log again"), "{error}");
    }

    #[test]
    fn a_log_of_empty_events_is_read_in_one_pass() {
        let mut bytes = [header(), vec![0; 16 << 16]].concat();
        bytes.extend([4, 0, 0, 0].repeat(3));
        bytes.extend([4; 4]);
        let start = std::time::Instant::now();
        assert!(matches!(Log::parse(&bytes), Err(Error::Event(65_536, ..))));
        // One look at the rest of the log for every event would take minutes.
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }

    #[test]
    fn damaged_logs_are_errors_and_never_panics() {
        let good = [header(), event(4, b"one"), event(5, b"x")].concat();
        for length in 0..good.len() {
            let _ = Log::parse(&good[..length]);
        }
        for at in 0..good.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = value;
                let _ = Log::parse(&bytes);
            }
        }
        let mut huge = good.clone();
        let at = huge.len() - 5;
        huge[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(Log::parse(&huge), Err(Error::Event(1, _, "it leaves the log"))));
    }
}
