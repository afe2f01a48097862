//! PCR 2, 3 and 6: code and data of option ROMs, and what the maker of the platform wants. "PCR[2] ... UEFI drivers and applications loaded from devices" (section 3.3.4.3). A virtual machine
//! without option ROMs has the separator alone. A network card with a boot ROM adds to PCR 2: that belongs to the machine.

/// The registers of this file.
pub const REGISTERS: [u8; 3] = [2, 3, 6];
