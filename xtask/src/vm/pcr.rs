//! What a TPM's registers must hold after a list of commands (TPM 2.0 Library, Part 3, "Integrity Collection (PCR)").
//!
//! Commands that change registers in ways that no boot of ours uses (resume, bank allocation, dynamic launch) are refused instead of guessed at.

use std::collections::BTreeMap;

pub use measurements::Bank;

use super::tpm_log::{LogError, Message, messages};

/// The log cannot be replayed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// It is damaged.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A message ends too early.
    #[error("TPM command 0x{0:x} is cut short")]
    Short(u32),
    /// A command whose effect is not modelled.
    #[error("{0} was executed, which is not modelled: the registers cannot be known")]
    Unmodelled(&'static str),
}

/// All registers of all active banks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pcrs {
    banks: BTreeMap<Bank, Vec<Vec<u8>>>,
}

const REGISTERS: usize = 24;
/// A bank that no machine of ours has: its digests are skipped.
const SM3: u16 = 0x12;

impl Pcrs {
    /// The registers after power-on: zero, but 17 to 22 all ones.
    pub fn at_reset(banks: &[Bank]) -> Self {
        let values = |bank: &Bank| {
            let initial = |index| if (17..=22).contains(&index) { 0xff } else { 0 };
            (0..REGISTERS).map(|index| vec![initial(index); bank.length()]).collect()
        };
        Self { banks: banks.iter().map(|bank| (*bank, values(bank))).collect() }
    }

    /// The active banks.
    pub fn banks(&self) -> impl Iterator<Item = Bank> {
        self.banks.keys().copied()
    }

    /// A register; `None` for a bank that is not active or an index above 23.
    pub fn get(&self, bank: Bank, index: usize) -> Option<&[u8]> {
        self.banks.get(&bank)?.get(index).map(Vec::as_slice)
    }

    /// Replays what swtpm logged.
    pub(super) fn replay(log: &str, banks: &[Bank]) -> Result<Self, ReplayError> {
        let states = Self::states(log, banks)?;
        Ok(states.into_iter().next_back().unwrap_or_else(|| Self::at_reset(banks)))
    }

    /// Every state that the registers were in, in order.
    pub(super) fn states(log: &str, banks: &[Bank]) -> Result<Vec<Self>, ReplayError> {
        let mut pcrs = Self::at_reset(banks);
        let mut states = vec![pcrs.clone()];
        let mut pending = None;
        for message in messages(log)? {
            match message {
                Message::Control(bytes) => pcrs.control(&bytes, banks)?,
                Message::Command(bytes) => pending = Some(bytes),
                Message::Response(response) => {
                    if let Some(command) = pending.take() {
                        pcrs.execute(&command, &response)?;
                    }
                }
            }
            if states.last() != Some(&pcrs) {
                states.push(pcrs.clone());
            }
        }
        Ok(states)
    }

    /// swtpm's control commands (swtpm_ioctls(3)).
    fn control(&mut self, bytes: &[u8], banks: &[Bank]) -> Result<(), ReplayError> {
        match bytes {
            [0, 0, 0, 2, ..] => *self = Self::at_reset(banks),
            [0, 0, 0, 6..=8, ..] => return Err(ReplayError::Unmodelled("a dynamic launch (HASH_START)")),
            _ => {}
        }
        Ok(())
    }

    fn execute(&mut self, command: &[u8], response: &[u8]) -> Result<(), ReplayError> {
        let mut command = Reader::new(command)?;
        let mut response = Reader { bytes: response, code: command.code };
        // Tag and size come before the result.
        response.take(6)?;
        if response.u32()? != 0 {
            return Ok(());
        }
        match command.code {
            0x144 => command.startup()?,
            0x12b => return Err(ReplayError::Unmodelled("TPM2_PCR_Allocate")),
            0x182 => {
                let index = command.handle_and_sessions()?;
                self.extend_list(index, &mut command)?;
            }
            0x13c => {
                let index = command.handle_and_sessions()?;
                let length = usize::from(command.u16()?);
                let data = command.take(length)?;
                let digests: Vec<_> = self.banks().map(|bank| (bank, bank.digest(data))).collect();
                digests.iter().for_each(|(bank, digest)| self.extend(index, *bank, digest));
            }
            0x13d => {
                let index = command.handle_and_sessions()?;
                for values in self.banks.values_mut() {
                    values.iter_mut().skip(index).take(1).for_each(|value| value.fill(0));
                }
            }
            0x185 => {
                let index = command.u32()? as usize;
                // Size of the parameters, which are the digests.
                response.take(4)?;
                self.extend_list(index, &mut response)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// TPML_DIGEST_VALUES.
    fn extend_list(&mut self, index: usize, reader: &mut Reader<'_>) -> Result<(), ReplayError> {
        for _ in 0..reader.u32()? {
            let algorithm = reader.u16()?;
            match Bank::of_algorithm(algorithm) {
                Some(bank) => {
                    let digest = reader.take(bank.length())?.to_vec();
                    self.extend(index, bank, &digest);
                }
                None if algorithm == SM3 => drop(reader.take(32)?),
                None => return Err(ReplayError::Unmodelled("an extend with an unknown algorithm")),
            }
        }
        Ok(())
    }

    /// A bank that is not active ignores it, as does an index that is no register (TPM_RH_NULL).
    fn extend(&mut self, index: usize, bank: Bank, digest: &[u8]) {
        if let Some(value) = self.banks.get_mut(&bank).and_then(|values| values.get_mut(index)) {
            *value = bank.extend(value, digest);
        }
    }
}

/// A command or response, read from the front.
struct Reader<'a> {
    bytes: &'a [u8],
    code: u32,
}

impl<'a> Reader<'a> {
    /// Tag, size, command code.
    fn new(command: &'a [u8]) -> Result<Self, ReplayError> {
        let mut reader = Self { bytes: command, code: 0 };
        reader.take(6)?;
        reader.code = reader.u32()?;
        Ok(reader)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ReplayError> {
        let (head, rest) = self.bytes.split_at_checked(count).ok_or(ReplayError::Short(self.code))?;
        self.bytes = rest;
        Ok(head)
    }

    fn u16(&mut self) -> Result<u16, ReplayError> {
        Ok(self.take(2)?.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte)))
    }

    fn u32(&mut self) -> Result<u32, ReplayError> {
        Ok(self.take(4)?.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte)))
    }

    /// Only TPM_SU_CLEAR starts from the reset values.
    fn startup(&mut self) -> Result<(), ReplayError> {
        if self.u16()? == 0 { Ok(()) } else { Err(ReplayError::Unmodelled("TPM2_Startup(STATE)")) }
    }

    /// The register's handle; the authorization area behind it is skipped.
    fn handle_and_sessions(&mut self) -> Result<usize, ReplayError> {
        let handle = self.u32()? as usize;
        let length = self.u32()? as usize;
        self.take(length)?;
        Ok(handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STARTUP: &str = "80010000000c000001440000";
    const GOOD: &str = "80010000000a00000000";
    const SESSION: &str = "00000009400000090000000000";

    fn entry(heading: &str, hex_text: &str) -> String {
        let bytes = hex::decode(hex_text).unwrap();
        let dump: String = bytes
            .chunks(16)
            .map(|row| format!(" {}\n", row.iter().map(|b| format!("{b:02X} ")).collect::<String>()))
            .collect();
        format!(" {heading}: length {}\n{dump}", bytes.len())
    }

    fn log(exchanges: &[(&str, &str)]) -> String {
        let exchange =
            |(command, response): &(&str, &str)| entry("SWTPM_IO_Read", command) + &entry("SWTPM_IO_Write", response);
        exchanges.iter().map(exchange).collect()
    }

    fn command(code: &str, body: &str) -> String {
        format!("8002{:08x}{code}{body}", 10 + body.len() / 2)
    }

    fn extend(index: u32, digests: &[(Bank, u8)]) -> String {
        let algorithm = |bank| match bank {
            Bank::Sha1 => "0004",
            Bank::Sha256 => "000b",
            Bank::Sha384 => "000c",
            Bank::Sha512 => "000d",
        };
        let list: String = digests
            .iter()
            .map(|(bank, fill)| format!("{}{}", algorithm(*bank), hex::encode(vec![*fill; bank.length()])))
            .collect();
        command("00000182", &format!("{index:08x}{SESSION}{:08x}{list}", digests.len()))
    }

    fn replay(exchanges: &[(&str, &str)]) -> Result<Pcrs, ReplayError> {
        Pcrs::replay(&log(exchanges), &[Bank::Sha256, Bank::Sha384])
    }

    #[test]
    fn registers_start_at_zero_or_all_ones() {
        let pcrs = replay(&[(STARTUP, GOOD)]).unwrap();
        for (index, byte) in [(0, 0), (15, 0), (16, 0), (17, 0xff), (22, 0xff), (23, 0)] {
            assert_eq!(pcrs.get(Bank::Sha384, index).unwrap(), [byte; 48], "PCR {index}");
        }
        assert_eq!(pcrs.get(Bank::Sha256, 24), None);
        assert_eq!(pcrs.get(Bank::Sha512, 0), None);
    }

    #[test]
    fn an_extend_touches_exactly_the_banks_it_names() {
        let both = extend(11, &[(Bank::Sha256, 1), (Bank::Sha384, 2), (Bank::Sha512, 3)]);
        let one = extend(11, &[(Bank::Sha256, 4)]);
        let pcrs = replay(&[(STARTUP, GOOD), (&both, GOOD), (&one, GOOD)]).unwrap();
        let first = Bank::Sha256.extend(&[0; 32], &[1; 32]);
        assert_eq!(pcrs.get(Bank::Sha256, 11).unwrap(), Bank::Sha256.extend(&first, &[4; 32]));
        assert_eq!(pcrs.get(Bank::Sha384, 11).unwrap(), Bank::Sha384.extend(&[0; 48], &[2; 48]));
        assert_eq!(pcrs.get(Bank::Sha256, 12).unwrap(), [0; 32]);
    }

    #[test]
    fn a_command_that_the_tpm_refused_changes_nothing() {
        let refused = "80010000000a00000101";
        let pcrs = replay(&[(STARTUP, GOOD), (&extend(11, &[(Bank::Sha256, 1)]), refused)]).unwrap();
        assert_eq!(pcrs, Pcrs::at_reset(&[Bank::Sha256, Bank::Sha384]));
    }

    #[test]
    fn events_resets_and_sequences_count() {
        let event = command("0000013c", &format!("00000010{SESSION}0003616263"));
        let pcrs = replay(&[(&event, GOOD)]).unwrap();
        let after = |bank: Bank| bank.extend(&vec![0; bank.length()], &bank.digest(b"abc"));
        assert_eq!(pcrs.get(Bank::Sha384, 16).unwrap(), after(Bank::Sha384));
        let reset = command("0000013d", &format!("00000010{SESSION}"));
        assert_eq!(replay(&[(&event, GOOD), (&reset, GOOD)]).unwrap(), Pcrs::at_reset(&[Bank::Sha256, Bank::Sha384]));

        let sequence = command("00000185", "0000000880000000");
        let digests = format!("00000001000b{}", "05".repeat(32));
        let response = format!("8002{:08x}00000000{:08x}{digests}", 14 + digests.len() / 2, digests.len() / 2);
        let pcrs = replay(&[(&sequence, &response)]).unwrap();
        assert_eq!(pcrs.get(Bank::Sha256, 8).unwrap(), Bank::Sha256.extend(&[0; 32], &[5; 32]));
    }

    #[test]
    fn a_power_cycle_starts_over() {
        let text = log(&[(&extend(11, &[(Bank::Sha256, 1)]), GOOD)]) + &entry("Ctrl Cmd", "0000000200000000");
        assert_eq!(Pcrs::replay(&text, &[Bank::Sha256]), Ok(Pcrs::at_reset(&[Bank::Sha256])));
    }

    #[test]
    fn what_is_not_modelled_or_cut_short_is_refused() {
        let resume = "80010000000c000001440001";
        let allocate = command("0000012b", "4000000c");
        let alien = command("00000182", &format!("0000000b{SESSION}00000001ffff00"));
        let short = &extend(11, &[(Bank::Sha256, 1)])[..100];
        for text in [
            log(&[(resume, GOOD)]),
            log(&[(&allocate, GOOD)]),
            log(&[(&alien, GOOD)]),
            log(&[(short, GOOD)]),
            entry("Ctrl Cmd", "00000006"),
        ] {
            assert!(Pcrs::replay(&text, &[Bank::Sha256]).is_err(), "{text}");
        }
    }
}
