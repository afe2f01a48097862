//! Sigstore's timestamp authority (RFC 3161) on this host, on loopback alone, with a key and certificates of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::keys::{pem, write_private};
use super::process::{Process, free_ports, get};

/// Attempts at ports that somebody else took in the meantime.
const ATTEMPTS: usize = 3;
const KEY: &str = "tsa.key";
const CHAIN: &str = "tsa-chain.pem";
/// What trust roots of Cairn have: the authority's own certificate.
const LEAF: &str = "tsa.der";
const ROOT: &str = "tsa-root.der";
/// Names in its certificates.
pub(super) const ORGANIZATION: &str = "cairn.invalid";
pub(super) const SUBJECT: &str = "timestamps";
const ISSUER: &str = "timestamps root";
/// Where it answers.
const PATH: &str = "/api/v1/timestamp";
/// The extended key usage (RFC 5280, section 4.2.1.12), and timeStamping as its only purpose, which RFC 3161, section 2.3, wants to be critical.
const USAGE: &[u64] = &[2, 5, 29, 37];
const TIME_STAMPING: &[u8] = &[0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08];

/// A timestamp authority. Its server is killed when this is dropped.
pub struct TimestampAuthority {
    /// Where requests are posted.
    pub address: String,
    /// Its certificate and that of who issued it, DER.
    pub chain: [Vec<u8>; 2],
    folder: PathBuf,
    program: PathBuf,
    server: Option<Process>,
    port: u16,
}

impl TimestampAuthority {
    /// An authority in `folder`: new, or with the key that is there. It runs.
    pub fn start(program: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
        if !folder.join(KEY).exists() {
            make(folder)?;
        }
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).with_context(|| format!("Failed to read {}", path.display()))
        };
        let mut authority = Self {
            address: String::new(),
            chain: [read(LEAF)?, read(ROOT)?],
            folder: folder.to_owned(),
            program: program.to_owned(),
            server: None,
            port: 0,
        };
        authority.start_again()?;
        Ok(authority)
    }

    /// Starts it where it was.
    pub fn start_again(&mut self) -> Result<()> {
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            let [free] = free_ports()?;
            let port = if self.port == 0 { free } else { self.port };
            let mut server = Process::start(&self.program, &self.arguments(port), &self.folder.join("tsa.log"))?;
            match server.wait(|| get(port, "/ping").is_ok_and(|answer| answer.contains("200 OK"))) {
                Ok(()) => {
                    (self.server, self.port) = (Some(server), port);
                    self.address = format!("http://127.0.0.1:{port}{PATH}");
                    return Ok(());
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error.context("Failed to start the timestamp authority")),
            None => bail!("The timestamp authority was not started"),
        }
    }

    fn arguments(&self, port: u16) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        // The clock of this host is what it certifies: it asks nobody else.
        let mut words = vec!["serve".to_owned(), "--disable-ntp-monitoring".to_owned()];
        for (name, value) in [
            ("host", "127.0.0.1".to_owned()),
            ("port", port.to_string()),
            ("timestamp-signer", "file".to_owned()),
            ("file-signer-key-path", path(KEY)),
            ("certificate-chain-path", path(CHAIN)),
        ] {
            words.extend([format!("--{name}"), value]);
        }
        words
    }

    /// Stops it.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// The file with its own certificate, DER.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join(LEAF)
    }
}

/// A key, its certificate, and the certificate of an issuer whose key nobody keeps.
fn make(folder: &Path) -> Result<()> {
    let (key, issuer_key) = (new_key()?, new_key()?);
    let mut issuer = parameters(ISSUER);
    issuer.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    issuer.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let root = issuer.self_signed(&issuer_key).context("Failed to make a certificate")?;

    let mut own = parameters(SUBJECT);
    own.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let mut usage = CustomExtension::from_oid_content(USAGE, TIME_STAMPING.to_vec());
    usage.set_criticality(true);
    own.custom_extensions = vec![usage];
    own.use_authority_key_identifier_extension = true;
    let leaf = own.signed_by(&key, &Issuer::from_params(&issuer, &issuer_key));
    let leaf = leaf.context("Failed to make a certificate")?;

    let chain = [&leaf, &root].map(|certificate| pem("CERTIFICATE", certificate.der()));
    for (name, bytes) in [(LEAF, &leaf.der()[..]), (ROOT, root.der()), (CHAIN, chain.concat().as_bytes())] {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| format!("Failed to write {}", path.display()))?;
    }
    // The key last: where it is, all is there.
    write_private(&folder.join(KEY), &pem("PRIVATE KEY", &key.serialize_der()))
}

fn new_key() -> Result<KeyPair> {
    KeyPair::generate().context("Failed to make a key")
}

fn parameters(name: &str) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::OrganizationName, ORGANIZATION);
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.not_before = rcgen::date_time_ymd(2024, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2044, 1, 1);
    parameters
}
