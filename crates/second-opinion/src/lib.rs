//! What others think of a bundle that our own verifier believes. `sigstore-verify` judges the whole bundle, and `sigstore` judges signature, inclusion and signed head once more; neither shares code with `transparency`, nor with the other.
//!
//! They know less: nothing of witnesses, of an origin beside the key, of the kind of a statement, of channels. Timestamps are not shown to them, because they want certificates up to a root, where a trust root of ours has the
//! authority's own. So they are asked only about what we believe, and whatever they refuse is a disagreement.

mod sigstore_rs;
mod sigstore_verify_rs;
mod trusted_root;

pub use trusted_root::trusted_root;

use measurements::text::printable;
use sigstore_rs::Sigstore;
use sigstore_verify_rs::SigstoreVerify;
use transparency::bundle::Bundle;
use transparency::key::Key;
use transparency::statement::PAYLOAD_TYPE;
use transparency::trust_root::TrustRoot;

/// A disagreement: who refuses what we believe, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{by} refuses what our own verifier believes: {found}")]
pub struct Disagreement {
    /// Name and version of the other verifier.
    pub by: &'static str,
    /// What it says: printable and bounded ([`printable`]).
    pub found: String,
}

impl Disagreement {
    fn new(by: &'static str, found: &str) -> Self {
        Self { by, found: printable(found) }
    }
}

/// What another verifier says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// Its name and version.
    pub by: &'static str,
    /// Why it refuses the bundle; none if it does not.
    pub refusal: Option<String>,
}

/// Code of a disagreement, beside those of `transparency`.
pub const CODE: &str = "DISAGREEMENT";
/// What to do about one.
pub const NEXT: &str = "do not use the release, and report the bundle: one of two verifiers has a fault";

/// Somebody who judges bundles.
trait Verifier {
    /// Name and version.
    const NAME: &'static str;

    /// Why the bundle is refused.
    fn judge(case: &Case) -> Result<(), String>;
}

/// What is judged.
struct Case<'a> {
    bundle: &'a Bundle,
    /// The key that signed the statement.
    key: &'a Key,
    /// The log's key and origin.
    log: (&'a Key, &'a str),
    /// The statement.
    payload: Vec<u8>,
    /// What was signed: type and statement.
    signed: Vec<u8>,
    signature: Vec<u8>,
    root: &'a TrustRoot,
}

/// Names of the other verifiers.
pub const VERIFIERS: [&str; 2] = [SigstoreVerify::NAME, Sigstore::NAME];

/// What each of the others says of a bundle that [`transparency::verify::logged`] believes.
///
/// # Errors
/// A [`Disagreement`] about what the bundle is, which our own verifier would have noticed.
pub fn opinions(bundle: &[u8], root: &TrustRoot) -> Result<[Opinion; 2], Disagreement> {
    let bundle = Bundle::parse(bundle).map_err(|refusal| own(refusal.found))?;
    let (key, _) = root.key(&bundle.hint).ok_or_else(|| own("the key is not known".into()))?;
    let log = root.logs().find(|(key, origin)| key.note_id(origin) == bundle.entry.log_id);
    let payload = bundle.envelope.unverified_payload().map_err(|error| own(error.to_string()))?;
    let case = Case {
        bundle: &bundle,
        key,
        log: log.ok_or_else(|| own("the log is not known".into()))?,
        signed: envelope::pre_authentication_encoding(PAYLOAD_TYPE, &payload),
        payload,
        signature: bundle.signature().map_err(|refusal| own(refusal.found))?,
        root,
    };
    Ok([of::<SigstoreVerify>(&case), of::<Sigstore>(&case)])
}

/// Asks all others about a bundle that [`transparency::verify::logged`] believes.
///
/// # Errors
/// The first [`Disagreement`].
pub fn ask(bundle: &[u8], root: &TrustRoot) -> Result<(), Disagreement> {
    match opinions(bundle, root)?.into_iter().find_map(|Opinion { by, refusal }| Some((by, refusal?))) {
        Some((by, found)) => Err(Disagreement::new(by, &found)),
        None => Ok(()),
    }
}

fn of<V: Verifier>(case: &Case) -> Opinion {
    Opinion { by: V::NAME, refusal: V::judge(case).err() }
}

fn own(found: String) -> Disagreement {
    Disagreement::new("the reading of the bundle", &found)
}
