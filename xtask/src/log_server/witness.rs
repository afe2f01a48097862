//! A witness (C2SP tlog-witness): it signs a checkpoint of a log only if the log has grown from the one that it signed before.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use super::keys::{Key, Role, write_private};
use super::process::{Process, connect, free_ports};
use super::programs::Programs;
use super::ssh_agent;
use crate::interrupt::Scratch;

const ATTEMPTS: usize = 3;
const KEY: &str = "witness.key";

/// A witness. It is killed when this is dropped.
pub struct Witness {
    /// Its name in cosignatures.
    pub name: String,
    /// Where logs send checkpoints.
    pub address: String,
    key: Arc<Key>,
    folder: PathBuf,
    /// Of the ssh-agent's socket, whose path may have 107 bytes only.
    agent: Scratch,
    programs: Programs,
    server: Option<Process>,
}

impl Witness {
    /// A witness in the folder `folder`, new or the one that was there, which knows the log of this origin and verifier key.
    pub fn start(programs: &Programs, folder: &Path, name: &str, origin: &str, log_key: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
        let path = folder.join(KEY);
        let is_new = !path.exists();
        let key = Arc::new(if is_new { Key::generate()? } else { Key::read(&path)? });
        let (folder, programs) = (folder.to_owned(), programs.clone());
        let agent = Scratch::new(Path::new("/tmp"))?;
        let mut witness =
            Self { name: name.to_owned(), address: String::new(), key, folder, agent, programs, server: None };
        ssh_agent::serve(&witness.socket(), Arc::clone(&witness.key))?;
        if is_new {
            // What a start that was interrupted has left.
            let _ = fs::remove_file(witness.database());
            witness.control(&["add-log", "-origin", origin])?;
            witness.control(&["add-key", "-origin", origin, "-key", log_key])?;
            // The key last: where it is, all is there.
            write_private(&path, &witness.key.private_pem())?;
        }
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            let [port] = free_ports()?;
            match witness.listen(port) {
                Ok(()) => return Ok(witness),
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.context("The witness was not started")?.context("Failed to start the witness"))
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) -> Result<()> {
        let port = self.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        self.listen(port.context("The witness had no port")?)
    }

    fn listen(&mut self, port: u16) -> Result<()> {
        let words: Vec<String> = [
            ("-db", self.database().display().to_string()),
            ("-key", self.key.ssh_fingerprint()),
            ("-name", self.name.clone()),
            ("-ssh-agent", self.socket().display().to_string()),
            ("-listen", format!("127.0.0.1:{port}")),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect();
        let mut server = Process::start(&self.programs.litewitness, &words, &self.folder.join("witness.log"))?;
        server.wait(|| connect(port).is_ok())?;
        (self.server, self.address) = (Some(server), format!("http://127.0.0.1:{port}"));
        Ok(())
    }

    /// Stops it.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// The policy by which a log asks this witness.
    pub fn policy(&self) -> String {
        format!("witness w1 {} {}\nquorum w1\n", self.verifier_key(), self.address)
    }

    /// Its key as other tools of transparency logs take it.
    pub fn verifier_key(&self) -> String {
        self.key.verifier_key(&self.name, Role::Witness)
    }

    fn database(&self) -> PathBuf {
        self.folder.join("witness.db")
    }

    fn socket(&self) -> PathBuf {
        self.agent.path().join("agent")
    }

    fn control(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(&self.programs.witnessctl);
        command.arg(words[0]).arg("-db").arg(self.database()).args(&words[1..]);
        let output = command.output().context("Failed to start witnessctl")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "witnessctl {} failed: {}", words[0], said.trim());
        Ok(())
    }
}
