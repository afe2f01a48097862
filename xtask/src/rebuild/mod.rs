//! `cargo xtask rebuild`: builds a published image again, from the commit and the lock that its statement names, and compares every output and every event. Nothing of the host's cache is believed but packages, by their digests.
//!
//! Where the commit is that of the running program, the program builds; otherwise that commit's own does, for how an image is built belongs to its sources. On success a rebuild statement may be signed and logged.

mod claim;
mod compare;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::build::{self, BuildArgs, PRODUCTION};
use crate::checkout::Checkout;
use crate::difference::Outputs;
use crate::digest::Sha256Digest;
use crate::interrupt::remove_tree;
use crate::neighbours::{self, PUBLISHER};
use crate::progress::Progress;
use crate::sandbox::Sandbox;
use crate::store::Store;
use claim::Claim;
use compare::{Verdict, compare};

/// No statement or bundle is longer.
const LARGEST: u64 = 1 << 20;
/// Exit code for an image that came out otherwise.
const DIFFERS: u8 = 3;

/// Build a published image again, and compare every output and every event
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Exit codes: 0 all the same; 3 something differs, and what; 1 it could not be built.

Examples: cargo xtask rebuild cairn_0.1.0.measured-boot.sigstore.json
          cargo xtask rebuild cairn_0.1.0.measured-boot.sigstore.json --key signing/rebuilder.key --log URL --read-log URL --trust-root signing/trust-root.json")]
pub struct RebuildArgs {
    /// Measured-boot or provenance statement of the image, or the bundle that it is in; published files beside it are looked into where they differ
    statement: PathBuf,
    /// Use what this host has built before, too: quicker, and it proves less
    #[arg(long)]
    with_cache: bool,
    /// Where sources, cache and image go [default: target/rebuild]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// Options of `cargo xtask publish` (key, log, trust root): a rebuild statement is signed and logged if all is the same
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "SIGN AND LOG")]
    sign: Vec<OsString>,
}

/// Runs the command.
pub fn run(args: &RebuildArgs, progress: &Progress) -> Result<ExitCode> {
    let path = &args.statement;
    let bytes = read(path)?;
    let claim = Claim::read(&bytes).with_context(|| format!("{} cannot be built again", path.display()))?;
    let checkout = Checkout::find()?;
    if !args.sign.is_empty() {
        // Before anything costs time.
        neighbours::must(&PUBLISHER, "check", &args.sign)?;
    }
    let folder = args.folder.clone().unwrap_or_else(|| checkout.target().join("rebuild")).join(&claim.revision);
    fs::create_dir_all(&folder).with_context(|| format!("Failed to make {}", folder.display()))?;
    let folder = folder.canonicalize().with_context(|| format!("Failed to resolve {}", folder.display()))?;

    let sources = folder.join("sources");
    check_out(&checkout, &claim, &sources)?;
    let store =
        if args.with_cache { Store::open()? } else { Store::open()?.packages_only(&folder.join("cache/cairn"))? };
    let image = folder.join("image");
    remove_tree(&image)?;
    build(&checkout, &claim, &Place { sources, image: image.clone() }, &store, progress)?;

    let built = Outputs::in_folder(&image)?;
    let compiler = built.document()?.toolchain;
    ensure!(
        compiler.commit == claim.compiler,
        "The compiler here is {} ({}), the image was built with {}: install the toolchain that rust-toolchain.toml of its commit pins",
        compiler.commit,
        compiler.rustc,
        claim.compiler
    );
    let published = path.parent().and_then(|folder| published_in(folder, &claim));
    let tools = crate::cli::build_root(progress)?;
    let verdict = compare(&Sandbox::new(&tools.tree), &claim, &built, published.as_ref())?;
    println!("{}", told(&claim, &verdict, &image, args.json));
    match verdict {
        Verdict::Differs { .. } => Ok(ExitCode::from(DIFFERS)),
        Verdict::Same { .. } if args.sign.is_empty() => Ok(ExitCode::SUCCESS),
        Verdict::Same { .. } => {
            let arguments: Vec<OsString> =
                std::iter::once(image.into_os_string()).chain(args.sign.iter().cloned()).collect();
            neighbours::hand_over_to(&PUBLISHER, "rebuilt", &arguments)
        }
    }
}

/// Reads a statement, which may be anybody's.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(|| format!("Failed to read {}", path.display()))?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).with_context(|| format!("Failed to read {}", path.display()))?;
    ensure!(bytes.len() as u64 <= LARGEST, "{} has more than {LARGEST} bytes: it is no statement", path.display());
    Ok(bytes)
}

/// Where an image is built again.
struct Place {
    sources: PathBuf,
    image: PathBuf,
}

/// The sources of the commit, with the lock that the statement names.
fn check_out(checkout: &Checkout, claim: &Claim, to: &Path) -> Result<()> {
    let root = checkout.root();
    let known = git(root, &["cat-file", "-e", &format!("{}^{{commit}}", claim.revision)])?;
    ensure!(
        known.status.success(),
        "This repository does not have the commit {}: run `git fetch` here, or run this in a clone of the repository that the provenance names",
        claim.revision
    );
    remove_tree(to)?;
    let (from, target) = (root.display().to_string(), to.display().to_string());
    for arguments in [
        &["clone", "--quiet", "--no-checkout", "--", &*from, &*target][..],
        &["-C", &target, "checkout", "--quiet", "--detach", &claim.revision],
    ] {
        let output = git(root, arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "git {} failed: {}", arguments[0], said.trim());
    }
    let lock = Sha256Digest::of_file(&to.join("os/packages.lock"))?.0.to_string();
    ensure!(
        lock == claim.lock,
        "The lock of {} has the digest {lock}, the statement names {}: the image was not built from that commit",
        claim.revision,
        claim.lock
    );
    Ok(())
}

fn git(folder: &Path, arguments: &[&str]) -> Result<std::process::Output> {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "-c", "advice.detachedHead=false"]).args(arguments).current_dir(folder);
    git.output().context("Failed to run git")
}

fn build(checkout: &Checkout, claim: &Claim, place: &Place, store: &Store, progress: &Progress) -> Result<()> {
    let profile = (claim.variant != PRODUCTION).then(|| claim.variant.clone());
    let running = checkout.revision()?;
    if running.commit == claim.revision && !running.dirty {
        let args = BuildArgs { profile, out: Some(place.image.clone()), locked: true, json: false };
        let built = build::run_in(&Checkout::at(&place.sources), store, &args, progress)?;
        ensure!(!built.dirty, "The sources in {} were changed while they were built", place.sources.display());
        return Ok(());
    }
    progress.note(&format!("{} is another commit: its own tools build it", claim.revision));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--package", "xtask", "--manifest-path"]).arg(place.sources.join("Cargo.toml"));
    cargo.args(["--", "build-image", "--locked", "--out"]).arg(&place.image);
    cargo.args(profile.iter().flat_map(|name| ["--profile", name]));
    cargo.current_dir(&place.sources).env("CARGO_TARGET_DIR", place.sources.join("target"));
    if let Some(home) = store.folder().parent() {
        cargo.env("XDG_CACHE_HOME", home);
    }
    let status = cargo.status().context("Failed to run cargo")?;
    ensure!(status.success(), "The image of {} could not be built: see above", claim.revision);
    Ok(())
}

/// The published image beside a statement, if it is all there.
fn published_in(folder: &Path, claim: &Claim) -> Option<Outputs> {
    let outputs = Outputs::in_folder(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }).ok()?;
    let is_there = |(suffix, digest): (&&str, &String)| {
        Sha256Digest::of_file(&outputs.file(suffix)).is_ok_and(|(found, _)| found.to_string() == *digest)
    };
    claim.outputs.iter().all(is_there).then_some(outputs)
}

fn told(claim: &Claim, verdict: &Verdict, image: &Path, json: bool) -> String {
    if json {
        let value = match verdict {
            Verdict::Same { outputs, events } => {
                serde_json::json!({"verdict": "same", "outputs": outputs, "events": events})
            }
            Verdict::Differs { difference, event } => serde_json::json!({
                "verdict": "differs", "output": difference.output, "stage": difference.stage,
                "inside": difference.inside, "event": event,
            }),
        };
        return value.to_string();
    }
    let heading = format!("revision   {}\nlock       {}\nbuilt in   {}\n", claim.revision, claim.lock, image.display());
    match verdict {
        Verdict::Same { outputs, events } => {
            let events = events.map_or("no event is in this statement".into(), |count| format!("{count} events"));
            format!(
                "{heading}SAME       {outputs} outputs, {events}\nWho signed the statement, and where it is logged, is for `cairn verify`."
            )
        }
        Verdict::Differs { difference, event } => {
            let event = event.as_ref().map_or(String::new(), |event| format!("\nfirst event that differs: {event}"));
            format!(
                "{heading}DIFFERS    {difference}{event}\nDo not use the image before its publisher has explained this."
            )
        }
    }
}
