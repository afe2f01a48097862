//! PCR 11: systemd-stub measures the sections of the UKI, each as its name with a NUL and then its content (systemd-stub(7)); agent and systemd measure the phases of the boot as bare words
//! (systemd-pcrphase.service(8)).

use super::utf16;
use crate::event::kind;
use crate::parse::uki::Uki;
use crate::{Event, Source};

/// The version of systemd-stub whose log was observed.
const LOGS_NAMES: u32 = 257;

/// The phase that the agent enters first.
pub const ENTER_INITRD: &str = "enter-initrd";
/// The phases of a boot after that.
pub const LATER: [&str; 3] = ["leave-initrd", "sysinit", "ready"];

/// Two events for each section; both have the section's name in the log, in UTF-16 with its NUL.
pub fn sections(uki: &Uki) -> Vec<Event> {
    let event = |name: &str, what: &str, bytes: &[u8]| {
        let event = Event::of(11, kind::IPL, Source::Image, format!("{what} of section {name} of the UKI"), bytes);
        if uki.stub.version == LOGS_NAMES { event.with_data(utf16(name)) } else { event }
    };
    let pair = |(name, data): (&str, &[u8])| {
        [event(name, "name", format!("{name}\0").as_bytes()), event(name, "content", data)]
    };
    let unknown = |name: &str| {
        let reason = uki.stub.not_observed(&format!("measures {name}"));
        Event::unknown(11, kind::IPL, Source::Image, format!("section {name} of the UKI"), reason)
    };
    let known = uki.measured_sections().into_iter().flat_map(pair);
    known.chain(uki.unobserved_sections().into_iter().map(unknown)).collect()
}

/// A phase of the boot.
pub fn phase(word: &str) -> Event {
    Event::of(11, kind::USER_SPACE, Source::Image, format!("phase {word}"), word.as_bytes())
}
