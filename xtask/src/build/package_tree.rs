//! Stage `packages`: the root set installed by mkosi, as a tar file. Users and groups are there before the first package,
//! with the ids of os/root/etc, so that no package can choose one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::mkosi::{Format, Mkosi};
use super::stage::{Key, Made, Stages};
use crate::digest::Sha256Digest;
use crate::lock::Package;

/// The account files that are laid down first.
const ACCOUNTS: [&str; 2] = ["etc/passwd", "etc/group"];

/// Inputs of the stage.
pub struct Inputs<'a> {
    /// Stage of the build root.
    pub build_root: &'a Made,
    /// Its tree.
    pub tools: &'a Path,
    /// Suite.
    pub suite: &'a str,
    /// Package lists.
    pub configurations: &'a [&'a Path],
    /// Folder with `etc/passwd` and `etc/group`.
    pub accounts: &'a Path,
    /// The packages.
    pub packages: &'a [&'a Package],
    /// Their files.
    pub files: &'a BTreeMap<Sha256Digest, PathBuf>,
    /// Time stamps.
    pub source_date: u64,
}

/// Makes `packages.tar`.
pub fn make(stages: &Stages, inputs: &Inputs) -> Result<Made> {
    let mut key = Key::new("packages", 1)
        .digest("build-root", &inputs.build_root.key)
        .text("suite", inputs.suite)
        .text("source date", &inputs.source_date.to_string());
    for configuration in inputs.configurations {
        key = key.path("mkosi.conf", configuration)?;
    }
    for account in ACCOUNTS {
        key = key.path(account, &inputs.accounts.join(account))?;
    }
    for package in inputs.packages {
        key = key.digest(&package.name, &package.sha256);
    }
    stages.run("packages", key, |output| {
        let skeleton = output.join("skeleton");
        fs::create_dir_all(skeleton.join("etc")).with_context(|| format!("Failed to make {}", skeleton.display()))?;
        for account in ACCOUNTS {
            let from = inputs.accounts.join(account);
            fs::copy(&from, skeleton.join(account)).with_context(|| format!("Failed to copy {}", from.display()))?;
        }
        let mkosi = Mkosi {
            tools: inputs.tools,
            suite: inputs.suite,
            configurations: inputs.configurations,
            skeleton: Some(&skeleton),
            source_date: inputs.source_date,
            repart: None,
            extra: &[],
        };
        mkosi.run(output, inputs.packages, inputs.files, Format::Tar)
    })
}
