//! Logs of real machines, made by other firmware than ours: they are read whole, and replayed to what the machine attested.

#![allow(clippy::unwrap_used)]

use measurements::Bank;
use measurements::parse::tcg_log::Log;

/// TD report body in a quote of version 4 (Intel TDX DCAP Quoting Library API, appendix 3): header, then fields up to the RTMRs.
const RTMR: usize = 48 + 328;

#[test]
fn the_registers_of_a_trust_domain_follow_from_its_log() {
    let log = Log::parse(include_bytes!("recorded/tdx-cos113-ccel.bin")).unwrap();
    let quote = include_bytes!("recorded/tdx-cos113-quote.bin");
    assert_eq!(log.banks, [Bank::Sha384]);
    for index in 0..3 {
        // In such a log, register 0 is MRTD and 1 is RTMR 0.
        let replayed = log.replay(Bank::Sha384, index + 1);
        let start = RTMR + 48 * index as usize;
        assert_eq!(hex::encode(&replayed), hex::encode(&quote[start..start + 48]), "RTMR {index}");
    }
}

#[test]
fn logs_of_other_machines_are_read_to_their_end() {
    for (name, bytes, least) in [
        ("GCP, UKI", &include_bytes!("recorded/tpm-gcp-uki-eventlog.bin")[..], 20),
        ("systemd-boot of Fedora", include_bytes!("recorded/tpm-sdboot-fedora37-eventlog.bin"), 5),
        ("systemd-boot of Arch", include_bytes!("recorded/tpm-arch-sdboot-eventlog.bin"), 20),
        ("RHEL 8, shim and grub", include_bytes!("recorded/tpm-rhel8-eventlog.bin"), 20),
    ] {
        let log = Log::parse(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(log.events.len() >= least, "{name}: {} events", log.events.len());
        // What firmware measures as its own words has the digest of these words: digests and data belong together.
        let actions = log.events.iter().filter(|event| event.kind == measurements::event::kind::ACTION);
        for event in actions {
            for (bank, digest) in &event.digests {
                assert_eq!(digest, &bank.digest(&event.data), "{name}: {}", String::from_utf8_lossy(&event.data));
            }
        }
    }
}
