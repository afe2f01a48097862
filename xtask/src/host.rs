//! What the host must have, checked before anything else starts. As root, what is missing is installed; otherwise the one line
//! that does it is printed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::sandbox::{EXIT_NOT_ENTERED, Sandbox};

/// A program, and the Debian package that has it.
pub struct Need {
    program: &'static str,
    package: &'static str,
}

/// For every command: the mirrors of this host are apt's.
const APT: Need = Need { program: "apt-get", package: "apt" };
/// The revision of the checkout.
const GIT: Need = Need { program: "git", package: "git" };
/// Servers that end with whoever started them; in tests also a second user, another CPU count, an empty network.
const SETPRIV: Need = Need { program: "setpriv", package: "util-linux" };
const UNSHARE: Need = Need { program: "unshare", package: "util-linux" };

/// What building needs.
pub const TO_BUILD: &[Need] = &[APT, GIT];
/// What a log server needs.
pub const TO_SERVE: &[Need] = &[APT, SETPRIV];
/// What testing needs.
pub const TO_TEST: &[Need] = &[APT, GIT, SETPRIV, UNSHARE];

/// Makes sure of `needs`, and that sandboxes can be made.
pub fn require(needs: &[Need]) -> Result<()> {
    let missing = missing(needs, &std::env::var("PATH").unwrap_or_default());
    if !missing.is_empty() {
        install(&missing)?;
    }
    can_make_sandboxes()
}

fn can_make_sandboxes() -> Result<()> {
    // An empty tree will do: that it has no program to run is found out inside.
    let tree = tempfile::tempdir().context("Failed to make a temporary folder")?;
    for folder in ["dev", "proc", "run", "tmp"] {
        std::fs::create_dir(tree.path().join(folder)).context("Failed to make a temporary folder")?;
    }
    let output = Sandbox::new(tree.path()).command("true").output().context("Failed to start a sandbox")?;
    ensure!(output.status.code() != Some(EXIT_NOT_ENTERED), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The packages of the programs that no folder of `path` has.
fn missing(needs: &[Need], path: &str) -> Vec<&'static str> {
    // An ordinary user's PATH may lack the administrator's folders.
    let folders: Vec<&Path> = path.split(':').chain(["/usr/sbin", "/sbin"]).map(Path::new).collect();
    let lacks = |need: &&Need| !folders.iter().any(|folder| folder.join(need.program).is_file());
    let mut packages: Vec<&str> = needs.iter().filter(lacks).map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !nix::unistd::geteuid().is_root() {
        bail!("This host lacks {list}. Install it with\n  sudo apt-get install --yes {list}");
    }
    eprintln!("This host lacks {list}: installing it");
    let apt = |arguments: &[&str]| -> Result<bool> {
        let mut command = Command::new("apt-get");
        let status =
            command.env("DEBIAN_FRONTEND", "noninteractive").args(["--quiet", "--yes"]).args(arguments).status();
        Ok(status.context("Failed to run apt-get: Cairn builds on Debian and its derivatives")?.success())
    };
    let install = [&["install", "--no-install-recommends"], packages].concat();
    let installed = apt(&install)? || (apt(&["update"])? && apt(&install)?);
    ensure!(installed, "apt-get could not install {list}: install it by hand and run this again");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_once_by_its_package() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("present-program"), "").unwrap();
        let need = |program, package| Need { program, package };
        let needs =
            [need("present-program", "a"), need("no-such-1", "zz"), need("no-such-2", "zz"), need("no-such-3", "b")];
        assert_eq!(missing(&needs, folder.path().to_str().unwrap()), ["b", "zz"]);
        assert_eq!(missing(&needs[..1], folder.path().to_str().unwrap()), Vec::<&str>::new());
    }
}
