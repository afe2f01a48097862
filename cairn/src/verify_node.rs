//! `cairn verify-node`: asks a running node what it is, and says what was found. Nothing of the node is believed that its TPM did not sign in this conversation, and the TPM's key is believed because somebody named who vouches for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::Cluster;
use attest::message::{self, Credential};
use attest::runtime::{self, Activate, Activated, AkTrust, Answer, Checked, Question, Verdict};
use attest::tpm::{AttestationKey, EndorsementKey, Randomness, certified};
use attest::{Code, Refusal};
use clap::Args;
use connection::{Connection, Response};
use measurements::canonical::Document;
use measurements::compose::{Configuration, compose};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::json;

use crate::inputs::{MachineArgs, read, read_image};

/// A quote takes a slow TPM a second.
const PATIENCE: Duration = Duration::from_secs(30);
const REFUSED: u8 = 3;

/// Arguments of `verify-node`.
#[derive(Args)]
#[command(after_help = "\
The node's TPM is known by its endorsement key (--ek), or by that key's certificate, of an authority that you name
(--ek-authority), or, without these, by the certificate that a broker of the cluster gave the node when it booted.
Neither is AK_UNVERIFIED.

Exit codes: 0 the node is as expected; 3 it is not; 1 a file cannot be used, or the node does not answer.

Example: cairn verify-node 192.0.2.20:7444 --reference cairn_0.1.0.reference.json --machine q35.machine.json --cluster cluster.json")]
pub struct VerifyNodeArgs {
    /// Where the node answers, IP:PORT
    address: SocketAddr,
    /// What it should run: image reference, raw disk or UKI
    #[arg(long, value_name = "FILE", visible_alias = "image")]
    reference: PathBuf,
    #[command(flatten)]
    machine: MachineArgs,
    /// SHA-256 of the public area of an endorsement key that is known to be good
    #[arg(long, value_name = "SHA256")]
    ek: Vec<String>,
    /// Certificates, PEM, of who issues certificates of endorsement keys: of the maker of the TPM, or of the cloud
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with = "ek")]
    ek_authority: Vec<PathBuf>,
    /// Name of the node that is meant; with the certificate of a broker any node of the cluster would do
    #[arg(long, value_name = "NAME", conflicts_with_all = ["ek", "ek_authority"])]
    node: Option<String>,
    /// Output file for the node's receipt of the audit log, for `key-broker audit verify --heads`
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Asks, and says what was found.
pub fn run(args: &VerifyNodeArgs) -> Result<(String, ExitCode)> {
    let path = args
        .machine
        .cluster()
        .context("Name the cluster's file with --cluster: a node of no cluster cannot be verified")?;
    let bytes = read(path)?;
    let cluster = Cluster::read(&bytes).map_err(|refusal| anyhow!("{}: {}", path.display(), refusal.found))?;
    let (image, machine) = (read_image(&args.reference)?, args.machine.read()?);
    let expected = compose(image.on(&machine)?, &machine, &Configuration::cluster(&bytes))?;
    let known = Known {
        keys: args.ek.iter().map(|text| digest_of(text)).collect::<Result<_>>()?,
        authorities: authorities(&args.ek_authority)?,
        node: args.node.clone(),
    };

    let mut node = Node { connection: Connection::open(args.address, PATIENCE)? };
    let nonce = random()?;
    let answer: Answer =
        node.ask("/attest/1/question", &Question { nonce: Bytes32(nonce), schema: Question::SCHEMA.into() })?;
    let verdict = node
        .vouched(&answer, &known, &cluster)?
        .and_then(|key| runtime::verify(&answer, &nonce, node.connection.tls_key(), &expected, &cluster, key));
    let receipt = receipt(&answer, &cluster, args.receipt.as_deref())?;
    Ok(match verdict {
        Ok(mut verdict) => {
            verdict.checked.extend(receipt.map(|found| Checked { what: "receipt", found }));
            (said(&verdict, args.json), ExitCode::SUCCESS)
        }
        Err(refusal) => (refused(&refusal, args.json), ExitCode::from(REFUSED)),
    })
}

/// Whom the asker believes that a TPM is one.
struct Known {
    /// Digests of endorsement keys.
    keys: Vec<[u8; 32]>,
    /// Certificates of authorities.
    authorities: Vec<Vec<u8>>,
    /// The node that is meant.
    node: Option<String>,
}

struct Node {
    connection: Connection,
}

impl Node {
    fn ask<Q: Document, A: Document>(&mut self, path: &str, question: &Q) -> Result<A> {
        let sent = message::write(question).map_err(|refusal| anyhow!(refusal.found))?;
        let Response { status, body, .. } = self.connection.post(path, &sent.bytes)?;
        anyhow::ensure!(
            status == 200,
            "The node answered with status {status}: is it a node of Cairn, and has it booted with a cluster?"
        );
        message::read(&body)
            .map(|(answer, _)| answer)
            .map_err(|refusal| anyhow!("The node's answer: {}", refusal.found))
    }

    /// Who vouches for the attestation key. The outer error is that nobody could be asked.
    fn vouched(&mut self, answer: &Answer, known: &Known, cluster: &Cluster) -> Result<Result<AkTrust, Refusal>> {
        if known.keys.is_empty() && known.authorities.is_empty() {
            return Ok(runtime::by_certificate(answer, cluster, known.node.as_deref(), now()));
        }
        let made = EndorsementKey::parse(&answer.ek.0).and_then(|ek| {
            let key = AttestationKey::parse(&answer.ak.0)?;
            let trust = trusted(answer, &ek, known)?;
            Ok((ek, key.name(), trust))
        });
        let (ek, name, trust) = match made {
            Ok(made) => made,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (secret, randomness) = (random()?, Randomness { seed: random()?, padding: random()? });
        let challenge = match ek.challenge(&secret, &name, &randomness) {
            Ok(challenge) => challenge,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let credential = Credential { blob: Hex(challenge.credential_blob), seed: Hex(challenge.encrypted_seed) };
        let activated: Activated =
            self.ask("/attest/1/activate", &Activate { credential, schema: Activate::SCHEMA.into() })?;
        if activated.proof.0 != runtime::activation(&secret, self.connection.tls_key()) {
            let found = "the TPM with this endorsement key does not hold the attestation key";
            return Ok(Err(Refusal::new(Code::AkUnverified, found)));
        }
        Ok(Ok(trust))
    }
}

/// The node's receipt in words, and in this file. Its signature is verified by the broker, which knows the key of its audit log; here it is only a checkpoint of the cluster's log.
fn receipt(answer: &Answer, cluster: &Cluster, file: Option<&Path>) -> Result<Option<String>> {
    let Some(text) = &answer.receipt else {
        anyhow::ensure!(file.is_none(), "cannot write --receipt: the node has no receipt of an audit log");
        return Ok(None);
    };
    let origin = format!("cairn/{}/audit", hex::encode(&cluster.id.0));
    let mut lines = text.lines();
    let size: Option<u64> = match lines.next() {
        Some(line) if line == origin => lines.next().and_then(|size| size.parse().ok()),
        _ => None,
    };
    let Some(size) = size else {
        anyhow::ensure!(file.is_none(), "cannot write --receipt: the node's receipt is not a checkpoint of {origin}");
        return Ok(Some(format!("not a checkpoint of {origin}")));
    };
    let found = format!("a head of {size} leaves of the audit log");
    let Some(file) = file else { return Ok(Some(found)) };
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(Some(format!("{found}, written to {}", file.display())))
}

/// Whether the endorsement key is known, or certified.
fn trusted(answer: &Answer, key: &EndorsementKey, known: &Known) -> Result<AkTrust, Refusal> {
    let found = sha256(&answer.ek.0);
    let digest = hex::encode(found);
    let refuse = |found: String| Err(Refusal::new(Code::AkUnverified, found));
    if known.authorities.is_empty() {
        return match known.keys.contains(&found) {
            true => Ok(AkTrust::EndorsementKey(digest)),
            false => refuse(format!("the node's endorsement key is sha256:{digest}, which is none of those named")),
        };
    }
    let Some(certificate) = &answer.ek_certificate else {
        return refuse(format!("the node's TPM has no certificate of its endorsement key sha256:{digest}"));
    };
    let authority = certified(&certificate.0, &known.authorities, key, now())?;
    Ok(AkTrust::EndorsementCertificate(digest, hex::encode(authority)))
}

/// Seconds since 1970.
fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    now.map_or(0, |time| time.as_secs())
}

/// The certificates in these files.
fn authorities(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    for path in paths {
        let bytes = read(path)?;
        let before = found.len();
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            let certificate = certificate.with_context(|| format!("{} has a damaged certificate", path.display()))?;
            found.push(certificate.to_vec());
        }
        anyhow::ensure!(found.len() > before, "{} has no certificate in PEM", path.display());
    }
    Ok(found)
}

fn said(verdict: &Verdict, json: bool) -> String {
    let key = match &verdict.key {
        AkTrust::EndorsementKey(digest) => format!("its TPM has the endorsement key sha256:{digest}"),
        AkTrust::EndorsementCertificate(digest, authority) => {
            format!("its TPM has the endorsement key sha256:{digest}, certified by the authority sha256:{authority}")
        }
        AkTrust::NodeCertificate(certificate) => {
            format!("a broker of the cluster certified it as the node {}", certificate.node)
        }
    };
    if json {
        let checked: serde_json::Map<_, _> = verdict
            .checked
            .iter()
            .map(|checked| (checked.what.to_owned(), checked.found.clone().into()))
            .chain([("key".to_owned(), key.into())])
            .collect();
        return format!("{}\n", json!({"verdict": "verified", "checked": checked}));
    }
    let rows = verdict.checked.iter().map(|checked| format!("{:13}  {}\n", checked.what, checked.found));
    format!("VERIFIED\n{:13}  {key}\n{}", "key", rows.collect::<String>())
}

fn refused(refusal: &Refusal, json: bool) -> String {
    let Refusal { code, found } = refusal;
    if json {
        return format!(
            "{}\n",
            json!({"verdict": "refused", "code": code.name(), "found": found, "next": code.next()})
        );
    }
    format!("REFUSED {code}\nfound          {found}\nnext           {}\n", code.next())
}

fn digest_of(text: &str) -> Result<[u8; 32]> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let bytes = hex::decode(digits).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.with_context(|| format!("{text:?} is no SHA-256: give 64 hexadecimal digits"))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut found = [0; 32];
    found.copy_from_slice(digest(&SHA256, bytes).as_ref());
    found
}

fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    SystemRandom::new().fill(&mut bytes).map_err(|_| anyhow!("The kernel gives no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use attest::cluster::{Assurance, Keys};

    use super::*;

    #[test]
    fn a_verdict_says_what_was_checked() {
        let verdict = Verdict {
            key: AkTrust::EndorsementKey("07".into()),
            checked: vec![Checked { what: "cap", found: "closed".into() }],
        };
        let text = said(&verdict, false);
        assert_eq!(text, "VERIFIED\nkey            its TPM has the endorsement key sha256:07\ncap            closed\n");
        let value: serde_json::Value = serde_json::from_str(&said(&verdict, true)).unwrap();
        assert_eq!(value["checked"]["cap"], "closed");
        let refusal = Refusal::new(Code::AkUnverified, "nobody");
        assert!(refused(&refusal, false).starts_with("REFUSED AK_UNVERIFIED\n"));
        let value: serde_json::Value = serde_json::from_str(&refused(&refusal, true)).unwrap();
        assert_eq!(value["code"], "AK_UNVERIFIED");
    }

    #[test]
    fn a_digest_has_64_digits() {
        assert_eq!(digest_of(&format!("sha256:{}", "07".repeat(32))).unwrap(), [7; 32]);
        assert!(digest_of("07").is_err() && digest_of(&"0g".repeat(32)).is_err());
    }

    #[test]
    fn receipt_is_written_as_the_node_has_it_and_another_log_is_refused() {
        let keys = Keys { keys: vec![], threshold: 0 };
        let cluster = Cluster {
            assurance: Assurance::Development,
            broker: keys.clone(),
            epoch: 1,
            id: Hex(vec![7; 16]),
            recovery: keys,
            schema: Cluster::SCHEMA.into(),
            slots: vec![],
        };
        let head = |origin: &str| format!("{origin}\n9\n{}=\n\n\u{2014} {origin} AAAAAAAA\n", "A".repeat(43));
        let empty = Hex(vec![]);
        let mut answer = Answer {
            ak: empty.clone(),
            bank: measurements::Bank::Sha256,
            certificate: None,
            broker: None,
            ek: empty.clone(),
            ek_certificate: None,
            event_log: empty.clone(),
            quote: empty.clone(),
            receipt: Some(head(&format!("cairn/{}/audit", "07".repeat(16)))),
            registers: vec![],
            schema: Answer::SCHEMA.into(),
            signature: empty,
            user_space_log: String::new(),
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("receipt");
        let found = receipt(&answer, &cluster, Some(&file)).unwrap().unwrap();
        assert!(found.starts_with("a head of 9 leaves of the audit log, written to "), "{found}");
        assert_eq!(std::fs::read_to_string(&file).ok(), answer.receipt);
        answer.receipt = Some(head("cairn/other/audit"));
        assert!(receipt(&answer, &cluster, None).unwrap().unwrap().starts_with("not a checkpoint of"));
        assert!(receipt(&answer, &cluster, Some(&file)).is_err());
        answer.receipt = None;
        assert_eq!(receipt(&answer, &cluster, None).unwrap(), None);
        assert!(receipt(&answer, &cluster, Some(&file)).is_err());
    }
}
