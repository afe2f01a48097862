//! A log of Rekor v2 on this host, on loopback alone: the server that takes entries, and its files for readers.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::keys::{Key, Role, write_private};
use super::process::{Process, free_ports, get};
use super::tiles;

/// Attempts at ports that somebody else took in the meantime.
const ATTEMPTS: usize = 3;
const KEY: &str = "log.key";

/// A log. Its server is killed when this is dropped; what it has logged stays in its folder.
pub struct Log {
    /// Its name in checkpoints.
    pub origin: String,
    /// Its key.
    pub key: Key,
    /// Where entries are sent.
    pub write: String,
    /// Where checkpoint and tiles are read.
    pub read: String,
    folder: PathBuf,
    program: PathBuf,
    server: Option<Process>,
    port: u16,
}

impl Log {
    /// A log in `folder`: new, or with the key and entries that are there. It does not run yet.
    pub fn open(program: &Path, folder: &Path, origin: &str, readers: u16) -> Result<Self> {
        let tiles = folder.join("tiles");
        fs::create_dir_all(&tiles).with_context(|| format!("Failed to make {}", tiles.display()))?;
        let path = folder.join(KEY);
        let key = if path.exists() { Key::read(&path)? } else { new_key(&path)? };
        let read = format!("http://{}", tiles::serve(&tiles, readers)?);
        Ok(Self {
            origin: origin.to_owned(),
            key,
            write: String::new(),
            read,
            folder: folder.to_owned(),
            program: program.to_owned(),
            server: None,
            port: 0,
        })
    }

    /// Starts it on `port`, or the port of before, or a free one; a `witness_policy` names who must see its checkpoints.
    pub fn start(&mut self, port: u16, witness_policy: Option<&str>) -> Result<()> {
        let wanted = if port == 0 { self.port } else { port };
        let policy = self.folder.join("witnesses.policy");
        fs::write(&policy, witness_policy.unwrap_or_default())
            .with_context(|| format!("Failed to write {}", policy.display()))?;
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            let [free, grpc, metrics] = free_ports()?;
            let port = if wanted == 0 { free } else { wanted };
            let mut arguments = self.arguments(port, grpc, metrics);
            if witness_policy.is_some() {
                arguments.extend(["--witness-policy-path".to_owned(), policy.display().to_string()]);
            }
            let mut server = Process::start(&self.program, &arguments, &self.folder.join("server.log"))?;
            match server.wait(|| get(port, "/healthz").is_ok_and(|answer| answer.contains("SERVING"))) {
                Ok(()) => {
                    (self.server, self.port) = (Some(server), port);
                    self.write = format!("http://127.0.0.1:{port}");
                    return Ok(());
                }
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) => Err(error.context("Failed to start the log")),
            None => bail!("The log was not started"),
        }
    }

    fn arguments(&self, port: u16, grpc: u16, metrics: u16) -> Vec<String> {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let mut words = vec!["serve".to_owned(), "--persistent-antispam".to_owned()];
        for (name, value) in [
            ("http-address", "127.0.0.1".to_owned()),
            ("http-port", port.to_string()),
            ("grpc-port", grpc.to_string()),
            ("http-metrics-port", metrics.to_string()),
            ("hostname", self.origin.clone()),
            ("storage-dir", path("tiles")),
            ("signer-filepath", path(KEY)),
            ("checkpoint-interval", "1s".to_owned()),
            ("batch-max-age", "100ms".to_owned()),
        ] {
            words.extend([format!("--{name}"), value]);
        }
        words
    }

    /// Stops the server; readers are served on.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Its key as other tools of transparency logs take it.
    pub fn verifier_key(&self) -> String {
        self.key.verifier_key(&self.origin, Role::Log)
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn new_key(path: &Path) -> Result<Key> {
    let key = Key::generate()?;
    write_private(path, &key.private_pem())?;
    Ok(key)
}
