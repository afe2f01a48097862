//! PCR 5: "the GPT/partition table" and the end of boot services (section 3.3.4.6): separator, table of the disk that is booted from, two actions.

use serde::{Deserialize, Serialize};

use super::{action, utf16};
use crate::event::kind;
use crate::{Event, Source};

/// The table of the disk ([`Gpt::event`](crate::parse::gpt::Gpt::event)), before anything of it is loaded.
pub fn table(event: &[u8]) -> Event {
    Event::of(5, kind::GPT, Source::Image, "partition table of the disk", event).with_data(event)
}

/// A UKI alone says nothing about the disk that it is booted from.
pub fn unknown_table() -> Event {
    let reason = "a UKI alone does not hold the partition table of its disk: give the raw disk image, or --boot kernel";
    Event::unknown(5, kind::GPT, Source::Image, "partition table of the disk", reason)
}

/// Tag of systemd-boot's event (systemd, `src/boot/measure.h`).
const LOADER_CONFIGURATION: u32 = 0xf5bc_582a;

/// `loader.conf`, which systemd-boot measures before it does what it says.
pub fn loader_configuration(bytes: &[u8]) -> Event {
    let (input, text) = ("loader/loader.conf, the configuration of systemd-boot", utf16("loader.conf"));
    let mut data = LOADER_CONFIGURATION.to_le_bytes().to_vec();
    data.extend((text.len() as u32).to_le_bytes());
    data.extend(text);
    Event::of(5, kind::TAG, Source::Image, input, bytes).with_data(data)
}

/// How often the kernel asks the firmware to end boot services. The firmware refuses when its memory map has changed since the kernel read it, as its own drivers may do when they are told of the end;
/// Linux then asks once more (`drivers/firmware/efi/libstub/efi-stub-helper.c`). Since edk2-stable202411 the refusal is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// Boot services end when the kernel first asks.
    AtOnce,
    /// The firmware refuses once.
    AtSecondAttempt,
}

impl Exit {
    /// All that are legal.
    pub const ALL: [Self; 2] = [Self::AtOnce, Self::AtSecondAttempt];
}

const INVOCATION: &str = "Exit Boot Services Invocation";
/// What a refusal is measured as.
pub const FAILURE: &str = "Exit Boot Services Returned with Failure";
const SUCCESS: &str = "Exit Boot Services Returned with Success";

/// When the kernel takes over.
pub fn exit_boot_services(exit: Exit) -> Vec<Event> {
    let words: &[&str] = match exit {
        Exit::AtOnce => &[INVOCATION, SUCCESS],
        Exit::AtSecondAttempt => &[INVOCATION, FAILURE, INVOCATION, SUCCESS],
    };
    words.iter().map(|words| action(5, words)).collect()
}
