//! PCR 1: "the host platform configuration" (section 3.3.4.2). OVMF measures the ACPI blobs that QEMU hands it, before it patches them, the SMBIOS table without what tells machines apart, and the
//! boot variables, `BootOrder` first (edk2, `OvmfPkg/AcpiPlatformDxe`, `MdeModulePkg/Universal/SmbiosMeasurementDxe`, `SecurityPkg/Tcg/Tcg2Dxe`).

use crate::event::kind;
use crate::parse::smbios;
use crate::parse::uki::Uki;
use crate::tpm::{GLOBAL, variable_data};
use crate::{Event, Source};

/// The files of fw_cfg that are measured, in the order in which they are.
pub const ACPI: [&str; 4] = ["etc/table-loader", "etc/acpi/rsdp", "etc/tpm/log", "etc/acpi/tables"];
/// What stands in the log for each of them.
const ACPI_DATA: &[u8] = b"ACPI DATA";

/// A file of fw_cfg as QEMU hands it over.
pub fn acpi(name: &str, blob: &[u8]) -> Event {
    Event::of(1, kind::CONFIG_FLAGS, Source::Machine, format!("ACPI file {name} of the machine"), blob)
        .with_data(ACPI_DATA)
}

/// The SMBIOS table.
///
/// # Errors
/// [`smbios::Error`].
pub fn smbios(table: &[u8]) -> Result<Event, smbios::Error> {
    let measured = smbios::measured(table)?;
    Ok(Event::of(1, kind::HANDOFF_TABLES, Source::Machine, "SMBIOS table of the machine", &measured))
}

/// First observed version of systemd-stub that measures raw SMBIOS structures once more (types 1, 2 and 11).
const SMBIOS_SINCE: u32 = 262;

/// What the stub measures beside the firmware: serial number and UUID are among it, so it differs from machine to machine.
pub fn smbios_by_stub(uki: &Uki) -> Option<Event> {
    let input = "SMBIOS structures of the machine, measured by the stub";
    let reason = match uki.stub.follows_since(SMBIOS_SINCE) {
        Some(false) => return None,
        Some(true) => {
            "this systemd-stub measures the machine's serial number and UUID, which differ from machine to machine"
                .into()
        }
        None => uki.stub.not_observed("measures the machine's serial number and UUID"),
    };
    Some(Event::unknown(1, kind::TAG, Source::Image, input, reason))
}

/// A boot variable: its value alone is measured; the log has the whole variable (UEFI_VARIABLE_DATA, section 10.4.6).
pub fn boot_variable(name: &str, value: &[u8]) -> Event {
    let input = format!("variable {name} of the firmware");
    Event::of(1, kind::BOOT_VARIABLE, Source::Machine, input, value).with_data(variable_data(name, GLOBAL, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::pe::tests::image;

    #[test]
    fn a_stub_that_measures_serial_numbers_makes_the_register_unknown() {
        for (version, measures) in [(252, false), (257, false), (258, true), (260, true), (261, true), (262, true)] {
            let magic = format!("#### LoaderInfo: systemd-stub {version}.1-1 ####");
            let bytes = image(&[(".sdmagic", magic.as_bytes()), (".linux", b"kernel")]);
            let event = smbios_by_stub(&Uki::parse(&bytes).unwrap());
            assert_eq!(event.is_some_and(|event| event.digests.legal().is_empty()), measures, "{version}");
        }
    }

    #[test]
    fn the_value_of_a_boot_variable_is_measured_and_the_whole_variable_is_logged() {
        let event = boot_variable("BootOrder", &[1, 0]);
        assert_eq!(event.digest(crate::Bank::Sha256).unwrap(), crate::Bank::Sha256.digest(&[1, 0]));
        let data = event.data.unwrap();
        assert_eq!((&data[..16], data.len()), (&GLOBAL[..], 32 + 18 + 2));
    }
}
