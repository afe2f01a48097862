//! The predicate for an image that somebody built again (`https://cairn.example/attestation/rebuild/v1`): from the revision and the lock that its reference names, every file came out the same. Its subjects are those files.

use measurements::bytes::Bytes32;
use measurements::document::image::ImageReference;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Predicate, Statement, Subject};
use crate::trust_root::Use;
use crate::{Code, Refusal};

/// The predicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rebuild {
    /// SHA-256 of the lock, as the reference has it.
    pub lock: String,
    /// SHA-256 of the image reference that came out.
    pub reference: Bytes32,
    /// Commit of the sources, as the reference has it.
    pub revision: String,
}

impl Rebuild {
    /// What a rebuild says of an image with this reference.
    ///
    /// # Errors
    /// [`Code::Statement`] where the reference cannot be written.
    pub fn of(image: &ImageReference) -> Result<Self, Refusal> {
        let bytes = image.to_bytes().map_err(|error| Refusal::new(Code::Statement, error.to_string()))?;
        Ok(Self {
            lock: image.lock.clone(),
            reference: Bytes32(Sha256::digest(&bytes).into()),
            revision: image.revision.clone(),
        })
    }
}

impl Statement<Rebuild> {
    /// The statement of an image that came out the same, and of its files.
    ///
    /// # Errors
    /// [`Code::Statement`].
    pub fn rebuild(image: &ImageReference, files: Vec<Subject>) -> Result<Self, Refusal> {
        Self::new(files, Rebuild::of(image)?)
    }
}

impl Predicate for Rebuild {
    const NAME: &'static str = "rebuild statement";
    const TYPE: &'static str = "https://cairn.example/attestation/rebuild/v1";

    fn needs(&self) -> Use {
        Use::Rebuild
    }

    fn problem(&self, subjects: &[Subject]) -> Option<String> {
        if subjects.iter().any(Subject::is_value) {
            return Some("it is about a value, which nobody builds".into());
        }
        let named = subjects.iter().any(|subject| subject.has("sha256", &self.reference.0));
        (!named).then(|| "the image reference is none of its subjects".into())
    }
}
