//! What operators do: nodes, releases, disks, the audit log. Each change is a row of the audit log, in the same transaction.

use std::path::PathBuf;

use attest::bytes::{Bytes32, Hex};
use attest::cluster::Assurance;
use measurements::Bank;
use measurements::document::image::ImageReference;
use measurements::document::machine::MachineReference;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::adopt::Adopt;
use super::audit;
use super::grant::{Granted, forget_grants};
use super::hello::sha256;
use super::latch::forget_latch;
use super::nodes::{node_approve, node_retire};
use super::records::{self, Node, Release, get, put};
use super::shown::{disks, explain, node_show, nodes};
use super::{Engine, Open, published};
use crate::code::{Code, Own};
use crate::store::{Error, Table, Transaction};

/// A command of the admin socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command", deny_unknown_fields)]
#[allow(missing_docs)]
pub enum AdminCommand {
    NodeEnrol {
        name: String,
        ek: Bytes32,
        machine: Hex,
        bank: Bank,
        hold: bool,
    },
    NodeList,
    NodeShow {
        name: String,
    },
    NodeApprove {
        name: String,
        #[serde(default)]
        code: Option<String>,
    },
    NodeRetire {
        name: String,
    },
    ReleaseAllow {
        reference: Hex,
        unsigned_development: bool,
        allow_debug: bool,
    },
    ReleaseAllowLogged {
        bundle: Hex,
        rebuilds: Vec<Hex>,
        allow_debug: bool,
    },
    ReleaseRevoke {
        id: String,
    },
    ReleaseList,
    TrustSet {
        envelope: Hex,
    },
    ChannelSet {
        bundle: Hex,
    },
    Published,
    DiskList,
    DiskGrant {
        node: String,
        slot: String,
        overwrite: bool,
        rebind_from: Option<String>,
        generation: Option<u64>,
    },
    DiskAdopt(Adopt),
    AuditTail {
        count: usize,
    },
    AuditHead {
        witness: Option<String>,
    },
    AuditKey,
    AuditVerify {
        heads: Vec<String>,
    },
    Explain {
        request: String,
    },
    EventLog {
        request: String,
    },
    Backup {
        to: PathBuf,
    },
    Status,
}

/// What is wrong, and what to do next.
pub(super) type Outcome = Result<Value, String>;

/// The node that a change is about, and what was done; or what is wrong, and what to do next.
pub(super) type Done = Result<(String, String), String>;

fn is_name(text: &str) -> bool {
    let is_character = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    (1..=63).contains(&text.len()) && text.bytes().all(is_character)
}

impl Engine {
    /// Carries out a command.
    ///
    /// # Errors
    /// What is wrong, and what to do next.
    pub fn admin(&self, command: &AdminCommand) -> Outcome {
        match command {
            AdminCommand::Status => self.status(),
            AdminCommand::AuditHead { witness } => self.audit_head(witness.as_deref()),
            AdminCommand::AuditKey => self.audit_key(),
            AdminCommand::AuditVerify { heads } => self.audit_verify(heads),
            AdminCommand::NodeList => self.look(|transaction| nodes(transaction).map(Ok)),
            AdminCommand::NodeShow { name } => self.look(|transaction| node_show(transaction, name)),
            AdminCommand::ReleaseList => self.releases().map_err(|error| error.to_string()),
            AdminCommand::Published => self.published().map_err(|error| error.to_string()),
            AdminCommand::DiskList => self.look(|transaction| disks(transaction).map(Ok)),
            AdminCommand::AuditTail { count } => {
                let leaves = audit::tail(&*self.store, &self.bundles, *count).map_err(|problem| problem.to_string())?;
                Ok(json!(leaves))
            }
            AdminCommand::Explain { request } => explain(&*self.store, &self.bundles, request),
            AdminCommand::EventLog { request } => self.event_log(request),
            command => {
                let open = self.keys().ok_or("the broker is sealed: key-broker unseal")?;
                let mut outcome = None;
                let written = self.store.transact(&mut |transaction| {
                    let done = self.change(transaction, &open, command)?;
                    let undone = done.is_err();
                    outcome = Some(done);
                    if undone { Err(Error::Work(String::new())) } else { Ok(()) }
                });
                if let (Ok(()), AdminCommand::ReleaseRevoke { id }) = (&written, command) {
                    self.compositions.forget(id);
                }
                match (written, outcome) {
                    (Ok(()), Some(Ok(mut done))) => {
                        self.overwrite_destroyed(&mut done);
                        Ok(done)
                    }
                    (Ok(()) | Err(Error::Work(_)), Some(outcome)) => outcome,
                    (Err(error), _) => Err(error.to_string()),
                    (Ok(()), None) => Err("nothing was done".into()),
                }
            }
        }
    }

    /// What changes nothing.
    pub(super) fn look(&self, show: impl Fn(&dyn Transaction) -> Result<Outcome, Error>) -> Outcome {
        let mut outcome = Err("nothing was read".into());
        let read = self.store.look(&mut |transaction| {
            outcome = show(transaction)?;
            Ok(())
        });
        read.map_err(|error| error.to_string()).and(outcome)
    }

    fn change(&self, transaction: &mut dyn Transaction, open: &Open, command: &AdminCommand) -> Result<Outcome, Error> {
        let done = match command {
            AdminCommand::NodeEnrol { name, ek, machine, bank, hold } => {
                self.node_enrol(transaction, name, *ek, &machine.0, *bank, *hold)?
            }
            AdminCommand::NodeApprove { name, code } => node_approve(transaction, name, code.as_deref())?,
            AdminCommand::NodeRetire { name } => node_retire(transaction, name)?,
            AdminCommand::ReleaseAllow { reference, unsigned_development, allow_debug } => {
                release_allow(transaction, &reference.0, *unsigned_development, *allow_debug)?
            }
            AdminCommand::ReleaseAllowLogged { bundle, rebuilds, allow_debug } => {
                self.release_allow_logged(transaction, &bundle.0, rebuilds, *allow_debug)?
            }
            AdminCommand::TrustSet { envelope } => {
                published::trust_set(transaction, &envelope.0, self.settings.least_rebuilders, self.seconds())?
            }
            AdminCommand::ChannelSet { bundle } => {
                published::channel_set(transaction, &bundle.0, self.settings.least_rebuilders, self.seconds())?
            }
            AdminCommand::ReleaseRevoke { id } => release_revoke(transaction, id)?,
            AdminCommand::DiskGrant { node, slot, overwrite, rebind_from, generation } => {
                let grant = Granted {
                    node,
                    slot,
                    overwrite: *overwrite,
                    from: rebind_from.as_deref(),
                    generation: *generation,
                };
                self.disk_grant(transaction, open, &grant)?
            }
            AdminCommand::DiskAdopt(adopt) => self.disk_adopt(transaction, open, adopt)?,
            _ => Err("the command is not one of these".into()),
        };
        let Ok((node, what)) = done else { return Ok(done.map(|_| Value::Null)) };
        self.clock.at_least(audit::latest_time(transaction)?);
        let leaf = self.administered(node, what.clone());
        audit::append(transaction, leaf, &self.signer(open))?;
        let mut said = json!({"done": what});
        if matches!(command, AdminCommand::ReleaseAllow { .. }) && self.cluster.assurance > Assurance::Development {
            said["warning"] = format!(
                "cluster.json asks for {}: nodes with this unsigned release are refused with {}; name the bundle of a published release with --bundle",
                self.cluster.assurance,
                Code::from(Own::AssuranceTooLow).name()
            )
            .into();
        }
        Ok(Ok(said))
    }

    fn node_enrol(
        &self,
        transaction: &mut dyn Transaction,
        name: &str,
        ek: Bytes32,
        machine: &[u8],
        bank: Bank,
        hold: bool,
    ) -> Result<Result<(String, String), String>, Error> {
        if !is_name(name) {
            return Ok(Err(format!("{name:?} is no name of a node: use 1 to 63 of a-z, 0-9, - and .")));
        }
        if bank == Bank::Sha1 {
            return Ok(Err("nodes are not enrolled with the bank sha1: use sha384 or sha256".into()));
        }
        let reference = match MachineReference::parse(machine) {
            Ok(reference) if reference.shape.tpm.is_some() => reference,
            Ok(reference) => return Ok(Err(format!("the machine {} has no TPM", reference.name))),
            Err(error) => return Ok(Err(format!("the machine reference cannot be used: {error}"))),
        };
        let taken = transaction.get(Table::EndorsementKeys, &ek.0)?;
        let kept: Option<Node> = get(transaction, Table::Nodes, name.as_bytes())?;
        let conflict = match (&kept, &taken) {
            (Some(node), _) if node.ek != ek && !node.retired => true,
            (_, Some(owner)) => owner != name.as_bytes(),
            _ => false,
        };
        if conflict {
            let problem = Code::from(Own::IdentityConflict);
            return Ok(Err(format!("{}: {}; {}", problem.name(), problem.meaning(), problem.next())));
        }
        let digest = Bytes32(sha256(machine));
        let replaced = kept.as_ref().map(|node| node.ek).filter(|old| *old != ek);
        let epoch = kept.as_ref().filter(|node| node.ek == ek).and_then(|node| node.epoch);
        let ak = kept.filter(|node| node.ek == ek && !node.retired).and_then(|node| node.ak);
        let node = Node {
            name: name.to_owned(),
            ek,
            machine: digest,
            machine_name: reference.name.clone(),
            bank,
            held: hold,
            retired: false,
            ak,
            release: None,
            epoch,
            seen: None,
            waiting: None,
        };
        if let Some(old) = replaced {
            // The old machine owns the name no longer, and its boots are not those of the new one.
            transaction.remove(Table::EndorsementKeys, &old.0)?;
            forget_latch(transaction, name)?;
            forget_grants(transaction, name)?;
        }
        transaction.put(Table::Machines, &digest.0, machine)?;
        transaction.put(Table::EndorsementKeys, &ek.0, name.as_bytes())?;
        put(transaction, Table::Nodes, name.as_bytes(), &node)?;
        let held = if hold { ", held" } else { "" };
        Ok(Ok((
            name.to_owned(),
            format!("enrolled with ek sha256:{} in {}, {bank}{held}", hex::encode(ek.0), reference.name),
        )))
    }
}

fn release_allow(
    transaction: &mut dyn Transaction,
    bytes: &[u8],
    unsigned: bool,
    allow_debug: bool,
) -> Result<Result<(String, String), String>, Error> {
    if !unsigned {
        return Ok(Err(
            "a reference alone is believed by nobody: give its bundle with --bundle; or, for trying things out, --unsigned-development, and every verdict says `development`".into(),
        ));
    }
    let reference = match ImageReference::parse(bytes).and_then(|reference| reference.measured().map(|_| reference)) {
        Ok(reference) => reference,
        Err(error) => return Ok(Err(format!("the image reference cannot be used: {error}"))),
    };
    if reference.debug && !allow_debug {
        return Ok(Err(
            "this is a debug image: whoever has the console has its disk. If that is meant: --allow-debug".into()
        ));
    }
    let name = format!("{} {} ({})", reference.id, reference.version, reference.variant);
    let id = sha256(bytes);
    let release = Release {
        name: name.clone(),
        reference: String::from_utf8_lossy(bytes).into_owned(),
        unsigned,
        bundle: None,
        rebuilds: vec![],
    };
    put(transaction, Table::Releases, &id, &release)?;
    Ok(Ok((String::new(), format!("release {} allowed: {name}, development", hex::encode(id)))))
}

fn release_revoke(transaction: &mut dyn Transaction, id: &str) -> Result<Result<(String, String), String>, Error> {
    let releases = records::all::<Release>(transaction, Table::Releases)?;
    let matching: Vec<_> =
        releases.iter().filter(|(key, _)| !id.is_empty() && hex::encode(key).starts_with(id)).collect();
    let [(key, release)] = matching[..] else {
        return Ok(Err(format!("{} releases begin with {id:?}: key-broker release list", matching.len())));
    };
    transaction.remove(Table::Releases, key)?;
    Ok(Ok((String::new(), format!("release {} revoked: {}", hex::encode(key), release.name))))
}
