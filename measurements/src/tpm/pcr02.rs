//! PCR 2, 3 and 6: code and data of option ROMs, and what the maker of the platform wants. "PCR[2] ... UEFI drivers and applications loaded from devices" (section 3.3.4.3). A virtual machine
//! without option ROMs has the separator alone. A network card with a boot ROM adds to PCR 2: that belongs to the machine.

/// The registers of this file.
pub const REGISTERS: [u8; 3] = [2, 3, 6];

#[cfg(test)]
mod tests {
    use super::REGISTERS;
    use crate::Bank;
    use crate::tpm::{separator, value};

    #[test]
    fn a_machine_without_option_roms_has_the_separator_alone() {
        for register in REGISTERS {
            let value = value(register, [separator(register)].iter());
            let digest = hex::encode(value.in_bank(Bank::Sha256).unwrap());
            assert_eq!(digest, "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969");
        }
    }
}
