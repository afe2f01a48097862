//! Stage `packages`: the root set installed by mkosi, as a tar file. Users and groups are there before the first package,
//! with the ids of the image's own account files, so that no package can choose one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::mkosi::{Format, Mkosi};
use super::stage::{Key, Made, Stages};
use crate::config::profile::{self, Profile};
use crate::digest::Sha256Digest;
use crate::lock::Package;

/// The account files that are laid down first.
pub const ACCOUNTS: [&str; 2] = ["etc/passwd", "etc/group"];

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
    /// The checkout: `etc/passwd` and `etc/group` are in its os/root,
    pub checkout: &'a Path,
    /// or in the profile.
    pub profile: Option<&'a Profile>,
    /// The packages.
    pub packages: &'a [&'a Package],
    /// Their files.
    pub files: &'a BTreeMap<Sha256Digest, PathBuf>,
    /// Time stamps.
    pub source_date: u64,
}

/// Makes `packages.tar`.
pub fn make(stages: &Stages, inputs: &Inputs) -> Result<Made> {
    let mut key = Key::new("packages", 2)
        .digest("build-root", &inputs.build_root.key)
        .text("suite", inputs.suite)
        .text("source date", &inputs.source_date.to_string());
    for configuration in inputs.configurations {
        key = key.path("mkosi.conf", configuration)?;
    }
    for account in ACCOUNTS {
        key = key.path(account, &profile::account_file(inputs.checkout, inputs.profile, account))?;
    }
    for package in inputs.packages {
        key = key.digest(&package.name, &package.sha256);
    }
    stages.run("packages", key, |output| {
        let skeleton = output.join("skeleton");
        make_skeleton(&skeleton, inputs)?;
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

/// Whatever the caller's umask is and whoever checked the sources out, folder and files have the same modes.
fn make_skeleton(skeleton: &Path, inputs: &Inputs) -> Result<()> {
    let set_mode = |path: &Path, mode| {
        let set = fs::set_permissions(path, fs::Permissions::from_mode(mode));
        set.with_context(|| format!("Failed to set the mode of {}", path.display()))
    };
    for folder in [skeleton, &skeleton.join("etc")] {
        fs::create_dir(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
        set_mode(folder, 0o755)?;
    }
    for account in ACCOUNTS {
        let from = profile::account_file(inputs.checkout, inputs.profile, account);
        let to = skeleton.join(account);
        fs::copy(&from, &to).with_context(|| format!("Failed to copy {}", from.display()))?;
        set_mode(&to, 0o644)?;
    }
    Ok(())
}
