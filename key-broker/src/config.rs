//! `broker.toml`: where the broker listens, where its files are, and its limits.

mod ranges;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Url;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use transparency::verifier_key::{Role, VerifierKey};

use crate::engine::Settings;
use crate::inputs;

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where nodes reach the broker.
    pub listen: SocketAddr,
    /// Where /health, /ready and /metrics are served by plain HTTP; only on loopback.
    pub metrics: Option<SocketAddr>,
    /// Limits.
    #[serde(default)]
    pub limits: Limits,
    /// What is asked of releases beyond a signature and a place in the log.
    #[serde(default)]
    pub policy: Policy,
    /// The audit log.
    #[serde(default)]
    pub audit: Audit,
    /// The file itself.
    #[serde(skip)]
    pub path: PathBuf,
    /// The folder that the file is in.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// What is asked of releases beyond a signature and a place in the log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How many rebuilders of the trust root must have made a release again, and got the same image.
    pub least_rebuilders: u64,
    /// How many boots in a row may unlock a disk without a report; the next one is held (`COMMIT_MISSING`).
    pub unreported_boots: u32,
    /// Days that a node's certificate is good: `cairn verify-node` refuses it afterwards, until the node is restarted.
    pub certificate_days: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { least_rebuilders: 0, unreported_boots: 3, certificate_days: 90 }
    }
}

/// The audit log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Seconds between two requests to a witness.
    pub witness_seconds: u64,
    /// Who signs the heads of the log.
    pub witness: Vec<Witness>,
}

impl Default for Audit {
    fn default() -> Self {
        Self { witness_seconds: 60, witness: Vec::new() }
    }
}

/// A witness (C2SP tlog-witness).
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// Submission prefix: `/add-checkpoint` is appended.
    pub url: String,
    /// Its verifier key: `NAME+ID+KEY`.
    #[serde(deserialize_with = "witness_key")]
    pub key: VerifierKey,
}

fn witness_key<'de, D: Deserializer<'de>>(deserializer: D) -> Result<VerifierKey, D::Error> {
    let text = String::deserialize(deserializer)?;
    VerifierKey::of(&text, Role::Witness).map_err(D::Error::custom)
}

/// Limits; all have values that fit small clusters.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at a time.
    pub connections: usize,
    /// Connections of one address (IPv6: one /64) at a time.
    pub connections_per_address: usize,
    /// Seconds for the handshake of TLS.
    pub handshake_seconds: u64,
    /// Requests that wait for a processor at a time; the next is told to come again.
    pub queue: usize,
    /// Seconds for a head, for a body.
    pub patience_seconds: u64,
    /// Seconds for a whole connection.
    pub connection_seconds: u64,
    /// Seconds to answer a challenge.
    pub challenge_seconds: u64,
    /// Seconds to report what became of a release.
    pub commit_seconds: u64,
    /// Seconds that a transaction waits for others, of this process and of another that has locked the database; then the answer is 503. For those of this process the minimum is one second.
    pub store_seconds: u64,
    /// Seconds that a held node waits.
    pub hold_seconds: u64,
    /// Requests of one address in a minute.
    pub requests_per_minute: u32,
    /// Hellos of one endorsement key in a minute.
    pub hellos_per_minute: u32,
    /// Refusals of strangers in the audit log in a minute.
    pub strangers_per_minute: u32,
    /// Days that disks are still unlocked after the channel's state has expired.
    pub stale_unlock_days: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2048,
            connections_per_address: 256,
            handshake_seconds: 5,
            queue: 256,
            patience_seconds: 20,
            connection_seconds: 120,
            challenge_seconds: 60,
            commit_seconds: 600,
            store_seconds: 10,
            hold_seconds: 5,
            requests_per_minute: 1200,
            hellos_per_minute: 60,
            strangers_per_minute: 60,
            stale_unlock_days: 14,
        }
    }
}

impl Limits {
    /// Open files that are not connections of nodes: databases, files of the audit log, the admin socket, metrics.
    const RESERVED_FILES: u64 = 64;

    /// Lowers `connections` to what a process with so many open files can have; true if it was lowered.
    pub fn fit(&mut self, open_files: u64) -> Result<bool> {
        let room = open_files.saturating_sub(Self::RESERVED_FILES);
        ensure!(
            room > 0,
            "cannot start with a limit of {open_files} open files: {} are reserved\nhint: set LimitNOFILE={}",
            Self::RESERVED_FILES,
            u64::try_from(self.connections)?.saturating_add(Self::RESERVED_FILES)
        );
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let is_lower = room < self.connections;
        self.connections = self.connections.min(room);
        Ok(is_lower)
    }
}

impl Config {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let advice = || {
            format!(
                "Failed to read {}: name the broker's file with --config, or make a broker with `key-broker init`",
                path.display()
            )
        };
        Self::parse(&inputs::configuration_text(path).with_context(advice)?, path)
    }

    /// Reads the text of the file, whose path is this.
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let place = || path.display().to_string();
        ranges::check(&toml::from_str(text).with_context(place)?).with_context(place)?;
        let mut config: Self = toml::from_str(text).with_context(place)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        config.folder = folder.to_owned();
        config.path = path.to_owned();
        let is_loopback = config.metrics.is_none_or(|address| address.ip().is_loopback());
        ensure!(is_loopback, "{}: metrics are served on loopback alone", path.display());
        for Witness { url, .. } in &config.audit.witness {
            let is_http = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            ensure!(is_http, "{}: cannot use the witness at {url:?}: expected an http or https URL", path.display());
        }
        Ok(config)
    }

    /// A file beside it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the engine is told.
    pub fn settings(&self) -> Settings {
        let Limits { challenge_seconds, commit_seconds, hold_seconds, hellos_per_minute, .. } = self.limits;
        let Limits { strangers_per_minute, stale_unlock_days, .. } = self.limits;
        Settings {
            challenge: Duration::from_secs(challenge_seconds),
            store: Duration::from_secs(self.limits.store_seconds),
            commit: Duration::from_secs(commit_seconds),
            hold: Duration::from_secs(hold_seconds),
            hellos_per_minute,
            strangers_per_minute,
            stale_unlock: Duration::from_secs(u64::from(stale_unlock_days) * 24 * 3600),
            least_rebuilders: self.policy.least_rebuilders,
            unreported_boots: self.policy.unreported_boots,
            certificate: Duration::from_secs(u64::from(self.policy.certificate_days) * 24 * 3600),
            witnesses: self.audit.witness.iter().map(|witness| witness.key.clone()).collect(),
        }
    }

    /// What `init` writes.
    pub fn text(listen: SocketAddr) -> String {
        format!(
            "# Where nodes reach the broker: IP:PORT. With port 0 any free one, which is printed.\nlisten = \"{listen}\"\n\n\
             # Where /health, /ready and /metrics are served by plain HTTP, on loopback alone.\n# metrics = \"127.0.0.1:9464\"\n\n\
             # Limits and policy; these are the values that hold without these sections. least_rebuilders says how many rebuilders\n\
             # of the trust root must have got the same image from the same sources before a release is allowed. A witness signs the\n\
             # heads of the audit log, and so knows of a log that was cut: give it what `key-broker audit key` prints.\n# [limits]\n# connections = 2048\n# connections_per_address = 256\n# handshake_seconds = 5\n# queue = 256\n\
             # patience_seconds = 20\n# connection_seconds = 120\n# challenge_seconds = 60\n# commit_seconds = 600\n# store_seconds = 10\n\
             # hold_seconds = 5\n# requests_per_minute = 1200\n# hellos_per_minute = 60\n# strangers_per_minute = 60\n\
             # stale_unlock_days = 14\n\
             # [policy]\n# least_rebuilders = 0\n# unreported_boots = 3\n# certificate_days = 90\n\
             # [audit]\n# witness_seconds = 60\n# [[audit.witness]]\n# url = \"https://witness.example.org\"\n# key = \"NAME+ID+KEY\"\n"
        )
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_init_writes_is_read_and_its_comments_are_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        let text = Config::text("127.0.0.1:7443".parse().unwrap());
        fs::write(&path, &text).unwrap();
        let plain = Config::read(&path).unwrap();
        let commented = text.split("# [limits]").nth(1).unwrap();
        let limits = commented.split("# [[audit.witness]]").next().unwrap().replace("# ", "");
        fs::write(&path, format!("listen = \"127.0.0.1:7443\"\n[limits]{limits}")).unwrap();
        let written = Config::read(&path).unwrap();
        assert_eq!(format!("{:?}", plain.limits), format!("{:?}", written.limits));
        assert_eq!(format!("{:?}", plain.policy), format!("{:?}", written.policy));
        assert_eq!(format!("{:?}", plain.audit), format!("{:?}", written.audit));
    }

    #[test]
    fn connections_fit_the_limit_of_open_files() {
        for (open_files, lowered, connections) in
            [(u64::MAX, false, 2048), (2112, false, 2048), (2111, true, 2047), (1024, true, 960), (65, true, 1)]
        {
            let mut limits = Limits::default();
            assert_eq!((limits.fit(open_files).unwrap(), limits.connections), (lowered, connections), "{open_files}");
        }
        let error = Limits::default().fit(64).unwrap_err().to_string();
        assert!(error.contains("LimitNOFILE=2112"), "{error}");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        let key = VerifierKey { name: "a".into(), role: Role::Witness, key: [7; 32] };
        let witness = |url| format!("listen = \"127.0.0.1:1\"\n[[audit.witness]]\nurl = \"{url}\"\nkey = \"{key}\"\n");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.toml");
        for (text, word) in [
            ("listen = \"127.0.0.1:1\"\nunknown = 1\n", "unknown"),
            ("listen = \"broker.example:1\"\n", "listen"),
            ("listen = \"127.0.0.1:1\"\nmetrics = \"192.0.2.1:1\"\n", "loopback"),
            ("", "listen"),
            ("listen = \"127.0.0.1:1\"\n[[audit.witness]]\nurl = \"http://a\"\nkey = \"a+b+c\"\n", "verifier key"),
            (&witness("ftp://a"), "http or https"),
            (&witness("a.example"), "http or https"),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", Config::read(&path).unwrap_err());
            assert!(error.contains(word), "{error}");
        }
        fs::write(&path, witness("https://a.example/log")).unwrap();
        assert_eq!(Config::read(&path).unwrap().settings().witnesses, [key]);
        assert!(format!("{:#}", Config::read(&folder.path().join("x")).unwrap_err()).contains("key-broker init"));
    }
}
