//! Which release a node runs: exactly one of those that are allowed must have all its registers, with the node's machine and this cluster's configuration.

use std::sync::Arc;

use attest::bytes::Bytes32;
use attest::policy;
use attest::tpm::Quoted;
use measurements::boot::Point;
use measurements::compose::{Composition, compose};
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use measurements::parse::tcg_log::Log;

use super::Engine;
use super::hello::sha256;
use super::outcome::Stop;
use super::records::{self, Node, Release};
use crate::code::{Own, Refusal};
use crate::store::{Error, Table};

/// A release that a node was found to run.
pub(super) struct Matched {
    pub id: Vec<u8>,
    pub release: Release,
}

/// Releases with their ids, and the bytes of a machine reference.
type Allowed = (Vec<(Vec<u8>, Release)>, Vec<u8>);

impl Engine {
    /// The one release that these registers and this log are of. `named` is the bundle that the node names: registers decide, and a refusal is explained by it.
    pub(super) fn matched(
        &self,
        node: &Node,
        quoted: &Quoted,
        log: &Log,
        named: Option<Bytes32>,
    ) -> Result<Matched, Stop> {
        let (releases, machine) = self.allowed(node)?;
        if releases.is_empty() {
            return Err(Refusal::new(Own::NoReleaseAllowed, "no release is allowed").into());
        }
        self.verifiers.run(|| self.one_of(releases, node, &machine, (quoted, log), named))
    }

    fn one_of(
        &self,
        releases: Vec<(Vec<u8>, Release)>,
        node: &Node,
        machine: &[u8],
        (quoted, log): (&Quoted, &Log),
        named: Option<Bytes32>,
    ) -> Result<Matched, Stop> {
        let is_named = |release: &Release| {
            let digest = release.bundle.as_ref().map(|bundle| Bytes32(sha256(bundle.as_bytes())));
            named.is_some() && digest == named
        };
        let (mut matching, mut nearest, mut expected) = (Vec::new(), None, Vec::new());
        let mut is_known = false;
        for (id, release) in releases {
            let composition = self.composition(&id, &release, node, machine)?;
            let named = is_named(&release);
            match policy::check(quoted, log, &composition) {
                Ok(()) => matching.push(Matched { id, release }),
                // That of the release which the node means, or else the last one.
                Err(refusal) if named || !is_known => nearest = Some((release.name, refusal)),
                Err(_) => {}
            }
            is_known |= named;
            expected.push(composition);
        }
        match (matching.len(), nearest) {
            (1, _) => matching.pop().ok_or_else(|| Stop::Unavailable("no release".into())),
            (0, Some((name, refusal))) => Err(Stop::Refused(if is_mixed(quoted, &expected) {
                Refusal::new(Own::NoSingleRelease, format!("{} releases are allowed", expected.len()))
            } else {
                let refusal = Refusal::from(refusal);
                let mut found = format!("compared with {name} on {}: {}", node.machine_name, refusal.found);
                if let Some(named) = named.filter(|_| !is_known) {
                    found += &format!(
                        "; the node names the bundle sha256:{}, which is that of no allowed release",
                        hex::encode(named.0)
                    );
                }
                Refusal::new(refusal.code, found)
            })),
            (count, _) => Err(Refusal::new(Own::NoSingleRelease, format!("{count} releases measure the same")).into()),
        }
    }

    fn allowed(&self, node: &Node) -> Result<Allowed, Error> {
        let (mut releases, mut machine) = (Vec::new(), None);
        self.store.look(&mut |transaction| {
            releases = records::all(transaction, Table::Releases)?;
            machine = transaction.get(Table::Machines, &node.machine.0)?;
            Ok(())
        })?;
        Ok((releases, machine.ok_or(Error::Damaged("machine"))?))
    }

    /// What is predicted of a release on a node's machine; kept, because nothing of it changes.
    fn composition(&self, id: &[u8], release: &Release, node: &Node, machine: &[u8]) -> Result<Arc<Composition>, Stop> {
        let key = (id.to_vec(), node.machine.0);
        if let Some(composition) = self.compositions.get(&key) {
            return Ok(composition);
        }
        let unusable = |what: &str, error: String| Stop::Unavailable(format!("the {what} cannot be used: {error}"));
        let image = ImageReference::parse(release.reference.as_bytes())
            .and_then(|reference| reference.measured())
            .map_err(|error| unusable("image reference", error.to_string()))?;
        if sha256(machine) != node.machine.0 {
            return Err(Error::Damaged("machine").into());
        }
        let machine = MachineReference::parse(machine)
            .and_then(|reference| reference.machine())
            .map_err(|error| unusable("machine reference", error.to_string()))?;
        let composition = compose(&image, &machine, &self.configuration)
            .map_err(|error| unusable("composition", error.to_string()))?;
        let composition = Arc::new(composition);
        self.compositions.insert(key, composition.clone());
        Ok(composition)
    }
}

/// Whether each register is that of some release, and no release has all.
fn is_mixed(quoted: &Quoted, expected: &[Arc<Composition>]) -> bool {
    let registers: Vec<_> = expected.iter().map(|composition| composition.legal_registers(Point::Initrd)).collect();
    expected.len() > 1
        && quoted.registers.iter().all(|(register, found)| {
            registers
                .iter()
                .any(|values| values.get(register).is_some_and(|value| value.allows(quoted.bank, found) == Some(true)))
        })
}
