//! The lines that `cargo xtask log-server` prints, run as they are in a fresh clone.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::xtask;
use cairn_tests::sources::snapshot;

use crate::Row;
use crate::scene::{Scene, said};

/// Instead of cargo, which would compile what is under test once more.
const CARGO: &str = "cargo() { shift; \"$CAIRN_XTASK\" \"$@\"; }\n";

pub fn rows() -> Vec<Row> {
    vec![Row::new("printed_recipe_of_the_log_server_works_in_a_fresh_clone", recipe)]
}

/// A log server. It is killed when this is dropped.
struct Server {
    process: Child,
    // Open, so that it can go on writing.
    _output: BufReader<ChildStdout>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Not SIGKILL: it ends the servers that it has started. It may have ended already.
        let process = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        let _ = nix::sys::signal::kill(process, nix::sys::signal::Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

/// Starts it; the commands that it prints.
fn serve(checkout: &Path) -> Result<(Server, Vec<String>)> {
    let mut command = Command::new(xtask()?);
    command.arg("log-server").current_dir(checkout).env_remove("CARGO_TARGET_DIR");
    let mut process = command.stdout(Stdio::piped()).spawn().context("Failed to start the log server")?;
    let mut output = BufReader::new(process.stdout.take().context("the log server has no output")?);
    let mut commands = Vec::new();
    loop {
        let mut line = String::new();
        ensure!(output.read_line(&mut line)? > 0, "the log server ended: {:?}", process.wait());
        if line.starts_with("Ctrl-C") {
            break;
        }
        if let Some((_, command)) = line.split_once(":  ").filter(|(_, text)| text.trim().starts_with("cargo xtask")) {
            commands.push(command.trim().to_owned());
        }
    }
    Ok((Server { process, _output: output }, commands))
}

fn recipe(scene: &Scene, row: &str) -> Result<()> {
    let checkout = scene.folder(row);
    snapshot(&checkout)?;
    let (_server, commands) = serve(&checkout)?;
    ensure!(commands.len() == 3, "the recipe has other commands: {commands:?}");
    for command in &commands {
        let mut shell = Command::new("sh");
        shell.args(["-euc", &format!("{CARGO}{command}")]).env("CAIRN_XTASK", xtask()?);
        shell.current_dir(&checkout).env_remove("CARGO_TARGET_DIR").stdin(Stdio::null());
        let output = shell.output().context("Failed to start a shell")?;
        ensure!(output.status.success(), "`{command}` ended with {}: {}", output.status, said(&output));
    }
    let page = checkout.join("target/releases/cairn_0.1.0/cairn_0.1.0.release.html");
    ensure!(page.exists(), "there is no page");
    let status = Command::new("git").args(["status", "--porcelain"]).current_dir(&checkout).output()?;
    ensure!(status.stdout.is_empty(), "the checkout has changes: {}", said(&status));
    Ok(())
}
