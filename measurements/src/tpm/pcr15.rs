//! PCR 15: what the boot became. The agent caps it: `stateless` where there is no cluster configuration, so that nothing later in this boot can claim a disk's key.

use crate::event::kind;
use crate::{Event, Source};

/// The cap of a boot without a cluster.
pub fn stateless() -> Event {
    Event::of(15, kind::USER_SPACE, Source::Image, "no cluster configuration", b"stateless")
}

/// The cap of a boot in a cluster: it names the broker's release message, which differs from boot to boot.
pub fn cap() -> Event {
    let reason = "the cap binds this boot's release message, which is made while it boots";
    Event::unknown(15, kind::USER_SPACE, Source::Configuration, "cap of the cluster", reason)
}
