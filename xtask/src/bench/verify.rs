//! Releases in a log: bundles verified by programs, ours beside cosign and Python's `sigstore`; what publishing to a real log costs, and reading it. The bench is one of the package `cairn-tests`; the programs are compiled as they are released.

use anyhow::{Context, Result};

use super::report::Found;
use super::{Bench, output_of, pypi};
use crate::log_server::programs::{Programs, Unavailable};
use crate::neighbours::PROGRAMS_VARIABLE;
use crate::sandbox::LAUNCHER_VARIABLE;

const PEER: &str = "sigstore";
const PEER_VERSION: &str = "4.5.1";

pub(super) fn measure(bench: &Bench) -> Result<Found> {
    let mut found = Found::default();
    match Programs::get(&bench.checkout, &bench.store, &bench.progress) {
        Err(error) if error.is::<Unavailable>() => {
            found.skipped.push(format!("everything about bundles and logs: {error:#}"));
            return Ok(found);
        }
        programs => drop(programs?),
    }
    bench.progress.note("bench: verification of bundles, compiled as a release ...");
    output_of(&mut bench.cargo(&["build", "--quiet", "--release", "-p", "cairn", "-p", "publisher"]))?;
    let mut verify =
        bench.cargo(&["bench", "--quiet", "-p", "cairn-tests", "--features", "end-to-end", "--bench", "verify", "--"]);
    match pypi::install(&bench.scratch.path().join("sigstore"), PEER, PEER_VERSION) {
        Ok(programs) => drop(verify.arg(programs.join("python"))),
        Err(error) => found.skipped.push(format!("bundles verified by Python's {PEER}: {error:#}")),
    }
    let xtask = std::env::current_exe().context("Failed to find this program")?;
    verify.env(LAUNCHER_VARIABLE, xtask).env("CAIRN_BUILD_ROOT", &bench.tools.tree);
    verify.env(PROGRAMS_VARIABLE, bench.checkout.target().join("release")).env("CAIRN_IMAGE_DIR", &bench.first.folder);
    // The log lies where a disk is: below the target folder, not in a file system of memory.
    verify.env("TMPDIR", bench.scratch.path());
    found.extend(serde_json::from_str(&output_of(&mut verify)?).context("Failed to read what the bench says")?);
    Ok(found)
}
