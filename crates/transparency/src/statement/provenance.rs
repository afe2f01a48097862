//! The predicate for how an image was made (SLSA Provenance v1): the source's revision, the lock, the compiler, the builder, and the parameters that give the same bits again.

use measurements::bytes::Hex;
use measurements::document::build::ImageDocument;
use serde::{Deserialize, Serialize};

use super::{Predicate, Statement, Subject};
use crate::trust_root::Use;
use crate::{Code, Refusal};

/// How an image is built from parameters and dependencies: `cargo xtask build-image --locked` at the revision, with the profile that the variant names. A name, not an address.
pub const BUILD_TYPE: &str = "https://cairn.example/build/image/v1";

/// The predicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provenance {
    /// What was built from what.
    pub build_definition: BuildDefinition,
    /// Who built it.
    pub run_details: RunDetails,
}

/// What was built from what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildDefinition {
    /// [`BUILD_TYPE`].
    pub build_type: String,
    /// What whoever started the build decided.
    pub external_parameters: ExternalParameters,
    /// What followed from the sources.
    pub internal_parameters: InternalParameters,
    /// What was used: the sources, the lock, the compiler.
    pub resolved_dependencies: Vec<Dependency>,
}

/// What whoever started the build decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExternalParameters {
    /// `production`, or the profile's name.
    pub variant: String,
}

/// What followed from the sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct InternalParameters {
    /// Security epoch.
    pub epoch: u64,
    /// Image id.
    pub id: String,
    /// Every time stamp in the image, seconds since 1970.
    pub source_date: u64,
    /// Version.
    pub version: String,
}

/// Something that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dependency {
    /// By which it is known.
    pub digest: Digest,
    /// What it is.
    pub name: String,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
}

/// A digest of in-toto.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Digest {
    /// A commit.
    GitCommit(String),
    /// A file.
    Sha256(Hex),
}

/// Who built it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunDetails {
    /// The builder.
    pub builder: Builder,
}

/// The builder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Builder {
    /// URI of whoever vouches for the build.
    pub id: String,
}

impl Statement<Provenance> {
    /// The statement of a build's outputs and these further files. `repository` is where the sources are.
    ///
    /// # Errors
    /// [`Code::Statement`] for a build that nobody can repeat.
    pub fn provenance(
        image: &ImageDocument,
        more: Vec<Subject>,
        builder: &str,
        repository: Option<&str>,
    ) -> Result<Self, Refusal> {
        if image.dirty || !image.locked {
            let found = "the image was built from sources or packages that are not those of its revision";
            return Err(Refusal::new(Code::Statement, found));
        }
        let dependency = |name: &str, digest, uri: Option<&str>| Dependency {
            digest,
            name: name.into(),
            uri: uri.map(str::to_owned),
        };
        let predicate = Provenance {
            build_definition: BuildDefinition {
                build_type: BUILD_TYPE.into(),
                external_parameters: ExternalParameters { variant: image.variant.clone() },
                internal_parameters: InternalParameters {
                    epoch: image.epoch,
                    id: image.id.clone(),
                    source_date: image.source_date,
                    version: image.version.clone(),
                },
                resolved_dependencies: vec![
                    dependency("sources", Digest::GitCommit(image.revision.clone()), repository),
                    dependency("os/packages.lock", Digest::Sha256(Hex(image.lock.0.into())), None),
                    dependency("rustc", Digest::GitCommit(image.toolchain.commit.clone()), None),
                ],
            },
            run_details: RunDetails { builder: Builder { id: builder.into() } },
        };
        let outputs = image.outputs.iter().map(|(name, output)| Subject::file(name, output.sha256.0));
        Self::new(outputs.chain(more).collect(), predicate)
    }
}

impl Predicate for Provenance {
    const NAME: &'static str = "provenance statement";
    const TYPE: &'static str = "https://slsa.dev/provenance/v1";

    fn needs(&self) -> Use {
        Use::Image
    }

    fn problem(&self, subjects: &[Subject]) -> Option<String> {
        let definition = &self.build_definition;
        if definition.build_type != BUILD_TYPE {
            return Some(format!("it was built in another way: {:?}", definition.build_type));
        }
        let names = definition.resolved_dependencies.iter().map(|dependency| dependency.name.as_str());
        if !names.eq(["sources", "os/packages.lock", "rustc"]) {
            return Some("it does not name sources, lock and compiler".into());
        }
        subjects.iter().any(Subject::is_value).then(|| "it is about a value, which nobody builds".into())
    }
}
