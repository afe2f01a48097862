//! `cairn verify-node`: asks a running node what it is, and says what was found. Nothing of the node is believed that its TPM did not sign in this conversation, and the TPM's key is believed because somebody named who vouches for it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use attest::bytes::{Bytes32, Hex};
use attest::cluster::Cluster;
use attest::message::{self, Credential};
use attest::runtime::{self, Activate, Activated, AkTrust, Answer, Question, Verdict};
use attest::tpm::{AttestationKey, EndorsementKey, Randomness};
use attest::{Code, Refusal};
use clap::Args;
use connection::{Connection, Response};
use measurements::canonical::Document;
use measurements::compose::{Configuration, compose};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::json;

use crate::inputs::{MachineArgs, read, read_image};

/// A quote takes a slow TPM a second.
const PATIENCE: Duration = Duration::from_secs(30);
const REFUSED: u8 = 3;

/// Arguments of `verify-node`.
#[derive(Args)]
#[command(after_help = "\
The node's TPM is known by its endorsement key (--ek), or, without that, by the certificate that a broker of the cluster
gave the node when it booted. Neither is AK_UNVERIFIED.

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
    let image = read_image(&args.reference)?;
    let expected = compose(&image.measured, &args.machine.read()?, &Configuration::cluster(&bytes))?;
    let known = args.ek.iter().map(|text| digest_of(text)).collect::<Result<Vec<_>>>()?;

    let mut node = Node { connection: Connection::open(args.address, PATIENCE)? };
    let nonce = random()?;
    let answer: Answer =
        node.ask("/attest/1/question", &Question { nonce: Bytes32(nonce), schema: Question::SCHEMA.into() })?;
    let verdict = node
        .vouched(&answer, &known, &cluster)?
        .and_then(|key| runtime::verify(&answer, &nonce, node.connection.tls_key(), &expected, &cluster, key));
    Ok(match verdict {
        Ok(verdict) => (said(&verdict, args.json), ExitCode::SUCCESS),
        Err(refusal) => (refused(&refusal, args.json), ExitCode::from(REFUSED)),
    })
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
    fn vouched(&mut self, answer: &Answer, known: &[[u8; 32]], cluster: &Cluster) -> Result<Result<AkTrust, Refusal>> {
        if known.is_empty() {
            return Ok(runtime::by_certificate(answer, cluster));
        }
        let found = sha256(&answer.ek.0);
        if !known.contains(&found) {
            let found =
                format!("the node's endorsement key is sha256:{}, which is none of those named", hex::encode(found));
            return Ok(Err(Refusal::new(Code::AkUnverified, found)));
        }
        let made = EndorsementKey::parse(&answer.ek.0).and_then(|ek| {
            let key = AttestationKey::parse(&answer.ak.0)?;
            Ok((ek, key.name()))
        });
        let (ek, name) = match made {
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
        Ok(Ok(AkTrust::EndorsementKey(hex::encode(found))))
    }
}

fn said(verdict: &Verdict, json: bool) -> String {
    let key = match &verdict.key {
        AkTrust::EndorsementKey(digest) => format!("its TPM has the endorsement key sha256:{digest}"),
        AkTrust::NodeCertificate(name) => format!("a broker of the cluster certified it as the node {name}"),
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
    use attest::runtime::Checked;

    use super::*;

    #[test]
    fn a_verdict_says_what_was_checked() {
        let verdict = Verdict {
            key: AkTrust::NodeCertificate("web-1".into()),
            checked: vec![Checked { what: "cap", found: "closed".into() }],
        };
        let text = said(&verdict, false);
        assert_eq!(
            text,
            "VERIFIED\nkey            a broker of the cluster certified it as the node web-1\ncap            closed\n"
        );
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
}
