//! PCR 10: Linux IMA. A kernel with IMA and without a policy records one entry, the aggregate of PCR 0 to 9 of the SHA-256 bank
//! (Linux, `security/integrity/ima/ima_crypto.c` and `ima_init.c`; template `ima-sig`).

use std::collections::BTreeMap;

use super::Value;
use crate::event::kind;
use crate::{Bank, Event, Source};

/// The entry `boot_aggregate`, which follows from the other registers.
pub fn boot_aggregate(registers: &BTreeMap<u8, Value>) -> Event {
    let input = "aggregate of PCR 0 to 9 by the kernel";
    let mut joined = Vec::new();
    for register in 0..10 {
        match registers.get(&register).and_then(|value| value.in_bank(Bank::Sha256)) {
            Some(value) => joined.extend(value),
            None => {
                let reason = format!("PCR {register} is not known");
                return Event::unknown(10, kind::USER_SPACE, Source::Machine, input, reason);
            }
        }
    }
    let digest = [b"sha256:\0", &Bank::Sha256.digest(&joined)[..]].concat();
    let mut entry = Vec::new();
    for field in [&digest[..], b"boot_aggregate\0", b""] {
        entry.extend((field.len() as u32).to_le_bytes());
        entry.extend(field);
    }
    Event::of(10, kind::USER_SPACE, Source::Machine, input, &entry)
}
