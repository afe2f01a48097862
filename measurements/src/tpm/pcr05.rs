//! PCR 5: "the GPT/partition table" and the end of boot services (section 3.3.4.6): separator, table of the disk that is booted from, two actions.

use serde::{Deserialize, Serialize};

use super::action;
use crate::event::kind;
use crate::{Event, Source};

/// The table of the disk ([`Gpt::event`](crate::parse::gpt::Gpt::event)), before anything of it is loaded.
pub fn table(event: &[u8]) -> Event {
    Event::of(5, kind::GPT, Source::Image, "partition table of the disk", event).with_data(event)
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
