//! `cairn pack`: one file for verifiers without a network. What does not verify here is not put in, for whoever finds that out behind the gap cannot fetch another.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use measurements::text::printable;
use transparency::Refusal;
use transparency::air_gap::{AirGap, NamedBundle};

use crate::inputs::{read, unusable};
use crate::outputs::replace;
use crate::verify::{Inputs, Kind, Outcome, REFUSED, Subject, judge, kind_of, now, read_all, told};

/// Arguments of `pack`.
#[derive(Args)]
#[command(after_help = "\
Every bundle is verified first, as `cairn verify` does, with the channel's state if that is given.

Exit codes: 0 packed; 3 something does not verify, with a code, what was found, and what to do: nothing is written; 1 a file cannot be used.

Example: cairn pack cairn_0.1.0.air-gap.json --trust-root trust-root.json --bundle cairn_0.1.0.*.sigstore.json --channel stable.sigstore.json")]
pub struct PackArgs {
    /// The file to write (`*.air-gap.json`)
    out: PathBuf,
    /// Whom to believe; of several, the first is believed, and each must allow the next
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    trust_root: Vec<PathBuf>,
    /// Signed statements and their proofs (`*.sigstore.json`): measured-boot of images and machines, provenance, rebuilds
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    bundle: Vec<PathBuf>,
    /// The channel's state (`*.sigstore.json`): whether releases are still good
    #[arg(long, value_name = "FILE")]
    channel: Option<PathBuf>,
}

/// Packs; the text to print and the exit code.
pub fn run(args: &PackArgs) -> Result<(String, ExitCode)> {
    let (roots, channel) = (read_all(&args.trust_root)?, args.channel.as_deref().map(read).transpose()?);
    let bundles = named(&args.bundle)?;
    let inputs = |bundle: &[u8], kind| Inputs {
        bundle: bundle.to_vec(),
        roots: roots.clone(),
        channel: channel.clone(),
        channel_version: 0,
        newest: None,
        subject: Subject::Anything,
        kind,
    };
    let mut all = Vec::new();
    if let (Some(bytes), Some(path)) = (&channel, &args.channel) {
        all.push((path.display().to_string(), inputs(bytes, Kind::Channel)));
    }
    for (name, (path, bytes)) in &bundles {
        let kind = kind_of(bytes).filter(|kind| *kind != Kind::Channel);
        let kind = kind.with_context(|| {
            format!(
                "{}: it is a bundle of neither measured-boot nor provenance nor a rebuild; give a channel as --channel",
                unusable(path)
            )
        })?;
        all.push((name.clone(), inputs(bytes, kind)));
    }
    let now = now()?;
    for (name, inputs) in &all {
        if let Some(refused) = refused(name, judge(inputs, now)) {
            return Ok((told(&refused, "", false), ExitCode::from(REFUSED)));
        }
    }
    let air_gap = air_gap(args, roots, bundles, channel)?;
    let bytes = air_gap.write()?;
    replace(&args.out, &bytes)?;
    Ok((packed(&args.out, &air_gap, bytes.len()), ExitCode::SUCCESS))
}

/// Files by their names, which must differ.
fn named(paths: &[PathBuf]) -> Result<BTreeMap<String, (PathBuf, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).with_context(|| unusable(path))?;
        let other = files.insert(name.to_owned(), (path.clone(), read(path)?));
        ensure!(other.is_none(), "Two bundles are called {name}: rename one, for the air-gap file has them by name");
    }
    Ok(files)
}

/// What was refused, with the file that it was found in.
fn refused(name: &str, outcome: Outcome) -> Option<Outcome> {
    match outcome {
        Outcome::Verified(_) => None,
        Outcome::Refused(Refusal { code, found }) => {
            // Its text is printable already, and may have a hint on a line of its own.
            Some(Outcome::Refused(Refusal { code, found: format!("{}: {found}", printable(name)) }))
        }
        Outcome::Disagreement(mut disagreement) => {
            disagreement.found = format!("{}: {}", printable(name), disagreement.found);
            Some(Outcome::Disagreement(disagreement))
        }
    }
}

fn air_gap(
    args: &PackArgs,
    roots: Vec<Vec<u8>>,
    bundles: BTreeMap<String, (PathBuf, Vec<u8>)>,
    channel: Option<Vec<u8>>,
) -> Result<AirGap> {
    let roots = args.trust_root.iter().zip(roots).map(|(path, bytes)| text(path, bytes)).collect::<Result<_>>()?;
    let bundles = bundles.into_iter().map(|(name, (path, bytes))| Ok(NamedBundle { name, text: text(&path, bytes)? }));
    let channel = args.channel.as_ref().zip(channel).map(|(path, bytes)| text(path, bytes)).transpose()?;
    Ok(AirGap::new(roots, bundles.collect::<Result<_>>()?, channel)?)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).with_context(|| unusable(path))
}

fn packed(out: &Path, air_gap: &AirGap, size: usize) -> String {
    let digest = hex::encode(air_gap.first_root().0);
    let mut said = format!("PACKED         {}, {size} bytes\n", out.display());
    for bundle in air_gap.bundles() {
        let _ = writeln!(said, "bundle         {}", bundle.name);
    }
    let state =
        if air_gap.channel().is_some() { "with its state" } else { "none: verifiers are not told what is revoked" };
    let _ = writeln!(said, "channel        {state}");
    let _ = writeln!(said, "trust root     sha256:{digest}");
    said + "next           tell verifiers this digest by another way than the file: they give it as --trust-root-digest\n"
}
