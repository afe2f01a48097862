//! Programs of the workspace that this one starts: they are compiled if need be, and what only they need is not in the way of building images.

use std::ffi::OsStr;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};

use crate::checkout::Checkout;

/// For those who do not build.
pub const CAIRN: &str = "cairn";
/// Compiled only by those who publish.
pub const PUBLISHER: &str = "publisher";
/// Folder with programs that are compiled already, which are then used as they are.
pub const PROGRAMS_VARIABLE: &str = "CAIRN_PROGRAMS";

/// Starts a program with a command and its arguments. The first time one sees that it is compiled. What it has beyond this command is left out: measuring and explaining do not need what verifying releases does.
pub fn start(program: &str, command: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<Command> {
    let mut started = match std::env::var_os(PROGRAMS_VARIABLE) {
        Some(folder) => Command::new(std::path::Path::new(&folder).join(program)),
        None => {
            let checkout = Checkout::find()?;
            let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.args(["run", "--no-default-features", "--package", program, "--manifest-path"]);
            cargo.arg(checkout.join("Cargo.toml"));
            if checkout.target().join("debug").join(program).exists() {
                cargo.arg("--quiet");
            }
            cargo.arg("--");
            cargo
        }
    };
    started.arg(command).args(arguments);
    Ok(started)
}

/// Becomes a program.
pub fn hand_over(
    program: &str,
    command: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<ExitCode> {
    let status = start(program, command, arguments)?.status().with_context(|| format!("Failed to run {program}"))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}

/// Runs a program, which must succeed; what it is about to do was said before, and what went wrong it says itself.
pub fn must(program: &str, command: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
    let status = start(program, command, arguments)?.status().with_context(|| format!("Failed to run {program}"))?;
    ensure!(status.success(), "`{program} {command}` ended with {status}: see above");
    Ok(())
}
