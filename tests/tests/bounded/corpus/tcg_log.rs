//! Firmware logs: a header with SHA-1, SHA-256 and one algorithm that is not known here, and short events.

use measurements::Bank;

use super::{File, file, patched};

/// SM3, with 32 bytes.
const UNKNOWN: (u16, u16) = (0x12, 32);
const BANKS: [(u16, u16); 3] = [(4, 20), (11, 32), UNKNOWN];
const NO_ACTION: u32 = 3;

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

fn header(banks: &[(u16, u16)]) -> Vec<u8> {
    let mut spec = b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02".to_vec();
    spec.extend((banks.len() as u32).to_le_bytes());
    spec.extend(banks.iter().flat_map(|(id, size)| [id.to_le_bytes(), size.to_le_bytes()]).flatten());
    spec.push(0);
    [words(&[0, NO_ACTION, 0, 0, 0, 0, 0, spec.len() as u32]), spec].concat()
}

fn event(register: u32, kind: u32, data: &[u8]) -> Vec<u8> {
    let mut event = words(&[register, kind, BANKS.len() as u32]);
    for (id, size) in BANKS {
        let digest = Bank::of_algorithm(id).map_or(vec![0x33; size.into()], |bank| bank.digest(data));
        event.extend(id.to_le_bytes());
        event.extend(digest);
    }
    event.extend((data.len() as u32).to_le_bytes());
    event.extend(data);
    event
}

pub fn files() -> Vec<File> {
    let start = header(&BANKS);
    let locality = event(0, NO_ACTION, b"StartupLocality\0\x03");
    let events = [event(0, 8, b"1\0"), event(7, 0x8000_0001, &[1; 40]), event(4, 4, &[0; 4])].concat();
    let good = [&start[..], &locality, &events].concat();
    let last = good.len() - 4;
    let undeclared = patched(&good, start.len() + 12, &[0x0c, 0]);
    let with = |tail: &[u8]| [&good[..], tail].concat();
    vec![
        file("tcg_log", "three-events", good.clone()),
        file("tcg_log", "no-events", start.clone()),
        file("tcg_log", "zeros-behind", with(&[0; 600])),
        file("tcg_log", "ff-behind", with(&[0xff; 600])),
        file("tcg_log", "zeros-then-ff-behind", with(&[[0; 100], [0xff; 100]].concat())),
        file("tcg_log", "event-of-4-gib", patched(&good, last - 4, &[0xff; 4])),
        file("tcg_log", "event-one-byte-too-long", patched(&good, last - 4, &[5])),
        file("tcg_log", "empty-events", [&start[..], &[0; 8192], &words(&[4, 4, 0, 4, 1])].concat()),
        file("tcg_log", "undeclared-bank", undeclared),
        file("tcg_log", "four-digests", patched(&good, start.len() + 8, &[4])),
        file("tcg_log", "digests-of-4-gib", patched(&good, start.len() + 8, &[0xff; 4])),
        file("tcg_log", "sixteen-banks", header(&[UNKNOWN; 16])),
        file("tcg_log", "seventeen-banks", header(&[UNKNOWN; 17])),
        file("tcg_log", "banks-of-64-kib", header(&[(0x12, u16::MAX); 2])),
        file("tcg_log", "sha1-of-32-bytes", header(&[(4, 32)])),
        file("tcg_log", "header-of-4-gib", patched(&good, 28, &[0xff; 4])),
        file("tcg_log", "cut-in-its-header", &good[..50]),
        file("tcg_log", "cut-in-an-event", &good[..last - 50]),
    ]
}
