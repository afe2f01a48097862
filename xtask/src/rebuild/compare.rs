//! What was built again beside what a statement says: every output in the order of the build, and every event.

use anyhow::{Context, Result};
use measurements::Bank;
use measurements::document::EventRecord;
use measurements::document::image::{ImageEvents, ImageReference};

use super::claim::Claim;
use crate::difference::{Difference, OUTPUTS, Outputs, first_difference};
use crate::digest::Sha256Digest;
use crate::sandbox::Sandbox;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All the same: so many outputs, so many events.
    Same { outputs: usize, events: Option<usize> },
    /// The first difference, and the first event that differs, if one does.
    Differs { difference: Difference, event: Option<String> },
}

/// Compares; where the published files are there, too, the difference is looked for inside.
pub fn compare(sandbox: &Sandbox, claim: &Claim, built: &Outputs, published: Option<&Outputs>) -> Result<Verdict> {
    let event = claim.reference.as_ref().map(|reference| first_event(reference, built)).transpose()?;
    for (output, stage) in OUTPUTS {
        let Some(expected) = claim.outputs.get(output) else { continue };
        let (found, _) = Sha256Digest::of_file(&built.file(output))?;
        if found.to_string() == *expected {
            continue;
        }
        let found_inside = match published {
            Some(published) => first_difference(sandbox, published, built)?,
            None => None,
        };
        let difference = found_inside.unwrap_or_else(|| Difference {
            output,
            stage,
            inside: format!(
                "{found} was built, {expected} was published; with the published files beside the statement, the file in it is named"
            ),
        });
        return Ok(Verdict::Differs { difference, event: event.and_then(Result::err) });
    }
    match event.transpose() {
        Ok(events) => Ok(Verdict::Same { outputs: claim.outputs.len(), events }),
        // The statement contradicts itself: its own reference is not the file that it names.
        Err(event) => {
            let inside = "the statement's own list of events is not that of the file that it names".to_owned();
            let difference = Difference { output: "reference.json", stage: "outputs", inside };
            Ok(Verdict::Differs { difference, event: Some(event) })
        }
    }
}

/// The number of events if all are the same, or the first that is not.
fn first_event(expected: &ImageReference, built: &Outputs) -> Result<Result<usize, String>> {
    let path = built.file("reference.json");
    let found = ImageReference::parse(&built.read("reference.json")?)
        .with_context(|| format!("{} is not understood", path.display()))?;
    Ok(events(&expected.events, &found.events))
}

fn events(expected: &ImageEvents, found: &ImageEvents) -> Result<usize, String> {
    let mut count = 0;
    for (stage, expected, found) in [
        ("boot", &expected.boot, &found.boot),
        ("initrd", &expected.initrd, &found.initrd),
        ("running", &expected.running, &found.running),
    ] {
        let different = expected.iter().zip(found).position(|(expected, found)| expected != found);
        let first = different.or_else(|| (expected.len() != found.len()).then(|| expected.len().min(found.len())));
        if let Some(at) = first {
            return Err(format!("event {at} of {stage}: {} and {}", shown(expected.get(at)), shown(found.get(at))));
        }
        count += expected.len();
    }
    Ok(count)
}

fn shown(event: Option<&EventRecord>) -> String {
    let digest = |event: &EventRecord| event.digests.first().and_then(|digests| digests.get(&Bank::Sha256)).cloned();
    event.map_or("none".into(), |event| {
        format!("PCR {}, {} ({})", event.pcr, event.input, digest(event).unwrap_or_else(|| "not known".into()))
    })
}

#[cfg(test)]
mod tests {
    use measurements::document::Known;
    use measurements::{Event, Source};

    use super::*;

    fn event(register: u8, what: &str) -> EventRecord {
        EventRecord::new(&Event::of(register, 0, Source::Image, what, what.as_bytes()), Known::Calculated, 0)
    }

    #[test]
    fn the_first_event_that_differs_is_named() {
        let good = ImageEvents {
            boot: vec![event(4, "the UKI"), event(11, "section .linux")],
            initrd: vec![event(11, "enter-initrd")],
            running: vec![],
        };
        assert_eq!(events(&good, &good), Ok(3));
        let mut other = good.clone();
        other.boot[1] = event(11, "section .initrd");
        let found = events(&good, &other).unwrap_err();
        assert!(found.starts_with("event 1 of boot: PCR 11, section .linux ("), "{found}");
        let mut longer = good.clone();
        longer.running.push(event(15, "stateless"));
        let found = events(&good, &longer).unwrap_err();
        assert!(found.starts_with("event 0 of running: none and PCR 15, stateless ("), "{found}");
    }
}
