//! `cargo xtask release`: build, try, publish, promote, and write the release's page, in one go. Every step looks first whether it was done for these very bytes, so a command that was interrupted is given again.

mod changes;
mod companions;
mod differences;
mod html;
mod page;
mod trial;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::build::{self, BuildArgs};
use crate::checkout::Checkout;
use crate::config::image::ImageConfig;
use crate::difference::Outputs;
use crate::digest::Sha256Digest;
use crate::neighbours::{self, PUBLISHER};
use crate::progress::Progress;
use crate::published;
use crate::sandbox::Sandbox;
use page::Page;

/// Bundles of a release.
const MEASURED_BOOT: &str = "measured-boot.sigstore.json";
const PROVENANCE: &str = "provenance.sigstore.json";

/// Build, try, publish and promote a release, and write its page
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
It is done for a clean checkout and its lock. Interrupted or refused, the same command goes on where it was, with the same bytes.

Example: cargo xtask release stable --previous target/releases/cairn_0.1.0 --key signing/release.key --log URL --read-log URL --trust-root signing/trust-root.json")]
pub struct ReleaseArgs {
    /// The channel that calls it good; it is begun if need be
    channel: String,
    /// Folder of the release before: the page says what changed, and the statement follows that one's
    #[arg(long, value_name = "DIR")]
    previous: Option<PathBuf>,
    /// Where it goes [default: target/releases/NAME_VERSION]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder with the channel's states
    #[arg(long, value_name = "DIR", default_value = "signing/channels")]
    channels: PathBuf,
    /// Options of `cargo xtask publish`: key, log, trust root
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "SIGN AND LOG", required = true)]
    sign: Vec<OsString>,
}

/// Runs the command; the last words are where the page is.
pub fn run(args: &ReleaseArgs, progress: &Progress) -> Result<()> {
    let checkout = Checkout::find()?;
    let revision = checkout.revision()?;
    ensure!(
        !revision.dirty,
        "The checkout has uncommitted changes, and a release is built from a commit. `git status` lists them: commit what belongs to the sources, and move everything else away. Keys go to signing/, which git ignores"
    );
    let previous = args.previous.as_deref().map(previous).transpose()?;
    let image = ImageConfig::read(&checkout.join("os/image.toml"))?;
    let out = args.out.clone();
    let out = out.unwrap_or_else(|| checkout.target().join("releases").join(format!("{}_{}", image.id, image.version)));

    // Before anything costs time.
    let is_built = is_built(&out, &revision.commit);
    if !is_built {
        published::refuse(&out)?;
    }
    neighbours::must(&PUBLISHER, "check", &args.sign)?;
    progress.note("release 1/5: build");
    if !is_built {
        let build = BuildArgs { profile: None, out: Some(out.clone()), locked: true, json: false };
        build::run(&build, progress)?;
    }
    let outputs = Outputs::in_folder(&out)?;
    let tools = crate::cli::build_root(progress)?;
    let sandbox = Sandbox::new(&tools.tree);

    progress.note("release 2/5: boot it, and compare every register");
    let trial = trial::of(&checkout, &sandbox, &outputs, progress)?;

    progress.note("release 3/5: publish");
    let mut words: Vec<&OsStr> = vec![out.as_os_str()];
    let statement = previous.as_ref().map(|previous| previous.file("measured-boot.json"));
    if let Some(statement) = &statement {
        words.extend([OsStr::new("--previous"), statement.as_os_str()]);
    }
    neighbours::must(&PUBLISHER, "publish", words.into_iter().chain(args.sign.iter().map(OsString::as_os_str)))?;

    progress.note("release 4/5: promote");
    let bundle = outputs.file(MEASURED_BOOT);
    let words = ["promote", &args.channel].map(OsStr::new).into_iter();
    let words = words.chain([bundle.as_os_str(), OsStr::new("--folder"), args.channels.as_os_str()]);
    neighbours::must(&PUBLISHER, "channel", words.chain(args.sign.iter().map(OsString::as_os_str)))?;

    progress.note("release 5/5: write its page");
    published::must_be_as_stated(&outputs)?;
    let changes = previous.map(|previous| changes::between(&sandbox, &previous, &outputs)).transpose()?;
    let companions = companions::copy(&out, &args.channels, &args.channel, &args.sign)?;
    let page = Page::of(&outputs, &args.channel, trial, changes, companions)?;
    let (json, html) = (outputs.file("release.json"), outputs.file("release.html"));
    write(&json, &build::document::canonical(&page)?)?;
    write(&html, html::of(&page).as_bytes())?;
    println!("{}\n{}", json.display(), html.display());
    Ok(())
}

/// A release that another one follows.
fn previous(folder: &Path) -> Result<Outputs> {
    let outputs = Outputs::in_folder(folder)?;
    let statement = outputs.file("measured-boot.json");
    ensure!(
        statement.exists(),
        "{} was not published: there is no {}. Name the folder of a release, or leave --previous out",
        folder.display(),
        statement.display()
    );
    published::must_be_as_stated(&outputs)?;
    Ok(outputs)
}

/// Whether the image of this commit is there, whole.
fn is_built(out: &Path, commit: &str) -> bool {
    let Ok(outputs) = Outputs::in_folder(out) else { return false };
    let Ok(image) = outputs.document() else { return false };
    let is_there = |(name, output): (&String, &measurements::document::build::OutputDocument)| {
        Sha256Digest::of_file(&out.join(name)).is_ok_and(|(found, _)| *found.as_bytes() == output.sha256.0)
    };
    image.revision == commit && !image.dirty && image.locked && image.outputs.iter().all(is_there)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).with_context(|| format!("Failed to write {}", path.display()))
}
