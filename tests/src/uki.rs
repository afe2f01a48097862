//! UKIs and add-ons for attacks, made by `ukify` of the build root: not by our own writer, which is under test elsewhere.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use xtask::sandbox::Sandbox;

use crate::pe;

const WORK: &str = "/tmp/work";

/// `uki` with another command line, for positive controls.
pub fn with_command_line(sandbox: &Sandbox, uki: &[u8], command_line: &str) -> Result<Vec<u8>> {
    with_sections(sandbox, uki, &[(".cmdline", command_line.as_bytes())])
}

/// `uki` with other content of these sections, put together by ukify.
pub fn with_sections(sandbox: &Sandbox, uki: &[u8], other: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("Failed to make a temporary folder")?;
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.path().join(name), bytes).with_context(|| format!("Failed to write {name}"))
    };
    let content = |name: &str| match other.iter().find(|(found, _)| *found == name) {
        Some((_, content)) => anyhow::Ok(*content),
        None => pe::section_data(uki, name),
    };
    for name in [".linux", ".initrd", ".osrel", ".cmdline"] {
        write(&name[1..], content(name)?)?;
    }
    let uname = String::from_utf8_lossy(content(".uname")?).into_owned();
    let arguments = [
        "--linux=linux",
        "--initrd=initrd",
        "--os-release=@osrel",
        "--cmdline=@cmdline",
        "--uname",
        &uname,
        "--output=out.efi",
    ];
    ukify(sandbox, folder.path(), &arguments)
}

/// An add-on (a PE file without kernel) that appends `command_line`.
pub fn add_on(sandbox: &Sandbox, command_line: &str) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("Failed to make a temporary folder")?;
    ukify(sandbox, folder.path(), &["--cmdline", command_line, "--output=out.efi"])
}

fn ukify(sandbox: &Sandbox, folder: &Path, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut command = sandbox.clone().bind(folder, WORK).work_dir(WORK).command("ukify");
    let output = command.arg("build").args(arguments).output().context("Failed to start ukify")?;
    ensure!(output.status.success(), "ukify failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    fs::read(folder.join("out.efi")).context("Failed to read what ukify made")
}
