//! What a machine's registers are, beside what was predicted of them.

use anyhow::{Result, ensure};
use measurements::boot::Point;
use measurements::compose::Composition;
use measurements::tpm::Value;

use super::pcr::Pcrs;

/// That all 16 registers are predicted exactly, and are so in every active bank.
pub fn same_registers(composition: &Composition, point: Point, pcrs: &Pcrs) -> Result<()> {
    let registers = composition.registers(point);
    ensure!(registers.len() == 16, "{} registers are predicted", registers.len());
    ensure!(pcrs.banks().next().is_some(), "the TPM has no active bank");
    for (register, value) in &registers {
        ensure!(matches!(value, Value::Exact(_)), "PCR {register} is not predicted: {value:?}");
        for bank in pcrs.banks() {
            let (expected, found) = (value.in_bank(bank), pcrs.get(bank, usize::from(*register)));
            let shown = |value: Option<&[u8]>| value.map(hex::encode).unwrap_or_default();
            ensure!(
                found.is_some() && found == expected,
                "PCR {register} ({bank}) is {}, not {}",
                shown(found),
                shown(expected)
            );
        }
    }
    Ok(())
}
