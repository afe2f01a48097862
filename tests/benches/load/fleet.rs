//! A thousand nodes that a broker knows.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use attest::cluster::Cluster;
use cairn_tests::attester::software::{self, SoftwareTpm};
use cairn_tests::attester::{self, Attester, AttesterTpm as _, Boot, Wire};
use cairn_tests::broker::Broker;
use measurements::Bank;
use measurements::compose::Composition;
use xtask::bench::report::Found;

/// How many.
pub const NODES: usize = 1000;

/// A node.
pub type Node = Attester<SoftwareTpm>;

/// What every node of the cluster knows.
pub struct Home {
    pub address: SocketAddr,
    pub cluster: Cluster,
}

impl Home {
    /// A connection to the broker.
    pub fn wire(&self) -> Result<Wire> {
        Wire::open(self.address, &self.cluster)
    }
}

/// Nodes and their broker.
pub struct Fleet {
    pub broker: Broker,
    pub home: Home,
    pub nodes: Vec<Node>,
    /// Two that will be refused: one that nobody has enrolled, and one that is known and runs something else.
    pub stranger: Node,
    pub known: Node,
    pub composition: Composition,
    pub boot: Boot,
}

impl Fleet {
    /// Makes nodes, and tells the broker of all of them but the stranger.
    pub fn enrol(broker: Broker, image: &Path, machine: &Path, found: &mut Found) -> Result<Self> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("Failed to read {}", path.display()));
        let composition = attester::composition(&read(image)?, &read(machine)?, &broker.cluster()?)?;
        let boot = Boot::of(&composition);
        let booted = |tpm| Attester::booted(tpm, &boot);
        let mut nodes = software::several(NODES + 2)?.into_iter().map(booted).collect::<Result<Vec<_>>>()?;
        let (stranger, known) = (nodes.pop().context("no nodes")?, nodes.pop().context("no nodes")?);
        broker.allow(image)?;
        let start = Instant::now();
        for (number, node) in nodes.iter().chain([&known]).enumerate() {
            let ek = hex::encode(Bank::Sha256.digest(node.tpm.endorsement_key()));
            broker.enrol(&format!("node-{number}"), &ek, machine)?;
        }
        found.figure("enrolment, one command each", "/s", (NODES + 1) as f64 / start.elapsed().as_secs_f64());
        let home = Home { address: broker.address()?, cluster: broker.cluster_document()? };
        Ok(Self { broker, home, nodes, stranger, known, composition, boot })
    }

    /// Powers all nodes off and on again.
    pub fn reboot(&mut self) -> Result<()> {
        self.nodes.iter_mut().try_for_each(|node| node.reboot(&self.boot))
    }
}

/// Bytes in MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
