//! Registers of a system that runs, and how two boots differ in them.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use xtask::vm::pcr::{Bank, Pcrs};

use crate::registers::{self, PHASES};
use crate::suite::Suite;
use crate::watch::Watched;

/// The last phase is measured about when the multi-user target is reached.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Waits until PCR 11 is that of `uki` in a running system, in every bank; returns all registers.
pub fn settled(watched: &Watched, uki: &[u8]) -> Result<Pcrs> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let pcrs = watched.vm.pcrs()?;
        let wrong = differing_bank(&pcrs, uki)?;
        match wrong {
            None => return Ok(pcrs),
            Some(bank) if Instant::now() > deadline => {
                let reached = (0..=PHASES.len())
                    .find(|count| registers::pcr11(bank, uki, &PHASES[..*count]).ok().as_deref() == pcrs.get(bank, 11));
                let reached = reached
                    .map_or("of none of its phases".to_owned(), |count| format!("after phases {:?}", &PHASES[..count]));
                bail!("PCR 11 ({bank}) is not that of the running image, but that {reached}{}", watched.last_lines());
            }
            Some(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn differing_bank(pcrs: &Pcrs, uki: &[u8]) -> Result<Option<Bank>> {
    for bank in pcrs.banks() {
        if pcrs.get(bank, 11) != Some(&registers::pcr11(bank, uki, &PHASES)?) {
            return Ok(Some(bank));
        }
    }
    Ok(None)
}

/// The registers of the production image, booted on the plain machine; booted once for all rows.
pub fn baseline(suite: &Suite) -> Result<&Pcrs> {
    let boot = || -> Result<Pcrs> {
        let mut watched = Watched::start(suite, "baseline", &suite.machine(&[suite.image.file("raw")]))?;
        watched.must_run()?;
        settled(&watched, &suite.image.read("efi")?)
    };
    let result = suite.baseline.get_or_init(|| boot().map_err(|error| format!("{error:#}")));
    result.as_ref().map_err(|message| anyhow!("the plain boot to compare with failed: {message}"))
}

/// The registers below 16 that differ in any bank.
pub fn moved(before: &Pcrs, after: &Pcrs) -> Vec<usize> {
    let differs = |index: &usize| before.banks().any(|bank| before.get(bank, *index) != after.get(bank, *index));
    (0..16).filter(differs).collect()
}
