//! Programs of the workspace that this one starts: they are compiled if need be, and what only they need is not in the way of building images.

use std::ffi::OsStr;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, ensure};
use cargo_xtask::compile::compile;
use cargo_xtask::program::without_package_of_cargo_run;
pub use cargo_xtask::program::{PROGRAMS_VARIABLE, PUBLISHER, Program};
use cargo_xtask::progress::{Progress, Style};

use crate::checkout::Checkout;

/// Starts a program with a command and its arguments. The first time it is compiled, which is reported.
pub fn start(
    program: &Program,
    command: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Command> {
    let path = match program.compiled() {
        Some(path) => path,
        None => {
            let checkout = Checkout::find()?;
            compile(program, checkout.root(), Progress::new(Style::Human)).map_err(|failed| anyhow!("{failed}"))?
        }
    };
    let mut started = Command::new(path);
    without_package_of_cargo_run(&mut started);
    started.arg(command).args(arguments);
    Ok(started)
}

/// Becomes the program that runs a command.
pub fn hand_over(command: &str, arguments: &[impl AsRef<OsStr>]) -> Result<ExitCode> {
    let words: Vec<&OsStr> = std::iter::once(OsStr::new(command)).chain(arguments.iter().map(AsRef::as_ref)).collect();
    hand_over_to(&Program::of_command(&words), command, arguments)
}

/// Becomes a program.
pub fn hand_over_to(program: &Program, command: &str, arguments: &[impl AsRef<OsStr>]) -> Result<ExitCode> {
    let status = start(program, command, arguments)?.status();
    let status = status.with_context(|| format!("Failed to run {}", program.package))?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}

/// Runs a program, which must succeed; what it is about to do was said before, and what went wrong it says itself.
pub fn must(program: &Program, command: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<()> {
    let status = start(program, command, arguments)?.status();
    let status = status.with_context(|| format!("Failed to run {}", program.package))?;
    ensure!(status.success(), "`{} {command}` ended with {status}: see above", program.package);
    Ok(())
}
