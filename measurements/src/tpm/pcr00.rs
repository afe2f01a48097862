//! PCR 0: "the SRTM, BIOS, host platform extensions, embedded option ROMs" (section 3.3.4.1). OVMF measures its version and the two volumes that it has unpacked into memory; the code that unpacks them is
//! measured by nobody (tianocore/edk2, issue 10534).
//!
//! The volume of the PEI phase is hashed where it lies in memory, after some of its modules have run and written to their own variables. Which bytes that are is known for the builds below, found by
//! comparing memory with the file; for every other build the event is unknown.

use super::pcr07::SecureBootOff;
use crate::event::kind;
use crate::parse::fv::Volumes;
use crate::{Bank, Event, Source};

/// What the event of the first volume is called.
pub const PEI: &str = "PEI volume of the firmware";
/// What that of the second is called.
pub const DXE: &str = "DXE volume of the firmware";

/// Where the DXE volume is unpacked; the PEI volume ends there.
const DXE_BASE: u64 = 0x90_0000;

/// What a build's first code writes into its own volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// These bytes, on every machine of type q35.
    Always(&'static [(usize, &'static [u8])]),
    /// More than was observed: it is not known.
    Unobserved,
    /// The description of the platform of edk2-stable202211: it has the number of CPUs and the end of memory.
    Platform202211,
}

/// A build of OVMF whose behaviour is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// The package of Debian that it comes from.
    pub package: &'static str,
    /// What it calls itself; builds of 2022.11 say nothing.
    pub version: &'static str,
    /// Whether it was built with Secure Boot.
    pub secure_boot: SecureBootOff,
    /// SHA-256 of its PEI volume as it is in the file.
    pei: &'static str,
    written: Written,
}

/// Known builds: the `OVMF_CODE_4M.fd` of packages of Debian, and one `OVMF_CODE_4M.secboot.fd`, of which only Secure Boot is known.
pub const BUILDS: [Build; 4] = [
    Build {
        package: "ovmf 2022.11-6+deb12u2",
        version: "",
        secure_boot: SecureBootOff::Disabled,
        pei: "471281a7d197d12ac61a810e5150b9b5ddc47be78ef0c24af7a8192c81b3a808",
        written: Written::Platform202211,
    },
    Build {
        package: "ovmf 2025.02-8+deb13u1",
        version: "2025.02-8+deb13u1",
        secure_boot: SecureBootOff::NotBuilt,
        pei: "acc7cc32f3e05161d1620022562909c284f700d73082cf7ac159451a3f7c7212",
        // The port of the ACPI timer, which a module of the PEI phase keeps.
        written: Written::Always(&[(0x6e50, &[0x08, 0x06])]),
    },
    Build {
        package: "ovmf-generic 2026.08+ds-2",
        version: "2026.08+ds-2",
        secure_boot: SecureBootOff::NotBuilt,
        pei: "10e48f005bc9f46830c4596b9ab6f8d0b98427f08e17d6d0e6eef582a7b12512",
        written: Written::Always(&[]),
    },
    Build {
        package: "ovmf 2025.02-8+deb13u1 (secboot)",
        version: "2025.02-8+deb13u1",
        secure_boot: SecureBootOff::Disabled,
        pei: "98cf2a7e49cbca9a9b7796d1edf9ac412db5b4541865f1953017f74041ef4358",
        written: Written::Unobserved,
    },
];

/// The build that these volumes come from.
pub fn build(volumes: &Volumes) -> Option<&'static Build> {
    let digest = hex::encode(Bank::Sha256.digest(&volumes.pei));
    BUILDS.iter().find(|build| build.pei == digest)
}

/// What PCR 0 follows from beside the firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
}

/// The events up to the separator, on a machine of type q35. `size` is needed by builds that write it into their volume.
pub fn events(build: &Build, volumes: &Volumes, size: Option<Size>) -> Vec<Event> {
    let version: Vec<u8> = build.version.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    vec![
        Event::of(0, kind::CRTM_VERSION, Source::Machine, "version of the firmware", &version).with_data(version),
        pei(build, volumes, size),
        volume(DXE, DXE_BASE, &volumes.dxe),
    ]
}

fn pei(build: &Build, volumes: &Volumes, size: Option<Size>) -> Event {
    let input = PEI;
    let unknown = |reason| Event::unknown(0, kind::FIRMWARE_BLOB, Source::Machine, input, reason);
    let written = match (build.written, size) {
        (Written::Always(bytes), _) => bytes.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect(),
        (Written::Unobserved, _) => return unknown("what this build writes into it was not compared with a real boot"),
        (Written::Platform202211, None) => {
            return unknown("this build writes the number of CPUs and the size of memory into it: give the machine");
        }
        (Written::Platform202211, Some(size)) => match platform_202211(size) {
            Some(written) => written,
            None => return unknown("what this build writes into it was observed with 1 and 2 CPUs only"),
        },
    };
    let mut bytes = volumes.pei.clone();
    for (at, written) in written {
        if let Some(place) = bytes.get_mut(at..at + written.len()) {
            place.copy_from_slice(&written);
        }
    }
    volume(input, DXE_BASE - bytes.len() as u64, &bytes)
}

/// EFI_HOB_PLATFORM_INFO of PlatformPei as machines with 1 and 2 CPUs, 1 GiB and 2 GiB had it in memory: host bridge, ranges of addresses, numbers of CPUs, and the memory that is kept for
/// resuming, which lies at the end of low memory and grows with every CPU.
fn platform_202211(size: Size) -> Option<Vec<(usize, Vec<u8>)>> {
    const HOST_BRIDGE: [u8; 2] = [0xc0, 0x29];
    let ranges = "e00000000000000020000000000000c00000003c006000000000000000a0";
    let kept = 0x8_0000 + 0x8000 * u32::from(u8::try_from(size.cpus).ok().filter(|cpus| (1..=2).contains(cpus))?);
    let start = low_memory(size.memory_mib)?.checked_sub(kept)?;
    let numbers = [size.cpus, size.cpus, 0x40, start, kept].map(u32::to_le_bytes).concat();
    Some(vec![
        (0xe0d8, HOST_BRIDGE.into()),
        (0xe0e7, vec![1]),
        (0xe0f0, vec![0x10, 0, 0, 0, 0x28, 0, 0, 0, 0x80]),
        (0xe10a, hex::decode(ranges).ok()?),
        (0xe136, numbers),
        (0xe14a, vec![1, 1]),
    ])
}

/// Memory below 4 GiB of a q35: all of it up to 2.75 GiB, else 2 GiB (QEMU, `hw/i386/pc_q35.c`).
fn low_memory(memory_mib: u32) -> Option<u32> {
    const SPLIT: u32 = 0xb000_0000 >> 20;
    if memory_mib < SPLIT { memory_mib.checked_mul(1 << 20) } else { Some(0x8000_0000) }
}

/// EV_EFI_PLATFORM_FIRMWARE_BLOB: base and length (section 10.4.2).
fn volume(input: &str, base: u64, bytes: &[u8]) -> Event {
    let data = [base.to_le_bytes(), (bytes.len() as u64).to_le_bytes()].concat();
    Event::of(0, kind::FIRMWARE_BLOB, Source::Machine, input, bytes).with_data(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_kept_for_resuming_ends_where_low_memory_ends() {
        // As read from the memory of three machines, and from the research's for a fourth.
        for (cpus, memory_mib, start, kept) in [
            (1, 1024, 0x3ff7_8000, 0x8_8000),
            (2, 1024, 0x3ff7_0000, 0x9_0000),
            (2, 2048, 0x7ff7_0000, 0x9_0000),
            (1, 4096, 0x7ff7_8000, 0x8_8000_u32),
        ] {
            let written = platform_202211(Size { cpus, memory_mib }).unwrap();
            let numbers = [cpus, cpus, 0x40, start, kept].map(u32::to_le_bytes).concat();
            assert_eq!(written[4], (0xe136, numbers));
        }
        for cpus in [0, 3, 64] {
            assert_eq!(platform_202211(Size { cpus, memory_mib: 1024 }), None, "never observed");
        }
    }

    #[test]
    fn a_volume_that_holds_the_shape_is_unknown_without_it() {
        let volumes = Volumes { pei: vec![0; 0xe_0000], dxe: vec![1] };
        let known = |size| !events(&BUILDS[0], &volumes, size)[1].digests.legal().is_empty();
        assert!(!known(None) && !known(Some(Size { cpus: 3, memory_mib: 1024 })));
        assert!(known(Some(Size { cpus: 2, memory_mib: 1024 })));
        assert!(!events(&BUILDS[2], &volumes, None)[1].digests.legal().is_empty());
    }
}
