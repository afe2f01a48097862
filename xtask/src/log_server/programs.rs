//! The programs of a transparency log, made from locked packages: Rekor v2 and the timestamp authority compiled from their
//! sources, the witness and cosign as they are. A stage for each, so that a new version of one does not compile the others.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::go::Program;
use crate::build::sources::Sources;
use crate::build::stage::{Key, Stages};
use crate::checkout::Checkout;
use crate::config::log_server::LogServerConfig;
use crate::lock::{Package, sets};
use crate::progress::Progress;
use crate::store::Store;

/// Rekor v2, with storage in files.
const REKOR: Program = Program {
    name: "rekor-server",
    stage: "log-server",
    package: "golang-github-sigstore-rekor-tiles-dev",
    path: "github.com/sigstore/rekor-tiles/cmd/rekor-server/posix",
    changes: &[],
    without: &[],
    with: &[],
};
/// Sigstore's timestamp authority. Its port for metrics is fixed, and it ends where another program has that: two would not run on one host. Keys in clouds are for others: their clients are most of what it imports.
const TIMESTAMP_SERVER: Program = Program {
    name: "timestamp-server",
    stage: "timestamp-server",
    package: "golang-github-sigstore-timestamp-authority-dev",
    path: "github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server",
    changes: &[
        ("github.com/sigstore/timestamp-authority/v2/pkg/server/prometheus.go", "\":2112\"", "\"127.0.0.1:0\""),
        (
            "github.com/sigstore/timestamp-authority/v2/pkg/signer/signer.go",
            "_ \"github.com/sigstore/sigstore/pkg/signature/kms/aws\"",
            "",
        ),
        (
            "github.com/sigstore/timestamp-authority/v2/pkg/signer/signer.go",
            "primaryKey, err := GetPrimaryKey(ctx, tinkKmsKey, hcVaultToken)
		if err != nil {
			return nil, err
		}
		return NewTinkSigner(tinkKeysetPath, primaryKey)",
            "return nil, fmt.Errorf(\"compiled without key services\")",
        ),
    ],
    without: &["github.com/sigstore/timestamp-authority/v2/pkg/signer/tink.go"],
    with: &[],
};

/// Programs on this host.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Rekor v2.
    pub rekor: PathBuf,
    /// The timestamp authority.
    pub timestamp_server: PathBuf,
    /// Sigstore's own verifier.
    pub cosign: PathBuf,
    /// The witness.
    pub litewitness: PathBuf,
    /// The database of the witness is managed with it.
    pub witnessctl: PathBuf,
    /// Name and version of the packages that they are from.
    pub versions: Vec<String>,
}

/// There is no log on this host, and that is not this checkout's doing: packages are on no mirror any more, or are newer ones than those that are known to compile.
#[derive(Debug, thiserror::Error)]
#[error("the log server cannot be made on this host: {0:#}")]
pub struct Unavailable(pub(super) anyhow::Error);

impl Programs {
    /// Fetches, unpacks and compiles, or takes from the cache.
    ///
    /// # Errors
    /// Among others [`Unavailable`].
    pub fn get(checkout: &Checkout, store: &Store, progress: &Progress) -> Result<Self> {
        let config = LogServerConfig::read(checkout.root())?;
        // No image has anything of it: what is not locked any more may be newer.
        let sources = Sources::get(checkout, &[sets::LOG], false, store, progress).map_err(Unavailable)?;
        let made = Self::of(&config, &sources, store, progress);
        made.map_err(|error| if sources.locked { error } else { Unavailable(error).into() })
    }

    fn of(config: &LogServerConfig, sources: &Sources, store: &Store, progress: &Progress) -> Result<Self> {
        let set = sources.set(sets::LOG)?;
        let of = |names: &[&[String]]| -> Vec<&Package> {
            set.iter().copied().filter(|package| names.iter().any(|list| list.contains(&package.name))).collect()
        };
        let stages = Stages::new(store, progress);
        let rekor = REKOR.compile(&of(&[&config.compiler, &config.sources]), sources, &stages)?;
        let timestamps = of(&[&config.compiler, &config.sources, &config.timestamp_sources]);
        let timestamp_server = TIMESTAMP_SERVER.compile(&timestamps, sources, &stages)?;
        let others = of(&[&config.programs]);
        let unpacked = stages.run("log-programs", key("log-programs", &others), |output| {
            let tree = output.join("tree");
            fs::create_dir(&tree).with_context(|| format!("Failed to make {}", tree.display()))?;
            unpack(&others, sources, &tree)
        })?;
        let program = |name: &str| {
            let path = unpacked.join("tree/usr/bin").join(name);
            ensure!(path.is_file(), "No package of {:?} has /usr/bin/{name}", config.programs);
            Ok(path)
        };
        let compiled = [REKOR.package, TIMESTAMP_SERVER.package];
        let mut versions: Vec<String> = of(&[&config.programs, &config.compiler[..1]])
            .iter()
            .chain(set.iter().filter(|package| compiled.contains(&package.name.as_str())))
            .map(|package| format!("{} {}", package.name, package.version))
            .collect();
        versions.sort();
        Ok(Self {
            rekor,
            timestamp_server,
            cosign: program("cosign")?,
            litewitness: program("litewitness")?,
            witnessctl: program("witnessctl")?,
            versions,
        })
    }
}

pub(super) fn key(stage: &str, packages: &[&Package]) -> Key {
    packages.iter().fold(Key::new(stage, 1), |key, package| key.digest(&package.name, &package.sha256))
}

pub(super) fn unpack(packages: &[&Package], sources: &Sources, tree: &Path) -> Result<()> {
    for package in packages {
        let file = sources.files.get(&package.sha256).with_context(|| format!("{} was not fetched", package.name))?;
        crate::deb::unpack(file, tree)?;
    }
    Ok(())
}
