//! Programs of the workspace, and the one that each command of `cargo xtask` needs.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::Command;

/// Directory with programs that are compiled already, which are then used as they are.
pub const PROGRAMS_VARIABLE: &str = "CAIRN_PROGRAMS";

/// A program of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its package, which has one binary of the same name.
    pub package: &'static str,
    /// Whether default features are compiled.
    pub has_default_features: bool,
}

/// Builds and boots images.
pub const XTASK: Program = Program { package: "xtask", has_default_features: true };
/// Measuring and explaining, without the verifiers of releases, which take longer to compile than all the rest.
pub const CAIRN: Program = Program { package: "cairn", has_default_features: false };
/// Signing, logging and timestamps.
pub const PUBLISHER: Program = Program { package: "publisher", has_default_features: true };
/// Keys, trust roots and what needs no network: without TLS, clients of logs and the verifiers of others.
pub const KEYS: Program = Program { package: "publisher", has_default_features: false };

impl Program {
    /// The program that runs a command line of `cargo xtask`.
    pub fn of_command(arguments: &[impl AsRef<OsStr>]) -> Self {
        let word = |at: usize| arguments.get(at).and_then(|word| word.as_ref().to_str());
        match (word(0), word(1)) {
            (Some("measure" | "explain"), _) => CAIRN,
            (Some("keygen" | "trust-root"), _) | (Some("channel"), Some("show")) => KEYS,
            (Some("channel" | "publish"), _) => PUBLISHER,
            _ => XTASK,
        }
    }

    /// Where it is if [`PROGRAMS_VARIABLE`] names a directory and it is one of the programs that are kept there.
    pub fn compiled(&self) -> Option<PathBuf> {
        if *self == XTASK {
            return None;
        }
        Some(PathBuf::from(std::env::var_os(PROGRAMS_VARIABLE)?).join(self.package))
    }
}

/// Takes the variables away that `cargo run` sets for the package that it runs: build scripts of other crates read some of
/// them, and would be compiled again each time that cargo is started from another program.
pub fn without_package_of_cargo_run(command: &mut Command) {
    for name in std::env::vars_os().map(|(name, _)| name).filter(names_a_package) {
        command.env_remove(name);
    }
}

fn names_a_package(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start))
        || ["CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&&*name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_that_needs_little_is_run_by_a_small_program() {
        for (line, program) in [
            (&["keygen", "a.key"][..], KEYS),
            (&["trust-root", "make"], KEYS),
            (&["channel", "show", "stable"], KEYS),
            (&["channel", "promote", "stable"], PUBLISHER),
            (&["publish", "target/image"], PUBLISHER),
            (&["measure", "a.raw"], CAIRN),
            (&["explain"], CAIRN),
            (&["build-image"], XTASK),
            (&["--help"], XTASK),
            (&[], XTASK),
        ] {
            assert_eq!(Program::of_command(line), program, "{line:?}");
        }
    }

    #[test]
    fn variable_of_the_package_that_cargo_runs_is_removed_and_others_stay() {
        for (name, is_removed) in [
            ("CARGO_PKG_NAME", true),
            ("CARGO_MANIFEST_DIR", true),
            ("CARGO_BIN_NAME", true),
            ("CARGO_HOME", false),
            ("CARGO", false),
            ("CARGO_TARGET_DIR", false),
            ("PATH", false),
        ] {
            assert_eq!(names_a_package(&name.into()), is_removed, "{name}");
        }
    }
}
