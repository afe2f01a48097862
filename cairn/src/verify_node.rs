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
use crate::receipt::{Problem, Receipt};

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
    /// Output file for the receipt of a verified node, for `key-broker audit verify --heads`; a file with a later head or with other content is not replaced
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// JSON instead of text
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
    concluded(verdict, (&answer, &cluster), args.receipt.as_deref(), args.json)
}

/// What is said and written after the verdict: only a node that is verified has a receipt to keep.
fn concluded(
    verdict: Result<Verdict, Refusal>,
    (answer, cluster): (&Answer, &Cluster),
    file: Option<&Path>,
    json: bool,
) -> Result<(String, ExitCode)> {
    let mut verdict = match verdict {
        Ok(verdict) => verdict,
        Err(refusal) => return Ok((refused(&refusal, json), ExitCode::from(REFUSED))),
    };
    let found = match (Receipt::of(answer, cluster), file) {
        (Ok(receipt), None) => Some(receipt.to_string()),
        (Ok(receipt), Some(file)) => {
            receipt.write(file).context("cannot keep the receipt of the verified node")?;
            Some(format!("{receipt}, written to {}", file.display()))
        }
        (Err(Problem::Missing), None) => None,
        (Err(problem), None) => Some(problem.to_string()),
        (Err(problem), Some(_)) => anyhow::bail!("cannot keep the receipt of the verified node: {problem}"),
    };
    verdict.checked.extend(found.map(|found| Checked { what: "receipt", found }));
    Ok((said(&verdict, json), ExitCode::SUCCESS))
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
        return format!(
            "{}\n",
            json!({"verdict": "verified", "assurance": verdict.assurance.name(), "checked": checked})
        );
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
    use attest::cluster::Assurance;

    use super::*;
    use crate::receipt::tests::{LOG, ROOT, answer, certificate, cluster, head};

    #[test]
    fn a_verdict_says_what_was_checked() {
        let verdict = Verdict {
            key: AkTrust::EndorsementKey("07".into()),
            assurance: Assurance::TpmVirtual,
            checked: vec![Checked { what: "cap", found: "closed".into() }],
        };
        let text = said(&verdict, false);
        assert_eq!(text, "VERIFIED\nkey            its TPM has the endorsement key sha256:07\ncap            closed\n");
        let value: serde_json::Value = serde_json::from_str(&said(&verdict, true)).unwrap();
        assert_eq!((&value["checked"]["cap"], &value["assurance"]), (&"closed".into(), &"tpm-virtual".into()));
        let refusal = Refusal::new(Code::AkUnverified, "nobody");
        assert!(refused(&refusal, false).starts_with("REFUSED AK_UNVERIFIED\n"));
        let value: serde_json::Value = serde_json::from_str(&refused(&refusal, true)).unwrap();
        assert_eq!(value["code"], "AK_UNVERIFIED");
    }

    #[test]
    fn receipt_is_kept_of_a_verified_node_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("receipt");
        let (cluster, answer) = (cluster(), answer(Some(head(7, 9, 3)), Some(certificate(ROOT, Some(LOG)))));
        let verdict =
            || Verdict { key: AkTrust::EndorsementKey("07".into()), assurance: Assurance::TpmVirtual, checked: vec![] };
        let conclude = |verdict| concluded(verdict, (&answer, &cluster), Some(&file), false);
        for kept in ["", &head(7, 8, 2)] {
            std::fs::write(&file, kept).unwrap();
            let (text, code) = conclude(Err(Refusal::new(Code::AkUnverified, "a stranger"))).unwrap();
            assert!(text.starts_with("REFUSED AK_UNVERIFIED\n") && !text.contains("written"), "{text}");
            assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::from(REFUSED)));
            assert_eq!(std::fs::read_to_string(&file).unwrap(), kept, "a refused node has written");
        }
        let (text, _) = conclude(Ok(verdict())).unwrap();
        assert!(text.contains("receipt        a head of 9 leaves of the audit log, written to "), "{text}");
        assert_eq!(std::fs::read_to_string(&file).ok(), answer.receipt);
        // A receipt that is not the broker's is shown, and not kept.
        let answer = Answer { broker: Some(certificate(ROOT, Some(9))), ..answer };
        let (text, _) = concluded(Ok(verdict()), (&answer, &cluster), None, false).unwrap();
        assert!(text.contains("not signed with the audit key"), "{text}");
        assert!(concluded(Ok(verdict()), (&answer, &cluster), Some(&file), false).is_err());
    }

    #[test]
    fn a_digest_has_64_digits() {
        assert_eq!(digest_of(&format!("sha256:{}", "07".repeat(32))).unwrap(), [7; 32]);
        assert!(digest_of("07").is_err() && digest_of(&"0g".repeat(32)).is_err());
    }
}
