//! Stage `agent`: PID 1 of the initrd, and the service by which a running node shows what it is, compiled in the build root with the pinned toolchain, without network.
//!
//! Sources, registry and toolchain are shown at fixed places, paths are remapped and no build id is made: the binary does
//! not know who compiled it, where, or for which time.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::agent_crates::AgentCrates;
use super::mkosi::tail;
use super::stage::{Key, Made, Stages};
use super::toolchain::Toolchain;
use crate::checkout::Checkout;
use crate::sandbox::Sandbox;

const SOURCE: &str = "/tmp/source";
const TARGET: &str = "/tmp/target";
const CARGO_HOME: &str = "/tmp/cargo";
const TOOLCHAIN: &str = "/tmp/toolchain";

/// What of a checkout they are made of.
pub(super) const INPUTS: [&str; 13] = [
    "Cargo.toml",
    "Cargo.lock",
    "clippy.toml",
    ".cargo",
    "crates/attest",
    "crates/attester",
    "crates/connection",
    "crates/envelope",
    "crates/node-tpm",
    "crates/state-disk",
    "initrd-agent",
    "measurements",
    "node-attestation",
];
/// Name of the agent in the stage's output.
pub const INIT: &str = "init";
/// Name of the service, there.
pub const SERVICE: &str = "node-attestation";

/// Crates that link libraries of the build root: they compile there only.
pub const NEED_BUILD_ROOT: [&str; 3] = ["initrd-agent", "node-attestation", "node-tpm"];

/// Where the agent is compiled, and with what.
pub struct Compiler<'a> {
    /// Stage of the build root.
    pub build_root: &'a Made,
    /// Its tree.
    pub tools: &'a Path,
    /// The toolchain.
    pub toolchain: &'a Toolchain,
    /// The sources.
    pub checkout: &'a Checkout,
}

impl Compiler<'_> {
    /// Compiles the agent for images; `verbose` turns on its feature of that name.
    pub fn make(&self, stages: &Stages, verbose: bool) -> Result<Made> {
        let compiled_by =
            |name| Key::new(name, 2).digest("build-root", &self.build_root.key).text("rustc", &self.toolchain.commit);
        let mut key = compiled_by("agent").text("verbose", &verbose.to_string());
        for input in INPUTS {
            key = key.path(input, &self.checkout.join(input))?;
        }
        stages.run("agent", key, |output| {
            fetch_sources(self.checkout)?;
            let mut arguments = vec!["build", "--release", "--locked", "--offline"];
            arguments.extend(["--package", "initrd-agent", "--package", "node-attestation"]);
            if verbose {
                arguments.extend(["--features", "initrd-agent/verbose"]);
            }
            let target = self.checkout.target().join("agent");
            let crates = AgentCrates::new(stages, compiled_by("agent-crates"), self.checkout, &target)?;
            crates.restore()?;
            let log_path = output.join("cargo.log");
            let log = fs::File::create(&log_path).with_context(|| format!("Failed to write {}", log_path.display()))?;
            let status = self
                .cargo(&target, &arguments)?
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .status()
                .context("Failed to start cargo in the build root")?;
            ensure!(status.success(), "the agent does not compile:\n{}", tail(&log_path, 40));
            fs::remove_file(&log_path).with_context(|| format!("Failed to remove {}", log_path.display()))?;
            for (binary, name) in [("initrd-agent", INIT), ("node-attestation", SERVICE)] {
                let binary = target.join("release").join(binary);
                fs::copy(&binary, output.join(name)).with_context(|| format!("Failed to copy {}", binary.display()))?;
            }
            crates.keep()
        })
    }

    /// `cargo` in the build root, as for the image; `target` keeps what was compiled.
    pub fn cargo(&self, target: &Path, arguments: &[&str]) -> Result<Command> {
        fs::create_dir_all(target).with_context(|| format!("Failed to make {}", target.display()))?;
        let registry = cargo_home()?.join("registry");
        let mut flags = format!("--remap-path-prefix={SOURCE}=/source -Clink-arg=-Wl,--build-id=none");
        for name in source_folders(&registry)? {
            flags += &format!(" --remap-path-prefix={CARGO_HOME}/registry/src/{name}=/registry");
        }
        let mut command = Sandbox::new(self.tools)
            .bind_read_only(self.checkout.root(), SOURCE)
            .bind_read_only(&registry, format!("{CARGO_HOME}/registry"))
            .bind_read_only(&self.toolchain.sysroot, TOOLCHAIN)
            .bind(target, TARGET)
            .work_dir(SOURCE)
            .env("PATH", format!("{TOOLCHAIN}/bin:/usr/sbin:/usr/bin"))
            .env("CARGO_HOME", CARGO_HOME)
            .env("CARGO_TARGET_DIR", TARGET)
            .env("CARGO_TERM_COLOR", "never")
            .env("CARGO_INCREMENTAL", "0")
            .env("RUSTFLAGS", flags)
            .env("CFLAGS", format!("-ffile-prefix-map={CARGO_HOME}=/registry -ffile-prefix-map={TARGET}=/target"))
            .command(format!("{TOOLCHAIN}/bin/cargo"));
        command.args(arguments);
        Ok(command)
    }
}

/// Makes sure that the sources of all crates are on this host; asks the network only if one is missing.
pub fn fetch_sources(checkout: &Checkout) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |offline: bool| {
        let mut command = Command::new(&cargo);
        command.args(["fetch", "--locked", "--quiet"]).current_dir(checkout.root());
        // The flags of whoever calls this through cargo are not for the agent.
        command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
        if offline {
            command.arg("--offline");
        }
        command.output().context("Failed to run cargo fetch")
    };
    if run(true)?.status.success() {
        return Ok(());
    }
    let answer = run(false)?;
    if !answer.status.success() {
        bail!(
            "{}\ncannot fetch the sources of crates: they are not on this host, and cargo does not get them\nhint: connect this host to the network, then run `cargo fetch --locked`",
            String::from_utf8_lossy(&answer.stderr).trim()
        );
    }
    Ok(())
}

fn cargo_home() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    let home = set("CARGO_HOME").or_else(|| set("HOME").map(|home| home.join(".cargo")));
    home.context("Neither CARGO_HOME nor HOME is set: cargo's registry cannot be found")
}

/// The folders below `registry/src`: their names depend on the address of the registry.
fn source_folders(registry: &Path) -> Result<Vec<String>> {
    let folder = registry.join("src");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("Failed to list {}", folder.display()))? {
        let entry = entry.with_context(|| format!("Failed to list {}", folder.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
