//! Registers as people read them from a machine: what `tpm2_pcrread` prints (tpm2-tools), a line `sha256:` for each bank and a line `4 : 0x...` for each register.
//!
//! Banks that are not known here are left out; a register twice, or of a wrong length, is refused.

use crate::Bank;
use crate::explain::registers::Registers;

/// Why registers are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line is none of tpm2_pcrread.
    #[error("line {0} is not as `tpm2_pcrread` prints it: {1:?}")]
    Line(usize, String),
    /// There are none.
    #[error("there is no register in it: give what `tpm2_pcrread` prints")]
    Empty,
}

/// Characters of a line in an error.
const MOST_SHOWN: usize = 100;

/// Reads registers.
///
/// # Errors
/// [`Error`].
pub fn parse(bytes: &[u8]) -> Result<Registers, Error> {
    let mut registers = Registers::new();
    let mut bank = None;
    for (number, line) in (1..).zip(String::from_utf8_lossy(bytes).lines()) {
        let line = line.trim();
        let damaged = || Error::Line(number, line.chars().take(MOST_SHOWN).collect());
        let Some((name, value)) = line.split_once(':').map(|(name, value)| (name.trim(), value.trim())) else {
            if line.is_empty() {
                continue;
            }
            return Err(damaged());
        };
        if value.is_empty() {
            bank = Some(Bank::ALL.into_iter().find(|bank| bank.name() == name));
            continue;
        }
        let Some(bank) = bank.ok_or_else(damaged)? else { continue };
        let register: u8 = name.parse().map_err(|_| damaged())?;
        let digits = value.strip_prefix("0x").or(value.strip_prefix("0X")).unwrap_or(value);
        let value = hex::decode(digits).ok().filter(|value| value.len() == bank.length()).ok_or_else(damaged)?;
        if register > 23 || registers.entry(bank).or_default().insert(register, value).is_some() {
            return Err(damaged());
        }
    }
    if registers.is_empty() { Err(Error::Empty) } else { Ok(registers) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read_as_tpm2_pcrread_prints_them() {
        let text = format!(
            "  sha1:\n  sm3_256:\n    0 : 0xAB\n  sha256:\n    0 : 0x{}\n    11: 0x{}\n",
            "AB".repeat(32),
            "00".repeat(32)
        );
        let registers = parse(text.as_bytes()).unwrap();
        assert_eq!(registers[&Bank::Sha256][&0], [0xab; 32]);
        assert_eq!((registers.len(), registers[&Bank::Sha256].len()), (1, 2));
    }

    #[test]
    fn other_text_is_refused_with_its_line() {
        for (text, line) in [
            ("sha256:\n 0 : 0xAB\n", 2),
            ("0 : 0xAB\n", 1),
            ("hello\n", 1),
            (&format!("sha1:\n 0 : {0}\n 0 : {0}\n", "00".repeat(20)), 3),
            (&format!("sha1:\n 24 : {}\n", "00".repeat(20)), 2),
        ] {
            assert!(matches!(parse(text.as_bytes()), Err(Error::Line(found, _)) if found == line), "{text}");
        }
        assert_eq!(parse(b"sha256:\n"), Err(Error::Empty));
    }
}
