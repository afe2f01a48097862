//! PCR 4: "the boot manager code and boot attempts" (section 3.3.4.5): the attempt, the separator, then every image that firmware loads, as its Authenticode digest.

use super::action;
use crate::event::{UnderSecureBoot, in_every_bank, kind};
use crate::parse::pe::Pe;
use crate::parse::uki::{Error, Uki};
use crate::{Event, Source};

/// Before the separators: a boot option is tried.
pub fn attempt() -> Event {
    action(4, "Calling EFI Application from Boot Option")
}

/// What is measured when a boot option did not work, for example an empty disk, and the next one is tried.
pub fn next_attempt() -> [Event; 2] {
    [action(4, "Returning from EFI Application from Boot Option"), attempt()]
}

/// The UKI, when firmware loads it.
pub fn uki(uki: &Uki) -> Event {
    image("the UKI", &uki.pe)
}

/// Another image that firmware loads: a boot loader, an add-on.
pub fn other(input: &str, pe: &Pe) -> Event {
    image(input, pe)
}

/// The kernel inside, when the stub loads it through firmware: Secure Boot's hooks are taken away for that, and with them the measurement.
///
/// # Errors
/// [`Error::Pe`] where the kernel is no PE image.
pub fn kernel(uki: &Uki) -> Result<Option<Event>, Error> {
    const INPUT: &str = "section .linux of the UKI, the kernel";
    Ok(match uki.stub.loads_kernel_by_firmware() {
        Some(true) => Some(image(INPUT, &uki.kernel()?).under_secure_boot(UnderSecureBoot::Absent)),
        Some(false) => None,
        None => {
            let reason = uki.stub.not_observed("loads the kernel through the firmware, which measures it then,");
            Some(Event::unknown(4, kind::APPLICATION, Source::Image, INPUT, reason))
        }
    })
}

/// Where the image lies in memory is part of the event's data and cannot be known.
fn image(input: &str, pe: &Pe) -> Event {
    let digests = in_every_bank(pe.bytes().len(), |bank| pe.authenticode(bank));
    Event::with_digests(4, kind::APPLICATION, Source::Image, input, digests)
}
