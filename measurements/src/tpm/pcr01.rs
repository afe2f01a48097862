//! PCR 1: "the host platform configuration" (section 3.3.4.2). OVMF measures the ACPI blobs that QEMU hands it, before it patches them, the SMBIOS table without what tells machines apart, and the
//! boot variables, `BootOrder` first (edk2, `OvmfPkg/AcpiPlatformDxe`, `MdeModulePkg/Universal/SmbiosMeasurementDxe`, `SecurityPkg/Tcg/Tcg2Dxe`).

use crate::event::kind;
use crate::parse::smbios;
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

/// A boot variable: its value alone is measured; the log has the whole variable (UEFI_VARIABLE_DATA, section 10.4.6).
pub fn boot_variable(name: &str, value: &[u8]) -> Event {
    let input = format!("variable {name} of the firmware");
    Event::of(1, kind::BOOT_VARIABLE, Source::Machine, input, value).with_data(variable_data(name, GLOBAL, value))
}
