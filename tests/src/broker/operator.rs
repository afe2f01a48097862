//! What an operator does with the broker: the program's own commands.

use std::io::{BufRead, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Broker;

/// A node that no TPM belongs to.
const IDLE: &str = "idle";
/// Leaves of the audit log in the database, when all that can be moved have moved: fewer than 256 beside the newest 256.
const MAX_AUDIT_ROWS: u64 = 512;

impl Broker {
    /// Runs one of the operator's commands.
    pub fn command(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(words).arg("--config").arg(self.file("broker.toml"));
        command.output().context("Failed to start the key broker")
    }

    /// Restores a backup with the broker's passphrase; `more` are further options.
    pub fn restore(&self, backup: &Path, more: &[&str]) -> Result<Output> {
        let (backup, passphrase) = (backup.display().to_string(), self.passphrase().display().to_string());
        self.command(&[&["restore", &backup, "--passphrase-file", &passphrase], more].concat())
    }

    /// Runs one of the operator's commands, which must succeed; what it says as JSON.
    pub fn admin(&self, words: &[&str]) -> Result<Value> {
        let output = self.command(&[words, &["--json"]].concat())?;
        ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
        serde_json::from_slice(&output.stdout).with_context(|| format!("{words:?} printed no JSON"))
    }

    /// The node that the newest leaf of the audit log names; empty for an unauthenticated client.
    pub fn last_node(&self) -> Result<String> {
        let tail = self.admin(&["audit", "tail", "1"])?;
        tail[0]["node"].as_str().map(str::to_owned).context("the audit log has no leaf")
    }

    /// The code of a request.
    pub fn code(&self, request: &str) -> Result<String> {
        let explained = self.admin(&["explain", request])?;
        explained["code"].as_str().map(str::to_owned).context("the explanation has no code")
    }

    /// Enrols a node, and allows a release.
    pub fn enrol(&self, name: &str, ek: &str, machine: &Path) -> Result<()> {
        let machine = machine.display().to_string();
        self.admin(&["node", "enrol", name, "--ek", ek, "--machine", &machine]).map(drop)
    }

    /// Enrolls a node that no TPM belongs to: for decisions of an operator that change nothing else.
    pub fn enrol_idle(&self, machine: &Path) -> Result<()> {
        self.enrol(IDLE, &"07".repeat(32), machine)
    }

    /// As many decisions on the idle node: each is a leaf of the audit log.
    pub fn fill_audit(&self, count: usize) -> Result<()> {
        for _ in 0..count {
            let mut socket = UnixStream::connect(self.file("admin.sock")).context("no broker answers")?;
            writeln!(socket, r#"{{"admin":{{"command":"node-approve","name":"{IDLE}"}}}}"#)?;
            let mut answer = String::new();
            BufReader::new(socket).read_line(&mut answer)?;
            ensure!(answer.contains("done"), "the decision was answered with {answer:?}");
        }
        Ok(())
    }

    /// Leaves of the audit log that are in the database, once older ones have moved to files.
    pub fn audit_rows(&self) -> Result<u64> {
        let database = rusqlite::Connection::open(self.file("database"))?;
        for _ in 0..300 {
            let rows: u64 = database.query_row("SELECT count(*) FROM audit", [], |row| row.get(0))?;
            if rows < MAX_AUDIT_ROWS {
                return Ok(rows);
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        bail!("{MAX_AUDIT_ROWS} leaves or more of the audit log stay in the database")
    }

    /// Allows a release that nobody signed.
    pub fn allow(&self, reference: &Path) -> Result<()> {
        let reference = reference.display().to_string();
        self.admin(&["release", "allow", "--unsigned-development", "--allow-debug", &reference]).map(drop)
    }

    /// The only disk of a node: a field of its record.
    pub fn disk(&self, node: &str, field: &str) -> Result<Value> {
        let shown = self.admin(&["node", "show", node])?;
        Ok(shown["disks"][0][field].clone())
    }
}
