//! Compiles a program with cargo, and prints a line from the first second on.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::cause::{Failed, of_output};
use crate::program::{Program, without_package_of_cargo_run};
use crate::progress::Progress;

/// Cargo answers within this time if nothing is to be compiled: no line then.
const SILENT: Duration = Duration::from_millis(400);
/// A crate is done within this time, unless cargo waits or has few processors.
const LONG: Duration = Duration::from_secs(15);
/// Most that is kept of standard error to find a cause in it.
const MAX_STDERR_BYTES: usize = 1 << 20;

/// Compiles `program` of the workspace around `folder`, unless that has been done; the path of its executable.
///
/// # Errors
/// Standard error has what cargo printed; [`Failed`] has one line of it.
pub fn compile(program: &Program, folder: &Path, progress: Progress) -> Result<PathBuf, Failed> {
    if let Some(path) = program.compiled() {
        return Ok(path);
    }
    let package = program.package;
    let failed =
        |cause: String| Failed { package: package.to_owned(), cause, hint: format!("cargo build --package {package}") };
    let mut cargo = cargo_build(program, folder);
    let mut child = cargo.spawn().map_err(|error| failed(format!("cannot start cargo: {error}")))?;
    let stderr = child.stderr.take();
    let errors = std::thread::spawn(move || stderr.map(|stderr| passed_on(stderr, progress)).unwrap_or_default());
    let built = follow(&mut child, package, progress);
    let status = child.wait().map_err(|error| failed(format!("cannot wait for cargo: {error}")))?;
    let errors = errors.join().unwrap_or_default();
    if !status.success() {
        return Err(of_output(package, &errors));
    }
    built.ok_or_else(|| failed("cargo names no executable".to_owned()))
}

fn cargo_build(program: &Program, folder: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--message-format", "json-render-diagnostics", "--package", program.package]);
    if !program.has_default_features {
        cargo.arg("--no-default-features");
    }
    without_package_of_cargo_run(&mut cargo);
    cargo.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    cargo
}

/// Counts what cargo reports until it ends; the executable.
fn follow(child: &mut Child, package: &str, progress: Progress) -> Option<PathBuf> {
    let lines = lines_of(child.stdout.take()?);
    let (mut count, mut executable, mut wait, mut is_shown) = (0, None, SILENT, false);
    loop {
        match lines.recv_timeout(wait.saturating_sub(progress.elapsed())) {
            Ok(line) => match Message::of(&line) {
                Some(Message::Compiled) => count += 1,
                Some(Message::Executable(path)) => {
                    count += usize::from(!line.contains(FRESH));
                    executable = Some(path);
                }
                None => {}
            },
            Err(RecvTimeoutError::Timeout) => {
                progress.step(&match count {
                    // Cargo does not report here that it waits for its lock.
                    0 if progress.elapsed() >= LONG => {
                        format!("compiling {package}: no crate is done yet; cargo may be waiting for another cargo in this checkout ...")
                    }
                    0 => format!("compiling {package} ..."),
                    _ => format!("compiling {package}: {count} crates are done ..."),
                });
                is_shown = true;
                wait = progress.elapsed() + progress.interval();
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    match (is_shown && executable.is_some(), count) {
        (false, _) => progress.clear(),
        (true, 0) => progress.note(&format!("{package} is up to date")),
        (true, _) => progress.note(&format!("compiled {package}: {count} crates")),
    }
    executable
}

const FRESH: &str = "\"fresh\":true";

/// What a line of cargo's JSON messages reports. Cargo writes one compact object a line; the fields that are read here have
/// no escapes but in paths with quotes, which are then not found and reported.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    /// A crate was compiled.
    Compiled,
    /// An executable is up to date.
    Executable(PathBuf),
}

impl Message {
    fn of(line: &str) -> Option<Self> {
        if !line.starts_with("{\"reason\":\"compiler-artifact\"") {
            return None;
        }
        let path = line.split_once("\"executable\":\"").and_then(|(_, rest)| rest.split_once('"'));
        // Build scripts are executables, too.
        let is_script = line.contains("\"kind\":[\"custom-build\"]");
        match path {
            Some((path, _)) if !is_script => Some(Self::Executable(path.into())),
            _ => (!line.contains(FRESH)).then_some(Self::Compiled),
        }
    }
}

fn lines_of(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Passes standard error on as it comes; the beginning of it.
fn passed_on(mut from: impl Read, progress: Progress) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        progress.clear();
        // A closed standard error must not stop a build.
        let _ = std::io::stderr().write_all(&buffer[..count]);
        if kept.len() < MAX_STDERR_BYTES {
            kept.extend_from_slice(&buffer[..count]);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_cargo_is_counted_if_something_was_compiled() {
        let line = |kind: &str, executable: &str, fresh: bool| {
            format!(
                "{{\"reason\":\"compiler-artifact\",\"target\":{{\"kind\":[\"{kind}\"]}},\"executable\":{executable},\"fresh\":{fresh}}}"
            )
        };
        let xtask = || Some(Message::Executable("/t/debug/xtask".into()));
        for (line, expected) in [
            (line("lib", "null", false), Some(Message::Compiled)),
            (line("lib", "null", true), None),
            (line("custom-build", "\"/t/debug/build/a/build-script-build\"", false), Some(Message::Compiled)),
            (line("bin", "\"/t/debug/xtask\"", false), xtask()),
            (line("bin", "\"/t/debug/xtask\"", true), xtask()),
            ("{\"reason\":\"build-finished\",\"success\":true}".to_owned(), None),
            ("warning".to_owned(), None),
        ] {
            assert_eq!(Message::of(&line), expected, "{line}");
        }
    }
}
