//! PCR 12: the configuration of a deployment. systemd-stub measures what is added to a UKI's command line from outside, and credentials (systemd-stub(7)); a machine that adds nothing leaves the register to
//! Cairn's agent, which measures the bytes of `cluster.json` before it understands them.

use crate::event::{ByBank, Digests, kind};
use crate::{Event, Source};

/// The configuration of a cluster, by the digests of its file.
pub fn cluster(digests: ByBank) -> Event {
    Event {
        register: 12,
        kind: kind::USER_SPACE,
        digests: Digests::Exact(digests),
        data: None,
        source: Source::Configuration,
        input: "cluster.json, the configuration of the cluster".into(),
    }
}
