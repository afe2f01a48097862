//! PCR 0: "the SRTM, BIOS, host platform extensions, embedded option ROMs" (section 3.3.4.1). OVMF measures its version and the two volumes that it has unpacked into memory; the code that unpacks them is
//! measured by nobody (tianocore/edk2, issue 10534).
//!
//! The volume of the PEI phase is hashed where it lies in memory, after some of its modules have run and written to their own variables. Which bytes that are is known for the builds below, found by
//! comparing memory with the file; for every other build the event is unknown.

use super::pcr07::SecureBootOff;
use crate::event::kind;
use crate::parse::fv::Volumes;
use crate::{Bank, Event, Source};

/// Where the DXE volume is unpacked; the PEI volume ends there.
const DXE_BASE: u64 = 0x90_0000;

/// A build of OVMF whose behaviour is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// What it calls itself.
    pub version: &'static str,
    /// Whether it was built with Secure Boot.
    pub secure_boot: SecureBootOff,
    /// SHA-256 of its PEI volume as it is in the file.
    pei: &'static str,
    /// What the PEI volume has in memory on a machine of type q35: position and bytes.
    patches: &'static [(usize, &'static [u8])],
}

/// Known builds, each the `OVMF_CODE_4M.fd` of a package of Debian.
pub const BUILDS: [Build; 1] = [Build {
    version: "2025.02-8+deb13u1",
    secure_boot: SecureBootOff::NotBuilt,
    pei: "acc7cc32f3e05161d1620022562909c284f700d73082cf7ac159451a3f7c7212",
    // The port of the ACPI timer, which a module of the PEI phase keeps.
    patches: &[(0x6e50, &[0x08, 0x06])],
}];

/// The build that these volumes come from.
pub fn build(volumes: &Volumes) -> Option<&'static Build> {
    let digest = hex::encode(Bank::Sha256.digest(&volumes.pei));
    BUILDS.iter().find(|build| build.pei == digest)
}

/// The events up to the separator, on a machine of type q35.
pub fn events(build: &Build, volumes: &Volumes) -> Vec<Event> {
    let version: Vec<u8> = build.version.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    let mut pei = volumes.pei.clone();
    for (at, bytes) in build.patches {
        pei[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    vec![
        Event::of(0, kind::CRTM_VERSION, Source::Machine, "version of the firmware", &version).with_data(version),
        volume("PEI volume of the firmware", DXE_BASE - pei.len() as u64, &pei),
        volume("DXE volume of the firmware", DXE_BASE, &volumes.dxe),
    ]
}

/// EV_EFI_PLATFORM_FIRMWARE_BLOB: base and length (section 10.4.2).
fn volume(input: &str, base: u64, bytes: &[u8]) -> Event {
    let data = [base.to_le_bytes(), (bytes.len() as u64).to_le_bytes()].concat();
    Event::of(0, kind::FIRMWARE_BLOB, Source::Machine, input, bytes).with_data(data)
}
