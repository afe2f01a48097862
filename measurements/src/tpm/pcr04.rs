//! PCR 4: "the boot manager code and boot attempts" (section 3.3.4.5): the attempt, the separator, then every image that firmware loads, as its Authenticode digest.

use super::action;
use crate::event::{Digests, in_every_bank, kind};
use crate::parse::pe::Pe;
use crate::parse::uki::{Error, Uki};
use crate::{Event, Source};

/// Before the separators: a boot option is tried.
pub fn attempt() -> Event {
    action(4, "Calling EFI Application from Boot Option")
}

/// The UKI, when firmware loads it.
pub fn uki(uki: &Uki) -> Event {
    image("the UKI", &uki.pe)
}

/// The kernel inside, when the stub loads it through firmware and Secure Boot is off.
///
/// # Errors
/// [`Error::Pe`] where the kernel is no PE image.
pub fn kernel(uki: &Uki) -> Result<Option<Event>, Error> {
    if !uki.stub.loads_kernel_by_firmware() {
        return Ok(None);
    }
    Ok(Some(image("section .linux of the UKI, the kernel", &uki.kernel()?)))
}

/// Where the image lies in memory is part of the event's data and cannot be known.
fn image(input: &str, pe: &Pe) -> Event {
    let digests = in_every_bank(pe.bytes().len(), |bank| pe.authenticode(bank));
    let (kind, source) = (kind::APPLICATION, Source::Image);
    Event { register: 4, kind, digests: Digests::Exact(digests), data: None, source, input: input.into() }
}
