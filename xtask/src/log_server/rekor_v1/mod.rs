//! A log of Rekor v1 on this host, for tests of publishing to one: the real server, over a Trillian that keeps its tree in memory. All of it on loopback; both are killed when this is dropped, and what was logged is lost.

mod sources;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rcgen::{KeyPair, PublicKeyData as _};

use super::keys::{pem, write_private};
use super::process::{Process, connect, free_ports, get};
use super::programs::Unavailable;
use crate::build::sources::Sources;
use crate::build::stage::Stages;
use crate::checkout::Checkout;
use crate::config::log_server::LogServerConfig;
use crate::lock::{Package, sets};
use crate::progress::Progress;
use crate::store::Store;

/// Attempts at ports that somebody else took in the meantime.
const ATTEMPTS: usize = 3;
/// Its name in heads.
const ORIGIN: &str = "rekor-v1.cairn.invalid";
const KEY: &str = "log.key";
/// What is compiled in, and what is answered without an index beside the log.
const KINDS: &str = "dsse,hashedrekord,intoto";
const ANSWERED: &str = "createLogEntry,getLogInfo,getLogEntryByIndex,getLogEntryByUUID,getPublicKey,getLogProof";

/// Its programs.
pub struct Programs {
    rekor: PathBuf,
    trillian: PathBuf,
}

impl Programs {
    /// Fetches, unpacks and compiles, or takes from the cache.
    ///
    /// # Errors
    /// Among others [`Unavailable`].
    pub fn get(checkout: &Checkout, store: &Store, progress: &Progress) -> Result<Self> {
        let config = LogServerConfig::read(checkout.root())?;
        let names = [sets::LOG, sets::LOG_V1];
        let sources = Sources::get(checkout, &names, false, store, progress).map_err(Unavailable)?;
        let made = Self::of(&config, &sources, store, progress);
        made.map_err(|error| if sources.locked { error } else { Unavailable(error).into() })
    }

    fn of(config: &LogServerConfig, sources: &Sources, store: &Store, progress: &Progress) -> Result<Self> {
        let of_log = sources.set(sets::LOG)?;
        let of_log = of_log.iter().filter(|package| !config.programs.contains(&package.name));
        let packages: Vec<&Package> = of_log.copied().chain(sources.set(sets::LOG_V1)?.iter().copied()).collect();
        let stages = Stages::new(store, progress);
        let trillian = sources::TRILLIAN.compile(&packages, sources, &stages)?;
        Ok(Self { rekor: sources::REKOR.compile(&packages, sources, &stages)?, trillian })
    }
}

/// A log.
pub struct RekorV1 {
    /// Where it is asked.
    pub address: String,
    /// The file with its public key, PEM.
    pub key: PathBuf,
    _servers: [Process; 2],
}

impl RekorV1 {
    /// A new log with a key of its own in `folder`.
    pub fn start(programs: &Programs, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
        let pair = KeyPair::generate().context("Failed to make a key")?;
        write_private(&folder.join(KEY), &pem("PRIVATE KEY", &pair.serialize_der()))?;
        let key = folder.join("log.pub");
        fs::write(&key, pem("PUBLIC KEY", &pair.subject_public_key_info()))
            .with_context(|| format!("Failed to write {}", key.display()))?;
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            match serve(programs, folder) {
                Ok((address, servers)) => return Ok(Self { address, key, _servers: servers }),
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error.context("Failed to start Rekor v1")),
            None => bail!("Rekor v1 was not started"),
        }
    }
}

fn serve(programs: &Programs, folder: &Path) -> Result<(String, [Process; 2])> {
    let [port, trillian_port] = free_ports()?;
    let endpoint = ["-rpc_endpoint".to_owned(), format!("127.0.0.1:{trillian_port}")];
    let mut trillian = Process::start(&programs.trillian, &endpoint, &folder.join("trillian.log"))?;
    trillian.wait(|| connect(trillian_port).is_ok())?;
    // The index, which this one goes without, is in Redis or MySQL.
    let mut words = vec!["serve".to_owned(), "--enable_retrieve_api=false".to_owned()];
    for (name, value) in [
        ("trillian_log_server.address", "127.0.0.1".to_owned()),
        ("trillian_log_server.port", trillian_port.to_string()),
        ("rekor_server.address", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        ("rekor_server.hostname", ORIGIN.to_owned()),
        ("rekor_server.signer", folder.join(KEY).display().to_string()),
        ("enabled_entry_types", KINDS.to_owned()),
        ("enabled_api_endpoints", ANSWERED.to_owned()),
    ] {
        words.extend([format!("--{name}"), value]);
    }
    let mut rekor = Process::start(&programs.rekor, &words, &folder.join("rekor.log"))?;
    rekor.wait(|| get(port, "/ping").is_ok_and(|answer| answer.contains("200 OK")))?;
    Ok((format!("http://127.0.0.1:{port}"), [rekor, trillian]))
}
