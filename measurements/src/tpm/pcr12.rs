//! PCR 12: the configuration of a deployment. systemd-stub measures what is added to a UKI's command line from outside, and credentials (systemd-stub(7)); a machine that adds nothing leaves the register to
//! Cairn's agent, which measures the bytes of `cluster.json` before it understands them.

use super::utf16;
use crate::event::{ByBank, kind};
use crate::{Event, Source};

/// The command line of all add-ons, joined.
pub fn add_ons(command_line: &str) -> Event {
    let text = utf16(command_line);
    Event::of(12, kind::IPL, Source::Image, "command line of the add-ons beside the UKI", &text).with_data(text)
}

/// The configuration of a cluster, by the digests of its file.
pub fn cluster(digests: ByBank) -> Event {
    let input = "cluster.json, the configuration of the cluster";
    Event::with_digests(12, kind::USER_SPACE, Source::Configuration, input, digests)
}
