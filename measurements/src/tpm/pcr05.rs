//! PCR 5: "the GPT/partition table" and the end of boot services (section 3.3.4.6): separator, table of the disk that is booted from, two actions.

use super::action;
use crate::event::kind;
use crate::{Event, Source};

/// The table of the disk ([`Gpt::event`](crate::parse::gpt::Gpt::event)), before anything of it is loaded.
pub fn table(event: &[u8]) -> Event {
    Event::of(5, kind::GPT, Source::Image, "partition table of the disk", event).with_data(event)
}

/// When the kernel takes over.
pub fn exit_boot_services() -> [Event; 2] {
    [action(5, "Exit Boot Services Invocation"), action(5, "Exit Boot Services Returned with Success")]
}
