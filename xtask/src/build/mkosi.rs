//! Runs mkosi inside a tree of tools, without network, on a repository of exactly the locked packages.
//!
//! mkosi always runs as an ordinary user of a namespace with one user id, whoever started the build: so everything that
//! it makes belongs to one owner, on every host, and os/tree.toml says who owns what in an image.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::digest::Sha256Digest;
use crate::lock::Package;
use crate::repository;
use crate::sandbox::Sandbox;

/// Where the stage's folder is inside.
const WORK: &str = "/tmp/work";
const NAME: &str = "packages";

/// What mkosi makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A folder.
    Directory,
    /// A tar file.
    Tar,
    /// A bootable disk with a UKI and a verity root: the peer of the benchmarks.
    Disk,
}

impl Format {
    /// The name of the output.
    pub fn output(self) -> &'static str {
        match self {
            Format::Directory => NAME,
            Format::Tar => "packages.tar",
            Format::Disk => "packages.raw",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Directory => "directory",
            Format::Tar => "tar",
            Format::Disk => "disk",
        }
    }
}

/// What to install, and with which tools.
pub struct Mkosi<'a> {
    /// Tree with mkosi, Python, apt and dpkg.
    pub tools: &'a Path,
    /// Debian suite.
    pub suite: &'a str,
    /// Package lists in mkosi's format.
    pub configurations: &'a [&'a Path],
    /// Files that are there before the first package.
    pub skeleton: Option<&'a Path>,
    /// Time stamps are clamped to this.
    pub source_date: u64,
    /// Definitions for systemd-repart, where the output is a disk.
    pub repart: Option<&'a Path>,
    /// More arguments: the last one counts.
    pub extra: &'a [&'a str],
}

impl Mkosi<'_> {
    /// Installs `packages` into `folder` as `format` says.
    pub fn run(
        &self,
        folder: &Path,
        packages: &[&Package],
        files: &BTreeMap<Sha256Digest, PathBuf>,
        format: Format,
    ) -> Result<()> {
        let work = folder.join("mkosi");
        let make = |name: &str| {
            let path = work.join(name);
            fs::create_dir_all(&path).with_context(|| format!("Failed to make {}", path.display()))?;
            Ok::<_, anyhow::Error>(path)
        };
        let (configuration, output, scratch) = (make("configuration/mkosi.conf.d")?, make("output")?, make("scratch")?);
        repository::write(&make("repository")?, self.suite, packages, files)?;
        for (index, source) in self.configurations.iter().enumerate() {
            let target = configuration.join(format!("{index:02}.conf"));
            fs::copy(source, &target).with_context(|| format!("Failed to copy {}", source.display()))?;
        }
        if let Some(skeleton) = self.skeleton {
            fs::rename(skeleton, work.join("skeleton")).context("Failed to place the skeleton")?;
        }
        if let Some(repart) = self.repart {
            copy_files(repart, &make("configuration/mkosi.repart")?)?;
        }
        self.start(folder, &work, &scratch, format)?;
        let (made, target) = (output.join(format.output()), folder.join(format.output()));
        fs::rename(&made, &target).with_context(|| format!("mkosi made no {}", made.display()))?;
        if format == Format::Disk {
            // What it splits off: UKI, kernel, initrd.
            copy_files(&output, folder)?;
        }
        crate::interrupt::remove_tree(&work)
    }

    fn start(&self, folder: &Path, work: &Path, scratch: &Path, format: Format) -> Result<()> {
        let log_path = folder.join("mkosi.log");
        let log = fs::File::create(&log_path).with_context(|| format!("Failed to write {}", log_path.display()))?;
        let mut command = Sandbox::new(self.tools)
            .bind(work, WORK)
            .bind(scratch, "/var/tmp")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .command("unshare");
        command.args(["--user", "--map-user=1000", "--map-group=1000", "--", "python3", "-m", "mkosi"]);
        for (name, value) in [
            ("--directory", "/tmp/work/configuration"),
            ("--output-directory", "/tmp/work/output"),
            ("--workspace-dir", "/var/tmp"),
            ("--distribution", "debian"),
            ("--release", self.suite),
            ("--architecture", "x86-64"),
            ("--local-mirror", "file:///tmp/work/repository"),
            ("--repository-key-check", "no"),
            ("--with-network", "no"),
            ("--output", NAME),
            ("--compress-output", "no"),
            ("--bootable", "no"),
            ("--format", format.name()),
        ] {
            command.arg(format!("{name}={value}"));
        }
        command.arg(format!("--source-date-epoch={}", self.source_date));
        if self.skeleton.is_some() {
            command.arg("--skeleton-tree=/tmp/work/skeleton");
        }
        command.args(self.extra).arg("build");
        let errors = log.try_clone().context("Failed to duplicate the log's descriptor")?;
        let status = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .status()
            .context("Failed to start mkosi in its sandbox")?;
        ensure!(status.success(), "mkosi failed ({status}). The end of what it said:\n{}", tail(&log_path, 25));
        fs::remove_file(&log_path).with_context(|| format!("Failed to remove {}", log_path.display()))
    }
}

fn copy_files(from: &Path, to: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("Failed to list {}", from.display()))?;
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file())) {
        let target = to.join(entry.file_name());
        fs::copy(entry.path(), &target).with_context(|| format!("Failed to write {}", target.display()))?;
    }
    Ok(())
}

/// The last lines of a log, for an error.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| line.chars().take(400).collect::<String>() + "\n")
        .collect()
}
