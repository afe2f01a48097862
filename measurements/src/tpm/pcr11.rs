//! PCR 11: systemd-stub measures the sections of the UKI, each as its name with a NUL and then its content (systemd-stub(7)); agent and systemd measure the phases of the boot as bare words
//! (systemd-pcrphase.service(8)).

use crate::event::kind;
use crate::parse::uki::Uki;
use crate::{Event, Source};

/// The phase that the agent enters first.
pub const ENTER_INITRD: &str = "enter-initrd";
/// The phases of a boot after that.
pub const LATER: [&str; 3] = ["leave-initrd", "sysinit", "ready"];

/// Two events for each section.
pub fn sections(uki: &Uki) -> Vec<Event> {
    let event = |name: &str, what: &str, bytes: &[u8]| {
        Event::of(11, kind::IPL, Source::Image, format!("{what} of section {name} of the UKI"), bytes)
    };
    let pair = |(name, data): (&str, &[u8])| {
        [event(name, "name", format!("{name}\0").as_bytes()), event(name, "content", data)]
    };
    uki.measured_sections().into_iter().flat_map(pair).collect()
}

/// A phase of the boot.
pub fn phase(word: &str) -> Event {
    Event::of(11, kind::USER_SPACE, Source::Image, format!("phase {word}"), word.as_bytes())
}
