//! Go programs compiled from locked packages of their sources.
//!
//! Debian's Go sources are a GOPATH (`/usr/share/gocode`), and Go accepts the `/v2` of their import paths because each
//! package ships its `go.mod`. The compiler runs without network, in a sandbox whose root is nothing but these packages.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value};

use super::programs::{key, unpack};
use crate::build::sources::Sources;
use crate::build::stage::Stages;
use crate::lock::Package;
use crate::sandbox::{Sandbox, WORK};

/// Where Debian puts Go sources.
const GOPATH: &str = "usr/share/gocode";
/// Without it, GOPATH mode gives a program the defaults of Go 1.20, TLS 1.0 among them.
const DEFAULTS: &str = "//go:debug default=go1.25\n";

/// A program.
pub(super) struct Program {
    /// Its name.
    pub name: &'static str,
    /// The stage that compiles it.
    pub stage: &'static str,
    /// The package whose version it reports.
    pub package: &'static str,
    /// Go's name of it.
    pub path: &'static str,
    /// Text that it is compiled without: the file below the GOPATH's `src`, what is there once, and what stands there instead.
    pub changes: &'static [(&'static str, &'static str, &'static str)],
    /// Files that it is compiled without.
    pub without: &'static [&'static str],
    /// Files that no package has, and their text.
    pub with: &'static [(&'static str, &'static str)],
}

impl Program {
    /// Compiles it from `packages`, or takes it from the cache.
    pub fn compile(&self, packages: &[&Package], sources: &Sources, stages: &Stages) -> Result<PathBuf> {
        let package = packages.iter().find(|package| package.name == self.package);
        let version = &package.with_context(|| format!("The lock has no {}", self.package))?.version;
        let version = version.split('-').next().unwrap_or_default();
        let changes = self.changes.iter().flat_map(|(file, old, new)| [("file", file), ("old", old), ("new", new)]);
        let changes = changes.chain(self.without.iter().map(|file| ("without", file)));
        let changes = changes.chain(self.with.iter().flat_map(|(file, text)| [("with", file), ("text", text)]));
        let key = key(self.stage, packages).text("defaults", DEFAULTS);
        let key = changes.fold(key, |key, (label, text)| key.text(label, text));
        let made = stages.run(self.stage, key, |output| {
            let scratch = stages.store().scratch()?;
            let (tree, work) = (scratch.path().join("tree"), scratch.path().join("work"));
            for folder in [&tree, &work] {
                fs::create_dir(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
            }
            unpack(packages, sources, &tree)?;
            self.overlay(&tree, &work)?;
            self.build(&tree, &work, version)?;
            let made = work.join("program");
            fs::copy(&made, output.join(self.name)).with_context(|| format!("Failed to copy {}", made.display()))?;
            Ok(())
        })?;
        Ok(made.join(self.name))
    }

    /// `overlay.json` for `go build -overlay`: the program's `main.go` with [`DEFAULTS`] above it, and every file that is another one or none.
    fn overlay(&self, tree: &Path, work: &Path) -> Result<()> {
        let inside = |file: &str| format!("{GOPATH}/src/{file}");
        let read = |file: &str| {
            let path = tree.join(inside(file));
            fs::read_to_string(&path).with_context(|| format!("Failed to read {}", path.display()))
        };
        let main = format!("{}/main.go", self.path);
        let mut texts: BTreeMap<&str, String> =
            self.with.iter().map(|(file, text)| (*file, (*text).to_owned())).collect();
        for (file, old, new) in [(main.as_str(), "", DEFAULTS)].into_iter().chain(self.changes.iter().copied()) {
            let text = match texts.remove(file) {
                Some(text) => text,
                None => read(file)?,
            };
            ensure!(old.is_empty() || text.matches(old).count() == 1, "{file} does not have {old:?} once");
            texts.insert(file, text.replacen(old, new, 1));
        }
        // A file that is nothing is none.
        let gone = self.without.iter().map(|file| (format!("/{}", inside(file)), Value::from("")));
        let mut replace: Map<String, Value> = gone.collect();
        for (number, (file, text)) in texts.iter().enumerate() {
            let extension = Path::new(file).extension().unwrap_or_default().to_string_lossy();
            let name = format!("overlay{number}.{extension}");
            fs::write(work.join(&name), text).with_context(|| format!("Failed to write {name}"))?;
            replace.insert(format!("/{}", inside(file)), format!("{WORK}/{name}").into());
        }
        let overlay = serde_json::json!({ "Replace": replace });
        fs::write(work.join("overlay.json"), overlay.to_string()).context("Failed to write overlay.json")
    }

    fn build(&self, tree: &Path, work: &Path, version: &str) -> Result<()> {
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
        command.args(["-o", "program", self.path]);
        let log = work.join("go.log");
        let errors = File::create(&log).with_context(|| format!("Failed to write {}", log.display()))?;
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).status();
        let status = status.context("Failed to start Go in the sandbox")?;
        let said = fs::read_to_string(&log).unwrap_or_default();
        let said: Vec<&str> = said.lines().take(20).collect();
        ensure!(status.success(), "{} does not compile from these packages:\n{}", self.name, said.join("\n"));
        Ok(())
    }
}

/// `/usr/lib/go-<version>` in the tree.
fn go_root(tree: &Path) -> Result<String> {
    let folder = tree.join("usr/lib");
    let entries = fs::read_dir(&folder).with_context(|| format!("Failed to list {}", folder.display()))?;
    let mut names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let name = names.find(|name| name.starts_with("go-")).context("No package of the compiler has /usr/lib/go-*")?;
    Ok(format!("/usr/lib/{name}"))
}
