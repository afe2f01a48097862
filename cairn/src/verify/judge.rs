//! The judgement, from bytes and a time alone.

use measurements::bytes::Bytes32;
use second_opinion::{Disagreement, ask};
use transparency::Refusal;
use transparency::statement::Predicate;
use transparency::statement::channel::Channel;
use transparency::statement::measured_boot::{MeasuredBoot, Reference};
use transparency::statement::provenance::Provenance;
use transparency::statement::rebuild::Rebuild;
use transparency::trust_root::TrustRoot;
use transparency::verify::{About, Current, Known, Logged, logged};

use super::told::Row;
use super::{Kind, foreign};

/// In place of the channel by which a machine reference is not judged.
const NOT_IN_A_CHANNEL: &str = "not judged: a channel lists images, and the statement is of a machine";

/// What is judged.
#[derive(Clone)]
pub struct Inputs {
    pub bundle: Vec<u8>,
    pub roots: Vec<Vec<u8>>,
    pub channel: Option<Vec<u8>>,
    pub channel_version: u64,
    pub newest: Option<Bytes32>,
    pub subject: Subject,
    pub kind: Kind,
}

/// What the statement should be about.
#[derive(Clone)]
pub enum Subject {
    File([u8; 32]),
    Value { algorithm: String, digest: Vec<u8> },
    Anything,
}

/// What came out.
#[derive(Debug)]
pub enum Outcome {
    /// All believe it; what was found.
    Verified(Vec<Row>),
    /// Our own verifier refuses it.
    Refused(Refusal),
    /// Another verifier refuses it.
    Disagreement(Disagreement),
}

impl From<Refusal> for Outcome {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Disagreement> for Outcome {
    fn from(disagreement: Disagreement) -> Self {
        Self::Disagreement(disagreement)
    }
}

/// Judges.
pub fn judge(inputs: &Inputs, now: u64) -> Outcome {
    judged(inputs, now).map_or_else(|outcome| outcome, Outcome::Verified)
}

/// The trust root that the last of the files is, if each allows the next.
pub fn trust_root(roots: &[Vec<u8>]) -> Result<TrustRoot, Refusal> {
    roots.iter().try_for_each(|root| foreign::check_trust_root(root))?;
    let (first, rest) = match roots.split_first() {
        Some((first, rest)) => (TrustRoot::first(first)?, rest),
        None => return Err(Refusal::new(transparency::Code::TrustRoot, "no trust root is given")),
    };
    rest.iter().try_fold(first, |root, next| root.next(next))
}

fn judged(inputs: &Inputs, now: u64) -> Result<Vec<Row>, Outcome> {
    let root = trust_root(&inputs.roots)?;
    foreign::check_bundle(&inputs.bundle)?;
    let mut rows = match inputs.kind {
        Kind::MeasuredBoot => measured_boot(inputs, &root, now)?,
        Kind::Provenance => {
            let found = logged::<Provenance>(&inputs.bundle, &root, now)?;
            found.judge(inputs.subject.about())?;
            rows(&found, &inputs.subject)?
        }
        Kind::Rebuild => rows(&logged::<Rebuild>(&inputs.bundle, &root, now)?, &inputs.subject)?,
        Kind::Channel => {
            let current = Current::new(logged(&inputs.bundle, &root, now)?, inputs.channel_version, now)?;
            current.logged().is_about(inputs.subject.about())?;
            [rows(current.logged(), &inputs.subject)?, vec![Row::channel(&current)]].concat()
        }
    };
    ask(&inputs.bundle, &root)?;
    rows.push(Row::new("verifiers", format!("cairn, {}", second_opinion::VERIFIERS.join(", "))));
    Ok(rows)
}

fn measured_boot(inputs: &Inputs, root: &TrustRoot, now: u64) -> Result<Vec<Row>, Outcome> {
    let found = logged::<MeasuredBoot>(&inputs.bundle, root, now)?;
    // What our own verifier says of the release comes before what it says of the channel.
    let known = Known { now, channel: None, newest: inputs.newest };
    found.judge(inputs.subject.about(), &known)?;
    let mut rows = rows(&found, &inputs.subject)?;
    rows.extend(Row::release(found.statement.predicate()));
    match &inputs.channel {
        Some(bytes) => {
            let channel = logged::<Channel>(bytes, root, now)?;
            let current = Current::new(channel, inputs.channel_version, now)?;
            found.judge(inputs.subject.about(), &Known { channel: Some(&current), ..known })?;
            ask(bytes, root)?;
            let is_image = matches!(found.statement.predicate().reference, Reference::Image(_));
            rows.push(if is_image { Row::channel(&current) } else { Row::new("channel", NOT_IN_A_CHANNEL) });
        }
        None => rows.push(Row::new("channel", "none was given: whether the release is still good was not asked")),
    }
    Ok(rows)
}

fn rows<P: Predicate>(found: &Logged<P>, subject: &Subject) -> Result<Vec<Row>, Refusal> {
    let about = found.is_about(subject.about())?.map(|subject| subject.name.clone());
    Ok(Row::logged(P::NAME, found, about.as_deref()))
}

impl Subject {
    fn about(&self) -> About<'_> {
        match self {
            Self::File(digest) => About::File(digest),
            Self::Value { algorithm, digest } => About::Value { algorithm, digest },
            Self::Anything => About::Anything,
        }
    }
}

#[cfg(test)]
mod tests {
    use transparency::Code;
    use transparency::bundle::Bundle;
    use transparency::statement::Statement;
    use transparency::statement::channel::Standing;

    use super::*;
    use crate::verify::fake::{Fake, NOW, Signer, documents, ed25519, public};

    fn inputs(fake: &mut Fake) -> (Inputs, Bundle) {
        let bundle = fake.publish(&documents::release().write().unwrap());
        let digest = transparency::statement::digest(&documents::release().write().unwrap());
        let channel = Statement::channel(documents::channel(digest, Standing::Good)).unwrap().write().unwrap();
        let channel = fake.publish(&channel);
        let inputs = Inputs {
            bundle: bundle.write().unwrap(),
            roots: vec![fake.sign_trust_root(&fake.trust_root().write().unwrap())],
            channel: Some(channel.write().unwrap()),
            channel_version: 4,
            newest: Some(documents::PREVIOUS),
            subject: Subject::Anything,
            kind: Kind::MeasuredBoot,
        };
        (inputs, bundle)
    }

    fn code(inputs: &Inputs) -> Option<Code> {
        match judge(inputs, NOW) {
            Outcome::Verified(rows) => {
                assert!(rows.len() > 6);
                None
            }
            Outcome::Refused(refusal) => Some(refusal.code),
            Outcome::Disagreement(disagreement) => panic!("{disagreement}"),
        }
    }

    #[test]
    fn a_release_is_verified_by_file_by_value_and_alone() {
        let (mut good, _) = inputs(&mut Fake::new());
        assert_eq!(code(&good), None);
        let digest = ring::digest::digest(&ring::digest::SHA256, documents::RAW);
        good.subject = Subject::File(digest.as_ref().try_into().unwrap());
        assert_eq!(code(&good), None);
        let statement = documents::release();
        let pcr = statement.subjects().iter().find(|subject| subject.name == "tpm:pcr4@initrd").unwrap();
        good.subject = Subject::Value { algorithm: "sha384".into(), digest: pcr.digest["sha384"].0.clone() };
        assert_eq!(code(&good), None);
        good.subject = Subject::File([0; 32]);
        assert_eq!(code(&good), Some(Code::Subject));
    }

    #[test]
    fn every_input_can_be_refused() {
        type Change = fn(&mut Inputs);
        let rows: [(&str, Change, Code); 7] = [
            ("no bundle", |inputs| inputs.bundle.clear(), Code::Schema),
            ("another kind", |inputs| inputs.kind = Kind::Provenance, Code::PredicateType),
            ("a channel for a release", |inputs| inputs.kind = Kind::Channel, Code::PredicateType),
            ("a newer statement is known", |inputs| inputs.newest = Some(Bytes32([1; 32])), Code::Rollback),
            ("a newer channel is known", |inputs| inputs.channel_version = 5, Code::ChannelRollback),
            ("a release for a channel", |inputs| inputs.channel = Some(inputs.bundle.clone()), Code::PredicateType),
            ("no trust root", |inputs| inputs.roots.clear(), Code::TrustRoot),
        ];
        for (what, change, expected) in rows {
            let (mut inputs, _) = inputs(&mut Fake::new());
            change(&mut inputs);
            assert_eq!(code(&inputs), Some(expected), "{what}");
        }
    }

    #[test]
    fn a_trust_root_leads_to_the_next() {
        let mut fake = Fake::new();
        let (mut good, _) = inputs(&mut fake);
        let mut next = fake.trust_root();
        next.version = 2;
        good.roots.push(fake.sign_trust_root(&next.write().unwrap()));
        assert_eq!(code(&good), None);
        next.logs[0].key.0 = transparency::key::Key::ed25519(public(&ed25519(9))).spki();
        next.version = 3;
        good.roots.push(fake.sign_trust_root(&next.write().unwrap()));
        assert_eq!(code(&good), Some(Code::CheckpointSignature), "the last one counts");
        good.roots.swap(0, 1);
        assert_eq!(code(&good), Some(Code::TrustRootVersion));
    }

    #[test]
    fn provenance_channels_and_rebuilds_are_verified_too() {
        let mut fake = Fake::new();
        let (mut good, _) = inputs(&mut fake);
        good.bundle = good.channel.take().unwrap();
        good.kind = Kind::Channel;
        assert_eq!(code(&good), None);
        good.bundle = fake.publish(&documents::provenance().write().unwrap()).write().unwrap();
        good.kind = Kind::Provenance;
        assert_eq!(code(&good), None);
        // A rebuild counts by a rebuilder's key, and is about its files.
        good.kind = Kind::Rebuild;
        let rebuild = documents::rebuild().write().unwrap();
        good.bundle = fake.publish(&rebuild).write().unwrap();
        assert_eq!(code(&good), Some(Code::KeyUse));
        fake.rebuilders.push(Signer::new());
        good.roots = vec![fake.sign_trust_root(&fake.trust_root().write().unwrap())];
        good.bundle = fake.publish_rebuild(0, &rebuild).write().unwrap();
        let digest = ring::digest::digest(&ring::digest::SHA256, documents::RAW);
        good.subject = Subject::File(digest.as_ref().try_into().unwrap());
        assert_eq!(code(&good), None);
        good.subject = Subject::File([0; 32]);
        assert_eq!(code(&good), Some(Code::Subject));
    }
}
