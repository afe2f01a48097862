//! What rows begin with: a broker that allows the image under test, and nodes that it knows.

use std::fs;

use anyhow::{Context, Result, ensure};
use attest::message::{Ack, Commit, Evidence, Purpose};
use cairn_tests::attester::emulated::Emulated;
use cairn_tests::attester::{self, Attester, AttesterTpm, Boot, Released, Talk};
use cairn_tests::broker::Broker;
use cairn_tests::image::Image;
use cairn_tests::node::Node as Machine;
use cairn_tests::suite::Suite;
use connection::Response;
use measurements::compose::Composition;

/// A node: a real TPM emulator, and nothing else.
pub type Node = Attester<Emulated>;

/// A broker, one enrolled node, and what it measures.
pub struct Scene<'a> {
    suite: &'a Suite,
    pub broker: Broker,
    pub node: Node,
    pub boot: Boot,
}

impl<'a> Scene<'a> {
    /// With default limits.
    pub fn new(suite: &'a Suite) -> Result<Self> {
        Self::with(suite, Broker::start()?)
    }

    /// With this broker.
    pub fn with(suite: &'a Suite, broker: Broker) -> Result<Self> {
        broker.allow(&suite.image.file("reference.json"))?;
        Self::without_release(suite, broker)
    }

    /// With this broker, as it is.
    pub fn without_release(suite: &'a Suite, broker: Broker) -> Result<Self> {
        let boot = Boot::of(&composition(&suite.image, &broker)?);
        let node = Attester::booted(Emulated::new(&suite.sandbox)?, &boot)?;
        let scene = Self { suite, broker, node, boot };
        scene.enrol("one", &scene.node)?;
        Ok(scene)
    }

    /// In the second boot: the node's key is known, and it has a disk.
    pub fn known(suite: &'a Suite) -> Result<Self> {
        let mut scene = Self::new(suite)?;
        scene.provision()?;
        scene.reboot()?;
        Ok(scene)
    }

    /// Ends the node's boot and begins another, which measures the same.
    pub fn reboot(&mut self) -> Result<()> {
        self.node.reboot(&self.boot)
    }

    pub fn enrol(&self, name: &str, node: &Node) -> Result<()> {
        self.broker.enrol(name, &node.tpm.endorsement_key_digest(), &Machine::machine_reference()?)
    }

    /// A node that nobody has enrolled.
    pub fn stranger(&self) -> Result<Node> {
        Attester::booted(Emulated::new(&self.suite.sandbox)?, &self.boot)
    }

    /// One more enrolled node.
    pub fn another(&self, name: &str) -> Result<Node> {
        let node = self.stranger()?;
        self.enrol(name, &node)?;
        Ok(node)
    }

    /// Begins a conversation of the first node.
    pub fn begin(&self, purpose: Purpose) -> Result<Talk> {
        begin(&self.broker, &self.node, purpose)
    }

    /// The first node's evidence, changed, must get this code.
    pub fn must_refuse(
        &mut self,
        code: &str,
        change: impl FnOnce(&mut Node, &Talk, &mut Evidence) -> Result<()>,
    ) -> Result<()> {
        let mut talk = self.begin(Purpose::Provision)?;
        let mut evidence = self.node.evidence(&talk)?;
        change(&mut self.node, &talk, &mut evidence)?;
        let response = talk.show(&evidence)?;
        self.broker.must_refuse(&response, code)
    }

    /// What was refused was refused for what was changed: without the change there is a release.
    pub fn must_still_release(&mut self) -> Result<Released> {
        release(&self.broker, &mut self.node, Purpose::Provision)
    }

    /// The same, for a node that has a disk.
    pub fn must_still_unlock(&mut self) -> Result<()> {
        release(&self.broker, &mut self.node, Purpose::Unlock).map(drop)
    }

    /// Provisions the disk of the first node.
    pub fn provision(&mut self) -> Result<Released> {
        provision(&self.broker, &mut self.node)
    }
}

/// What a node of this broker with this image measures.
pub fn composition(image: &Image, broker: &Broker) -> Result<Composition> {
    let path = Machine::machine_reference()?;
    let machine = fs::read(&path).with_context(|| format!("Failed to read {}", path.display()))?;
    attester::composition(&image.read("reference.json")?, &machine, &broker.cluster()?)
}

/// Begins a conversation.
pub fn begin<T: AttesterTpm>(broker: &Broker, node: &Attester<T>, purpose: Purpose) -> Result<Talk> {
    broker.wire()?.begin(node.hello(purpose)?)
}

/// Shows good evidence.
pub fn ask<T: AttesterTpm>(broker: &Broker, node: &mut Attester<T>, purpose: Purpose) -> Result<(Talk, Response)> {
    let mut talk = begin(broker, node, purpose)?;
    let evidence = node.evidence(&talk)?;
    let response = talk.show(&evidence)?;
    Ok((talk, response))
}

/// Shows good evidence, which must be released.
pub fn release<T: AttesterTpm>(broker: &Broker, node: &mut Attester<T>, purpose: Purpose) -> Result<Released> {
    let (talk, response) = ask(broker, node, purpose)?;
    ensure!(response.status == 200, "no release: {}", broker.judged(&response)?);
    node.open(&talk, &response.body)
}

/// Closes the boot and writes the report.
pub fn report<T: AttesterTpm>(
    broker: &Broker,
    node: &mut Attester<T>,
    released: &Released,
    purpose: Purpose,
) -> Result<Commit> {
    node.report(&broker.cluster_document()?.id.0, released, purpose)
}

/// Closes the boot and reports, which must be acknowledged.
pub fn commit<T: AttesterTpm>(
    broker: &Broker,
    node: &mut Attester<T>,
    released: &Released,
    purpose: Purpose,
) -> Result<Ack> {
    let commit = report(broker, node, released, purpose)?;
    let ack = broker.wire()?.must_acknowledge(&commit)?;
    node.keep(released);
    Ok(ack)
}

/// Gets a share for a new disk, and reports that it is made.
pub fn provision<T: AttesterTpm>(broker: &Broker, node: &mut Attester<T>) -> Result<Released> {
    let released = release(broker, node, Purpose::Provision)?;
    commit(broker, node, &released, Purpose::Provision)?;
    Ok(released)
}
