//! What is judged comes out of an air-gap file: its trust roots once something from elsewhere vouches for them, its bundles of the kind that is asked for, and its state of the channel unless a newer one is given.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use transparency::air_gap::{AirGap, Anchor, NamedBundle};
use transparency::bundle::Bundle;
use transparency::statement::predicate_type;

use super::judge::{Inputs, Subject};
use super::{Case, Kind, digest};
use crate::inputs::read;

/// A case for each bundle that may be meant. A file that is not believed is a [`transparency::Refusal`].
pub fn cases(path: &Path, told: Option<&str>, inputs: &Inputs) -> Result<Vec<Case>> {
    let air_gap = AirGap::read(&read(path)?)?;
    let anchor = match told {
        Some(told) => Some(Anchor::Digest(digest(told)?)),
        None => (!inputs.roots.is_empty()).then(|| Anchor::Roots(inputs.roots.clone())),
    };
    let roots = air_gap.roots(anchor.as_ref())?;
    let state = air_gap.channel().map(|text| text.as_bytes().to_vec());
    let case = |bundle: &str, bytes: &[u8]| {
        let channel = inputs.channel.clone().or_else(|| state.clone());
        let inputs = Inputs { bundle: bytes.to_vec(), roots: roots.clone(), channel, ..inputs.clone() };
        Case { bundle: bundle.to_owned(), inputs }
    };
    if inputs.kind == Kind::Channel {
        let state = state.as_deref().with_context(|| format!("{} has no state of a channel", path.display()))?;
        return Ok(vec![case("channel.sigstore.json", state)]);
    }
    let all = air_gap.bundles();
    let meant: Vec<_> = all.iter().filter(|bundle| kind_of(bundle.text.as_bytes()) == Some(inputs.kind)).collect();
    let names =
        |bundles: &[&NamedBundle]| bundles.iter().map(|found| found.name.as_str()).collect::<Vec<_>>().join(", ");
    ensure!(
        !meant.is_empty(),
        "{} has no bundle of this kind, but {}: `cairn pack` puts one in",
        path.display(),
        names(&all.iter().collect::<Vec<_>>())
    );
    ensure!(
        meant.len() == 1 || !matches!(inputs.subject, Subject::Anything),
        "{} has several bundles of this kind ({}): name the file that you want to verify, or give --digest",
        path.display(),
        names(&meant)
    );
    Ok(meant.into_iter().map(|bundle| case(&bundle.name, bundle.text.as_bytes())).collect())
}

/// What the statement of a bundle says it is, which nobody vouches for yet.
pub fn kind_of(bundle: &[u8]) -> Option<Kind> {
    let payload = Bundle::parse(bundle).ok()?.envelope.unverified_payload().ok()?;
    let found = predicate_type(&payload).ok()?;
    Kind::value_variants().iter().copied().find(|kind| kind.predicate_type() == found)
}
