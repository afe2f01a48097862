//! What it costs to verify evidence, in this process and on one CPU, against the one signature that must be checked in any case.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use attest::policy;
use attest::tpm::{AttestationKey, Evidence, check};
use cairn_tests::attester::{AttesterTpm as _, Quote};
use cairn_tests::event_log;
use measurements::Bank;
use measurements::parse::tcg_log::Log;
use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};
use xtask::bench::report::Found;
use xtask::bench::rounds::alternate;

use crate::fleet::Fleet;

/// So many in each round.
const BATCH: usize = 200;
const EXTRA_DATA: [u8; 32] = [7; 32];

pub fn measure(fleet: &mut Fleet, found: &mut Found) -> Result<()> {
    fleet.reboot()?;
    let node = fleet.nodes.first_mut().context("no nodes")?;
    let Quote { attest, signature, registers } = node.tpm.quote(Bank::Sha384, &EXTRA_DATA)?;
    let (area, log) = (node.tpm.attestation_key().to_vec(), event_log::write(&node.log));
    let registers = (0..).zip(registers).collect();
    let evidence = Evidence { attest: &attest, signature: &signature, registers: &registers };
    let verify = || -> Result<()> {
        let key = AttestationKey::parse(black_box(&area))?;
        let quoted = check(black_box(&evidence), &key, Bank::Sha384, &EXTRA_DATA)?;
        Ok(policy::check(&quoted, &Log::parse(black_box(&log))?, &fleet.composition)?)
    };
    // The public area ends with both halves of the point, the signature with both of its numbers, each behind its length.
    let halves = |bytes: &[u8]| -> Result<Vec<u8>> {
        let both = bytes.last_chunk::<66>().context("it is too short")?;
        Ok([&both[..32], &both[34..]].concat())
    };
    let (point, raw) = ([&[4][..], &halves(&area)?].concat(), halves(&signature)?);
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &point);
    let signed = || key.verify(black_box(&attest), black_box(&raw)).is_ok();
    ensure!(signed(), "the signature of a quote is wrong");
    let batch = |run: &dyn Fn() -> Result<()>| (0..BATCH).try_for_each(|_| run());
    let bare = || {
        ensure!(black_box(signed()), "the signature of a quote is wrong");
        Ok(())
    };
    let (ours, theirs) = alternate(|| batch(&verify), || batch(&bare))?;
    let per_second = |milliseconds: f64| BATCH as f64 * 1000.0 / milliseconds;
    found.figure("evidence verified (quote, log, policy), one CPU", "/s", per_second(ours));
    found.figure("signatures of P-256 checked, one CPU", "/s", per_second(theirs));
    found.figure("evidence, in checks of a signature", "", ours / theirs);
    Ok(())
}
