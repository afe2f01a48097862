//! The programs of a transparency log, made from locked packages: Rekor v2 compiled from its sources, the witness and
//! cosign as they are. Two stages, so that a new version of one does not compile the other.
//!
//! Debian's Go sources are a GOPATH (`/usr/share/gocode`), and Go accepts the `/v2` of their import paths because each
//! package ships its `go.mod`. The compiler runs without network, in a sandbox whose root is nothing but these packages.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::build::sources::Sources;
use crate::build::stage::{Key, Made, Stages};
use crate::checkout::Checkout;
use crate::config::log_server::LogServerConfig;
use crate::lock::{Package, sets};
use crate::progress::Progress;
use crate::sandbox::{Sandbox, WORK};
use crate::store::Store;

/// The package whose version the server reports.
const SERVER_PACKAGE: &str = "golang-github-sigstore-rekor-tiles-dev";
/// Go's name of the server with storage in files.
const SERVER: &str = "github.com/sigstore/rekor-tiles/cmd/rekor-server/posix";
/// Where Debian puts Go sources.
const GOPATH: &str = "usr/share/gocode";
/// Without it, GOPATH mode gives a program the defaults of Go 1.20, TLS 1.0 among them.
const DEFAULTS: &str = "//go:debug default=go1.25\n";

/// Programs on this host.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Rekor v2.
    pub rekor: PathBuf,
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
pub struct Unavailable(anyhow::Error);

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
        let server = compile(&of(&[&config.compiler, &config.sources]), sources, &stages)?;
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
        let mut versions: Vec<String> = of(&[&config.programs, &config.compiler[..1]])
            .iter()
            .chain(set.iter().filter(|package| package.name == SERVER_PACKAGE))
            .map(|package| format!("{} {}", package.name, package.version))
            .collect();
        versions.sort();
        Ok(Self {
            rekor: server.join("rekor-server"),
            cosign: program("cosign")?,
            litewitness: program("litewitness")?,
            witnessctl: program("witnessctl")?,
            versions,
        })
    }
}

fn key(stage: &str, packages: &[&Package]) -> Key {
    packages.iter().fold(Key::new(stage, 1), |key, package| key.digest(&package.name, &package.sha256))
}

fn unpack(packages: &[&Package], sources: &Sources, tree: &Path) -> Result<()> {
    for package in packages {
        let file = sources.files.get(&package.sha256).with_context(|| format!("{} was not fetched", package.name))?;
        crate::deb::unpack(file, tree)?;
    }
    Ok(())
}

/// Stage `log-server`: the Rekor v2 server.
fn compile(packages: &[&Package], sources: &Sources, stages: &Stages) -> Result<Made> {
    let server = packages.iter().find(|package| package.name == SERVER_PACKAGE);
    let version = server.with_context(|| format!("The lock has no {SERVER_PACKAGE}"))?.version.clone();
    let version = version.split('-').next().unwrap_or_default().to_owned();
    stages.run("log-server", key("log-server", packages).text("defaults", DEFAULTS), |output| {
        let scratch = stages.store().scratch()?;
        let (tree, work) = (scratch.path().join("tree"), scratch.path().join("work"));
        for folder in [&tree, &work] {
            fs::create_dir(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
        }
        unpack(packages, sources, &tree)?;
        overlay(&tree, &work)?;
        build(&tree, &work, &version)?;
        let made = work.join("rekor-server");
        fs::copy(&made, output.join("rekor-server")).with_context(|| format!("Failed to copy {}", made.display()))?;
        Ok(())
    })
}

/// The server's `main.go` with [`DEFAULTS`] above it, for `go build -overlay`.
fn overlay(tree: &Path, work: &Path) -> Result<()> {
    let inside = format!("{GOPATH}/src/{SERVER}/main.go");
    let path = tree.join(&inside);
    let text = fs::read_to_string(&path).with_context(|| format!("Failed to read {}", path.display()))?;
    let overlay = serde_json::json!({"Replace": {format!("/{inside}"): format!("{WORK}/main.go")}});
    for (name, text) in [("main.go", format!("{DEFAULTS}{text}")), ("overlay.json", overlay.to_string())] {
        fs::write(work.join(name), text).with_context(|| format!("Failed to write {name}"))?;
    }
    Ok(())
}

fn build(tree: &Path, work: &Path, version: &str) -> Result<()> {
    for folder in ["dev", "proc", "run", "tmp"] {
        let path = tree.join(folder);
        fs::create_dir_all(&path).with_context(|| format!("Failed to make {}", path.display()))?;
    }
    let root = go_root(tree)?;
    let mut sandbox = Sandbox::new(tree).bind(work, WORK).work_dir(WORK);
    for (name, value) in [
        ("GOROOT", root.as_str()),
        ("GOPATH", &format!("/{GOPATH}")),
        ("GO111MODULE", "off"),
        ("CGO_ENABLED", "0"),
        ("GOTOOLCHAIN", "local"),
        ("GOPROXY", "off"),
        ("GOTELEMETRY", "off"),
        ("GOFLAGS", ""),
        ("GOCACHE", &format!("{WORK}/cache")),
        ("GOTMPDIR", WORK),
    ] {
        sandbox = sandbox.env(name, value);
    }
    let mut command = sandbox.command(format!("{root}/bin/go"));
    let flags = format!("-s -w -buildid= -X sigs.k8s.io/release-utils/version.gitVersion=v{version}");
    command.args(["build", "-overlay", "overlay.json", "-trimpath", "-buildvcs=false", "-ldflags", &flags]);
    command.args(["-o", "rekor-server", SERVER]);
    let log = work.join("go.log");
    let errors = File::create(&log).with_context(|| format!("Failed to write {}", log.display()))?;
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).status();
    let status = status.context("Failed to start Go in the sandbox")?;
    let said = fs::read_to_string(&log).unwrap_or_default();
    let said: Vec<&str> = said.lines().take(20).collect();
    ensure!(status.success(), "Rekor does not compile from these packages:\n{}", said.join("\n"));
    Ok(())
}

/// `/usr/lib/go-<version>` in the tree.
fn go_root(tree: &Path) -> Result<String> {
    let folder = tree.join("usr/lib");
    let entries = fs::read_dir(&folder).with_context(|| format!("Failed to list {}", folder.display()))?;
    let mut names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let name = names.find(|name| name.starts_with("go-")).context("No package of the compiler has /usr/lib/go-*")?;
    Ok(format!("/usr/lib/{name}"))
}
