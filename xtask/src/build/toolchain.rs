//! The Rust toolchain of the checkout: `rust-toolchain.toml` pins it, and the agent is compiled with it inside the build
//! root, called by its real path so that no rustup is needed there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where the toolchain is and what it says of itself.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// Its top folder: `bin/cargo`, `lib`.
    pub sysroot: PathBuf,
    /// `release` of `rustc -vV`.
    pub release: String,
    /// `commit-hash` of `rustc -vV`.
    pub commit: String,
}

impl Toolchain {
    /// The toolchain that rustc in `checkout` resolves to.
    pub fn find(checkout: &Path) -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let ask = |arguments: &[&str]| -> Result<String> {
            let output = Command::new(&rustc).args(arguments).current_dir(checkout).output().with_context(|| {
                format!("Failed to run {}: install Rust (rustup reads rust-toolchain.toml)", rustc.display())
            })?;
            ensure!(
                output.status.success(),
                "rustc does not answer: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = ask(&["-vV"])?;
        let field = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .map(str::to_owned)
                .with_context(|| format!("rustc -vV does not name its {name}"))
        };
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?.trim());
        let sysroot = sysroot.canonicalize().with_context(|| format!("Failed to resolve {}", sysroot.display()))?;
        ensure!(
            sysroot.join("bin/cargo").is_file(),
            "{} has no bin/cargo: a complete toolchain is needed to compile the agent",
            sysroot.display()
        );
        Ok(Self { sysroot, release: field("release")?, commit: field("commit-hash")? })
    }

    /// The version that `rust-toolchain.toml` pins.
    pub fn pinned(checkout: &Path) -> Result<String> {
        let path = checkout.join("rust-toolchain.toml");
        let text = std::fs::read_to_string(&path).with_context(|| format!("Failed to read {}", path.display()))?;
        let value: toml::Table = toml::from_str(&text).with_context(|| format!("{} is not TOML", path.display()))?;
        let channel =
            value.get("toolchain").and_then(|table| table.get("channel")).and_then(|channel| channel.as_str());
        Ok(channel.with_context(|| format!("{} names no channel", path.display()))?.to_owned())
    }
}
