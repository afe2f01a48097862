//! What a published statement says of a build: from which commit and lock, and which files came out. Both kinds say it: the measured-boot statement, and SLSA provenance. Nothing is verified here: that a statement is signed and logged is for `cairn verify`.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use measurements::document::image::ImageReference;
use serde_json::Value;

use crate::difference::OUTPUTS;

const MEASURED_BOOT: &str = "https://cairn.example/attestation/measured-boot/v1";
const PROVENANCE: &str = "https://slsa.dev/provenance/v1";

/// What a statement says of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Commit of the sources.
    pub revision: String,
    /// SHA-256 of os/packages.lock.
    pub lock: String,
    /// Commit of the compiler.
    pub compiler: String,
    /// `production`, or the profile's name.
    pub variant: String,
    /// SHA-256 of each output, by its suffix.
    pub outputs: BTreeMap<&'static str, String>,
    /// What will be measured, where the statement says it.
    pub reference: Option<ImageReference>,
}

impl Claim {
    /// Reads a statement, or the bundle that it is in.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).context("It is no JSON");
        let mut value = read(bytes)?;
        if let Some(payload) = value["dsseEnvelope"]["payload"].as_str().or(value["payload"].as_str()) {
            value = read(&STANDARD.decode(payload).context("Its payload is no base64")?)?;
        }
        let predicate = &value["predicate"];
        let mut claim = match value["predicateType"].as_str() {
            Some(MEASURED_BOOT) => Self::of_reference(&predicate["reference"]["image"])?,
            Some(PROVENANCE) => Self::of_provenance(&predicate["buildDefinition"])?,
            Some(other) => bail!("It is a {other:?}: give a measured-boot or a provenance statement of an image"),
            None => bail!("It is no statement: give a *.measured-boot.sigstore.json or *.provenance.sigstore.json"),
        };
        for subject in value["subject"].as_array().into_iter().flatten() {
            let (name, digest) = (subject["name"].as_str(), subject["digest"]["sha256"].as_str());
            let is_named = |suffix: &str| name.is_some_and(|name| name.ends_with(&format!(".{suffix}")));
            let suffix = OUTPUTS.iter().map(|(suffix, _)| *suffix).find(|suffix| is_named(suffix));
            if let (Some(suffix), Some(digest)) = (suffix, digest) {
                let other = claim.outputs.insert(suffix, digest.to_owned());
                ensure!(other.is_none(), "It names two outputs that end with .{suffix}: a build makes one");
            }
        }
        // Of what it does not name nothing would be said.
        if let Some((missing, _)) = OUTPUTS.iter().find(|(output, _)| !claim.outputs.contains_key(output)) {
            bail!("It does not name the output .{missing} of a build");
        }
        let is_commit = |text: &str| text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        ensure!(is_commit(&claim.revision), "It names no commit: {:?}", claim.revision);
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let begins = claim.variant.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
        ensure!(begins && claim.variant.bytes().all(is_name), "It names no variant: {:?}", claim.variant);
        Ok(claim)
    }

    fn of_reference(image: &Value) -> Result<Self> {
        let reference: ImageReference =
            serde_json::from_value(image.clone()).context("It has no image reference: a machine is not built")?;
        Ok(Self {
            revision: reference.revision.clone(),
            lock: reference.lock.clone(),
            compiler: reference.toolchain.commit.clone(),
            variant: reference.variant.clone(),
            outputs: BTreeMap::new(),
            reference: Some(reference),
        })
    }

    fn of_provenance(definition: &Value) -> Result<Self> {
        let text = |pointer: &str| {
            let found = definition.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
            found.with_context(|| format!("It has no {pointer}"))
        };
        Ok(Self {
            revision: text("/resolvedDependencies/0/digest/gitCommit")?,
            lock: text("/resolvedDependencies/1/digest/sha256")?,
            compiler: text("/resolvedDependencies/2/digest/gitCommit")?,
            variant: text("/externalParameters/variant")?,
            outputs: BTreeMap::new(),
            reference: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn provenance() -> Value {
        let dependency = |name: &str, kind: &str, digest: String| json!({"name": name, "digest": {kind: digest}});
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": PROVENANCE,
            "predicate": {"buildDefinition": {
                "externalParameters": {"variant": "debug"},
                "resolvedDependencies": [
                    dependency("sources", "gitCommit", "a".repeat(40)),
                    dependency("os/packages.lock", "sha256", "b".repeat(64)),
                    dependency("rustc", "gitCommit", "c".repeat(40)),
                ],
            }},
            "subject": OUTPUTS
                .iter()
                .map(|(suffix, _)| json!({"name": format!("cairn_1.{suffix}"), "digest": {"sha256": "d".repeat(64)}}))
                .chain([json!({"name": "tpm:pcr4@initrd", "digest": {"sha256": "f".repeat(64)}})])
                .collect::<Vec<_>>(),
        })
    }

    #[test]
    fn a_statement_is_read_alone_and_in_its_bundle() {
        let statement = provenance().to_string();
        let claim = Claim::read(statement.as_bytes()).unwrap();
        assert_eq!((claim.revision.as_str(), claim.variant.as_str()), (&*"a".repeat(40), "debug"));
        assert_eq!(claim.outputs.len(), OUTPUTS.len());
        let bundle = json!({"dsseEnvelope": {"payload": STANDARD.encode(&statement)}}).to_string();
        assert_eq!(Claim::read(bundle.as_bytes()).unwrap(), claim);
    }

    #[test]
    fn what_says_nothing_of_a_build_is_refused() {
        let change = |pointer: &str, new: Value| {
            let mut value = provenance();
            *value.pointer_mut(pointer).unwrap() = new;
            value.to_string()
        };
        let dependency = "/predicate/buildDefinition/resolvedDependencies/0/digest/gitCommit";
        for (text, words) in [
            (String::new(), "no JSON"),
            ("{}".into(), "no statement"),
            (change("/predicateType", "x".into()), "give a measured-boot"),
            (change("/predicateType", MEASURED_BOOT.into()), "no image reference"),
            (change("/subject", json!([])), "does not name the output .packages.json"),
            (change("/subject/6", json!({"name": "x", "digest": {}})), "does not name the output .raw"),
            (change("/subject/9/name", "another.raw".into()), "two outputs that end with .raw"),
            (change(dependency, "--upload-pack=x".into()), "no commit"),
            (change("/predicate/buildDefinition/externalParameters/variant", "../x".into()), "no variant"),
            (change("/predicate/buildDefinition/externalParameters/variant", "--out".into()), "no variant"),
            (change("/predicate/buildDefinition/externalParameters/variant", "".into()), "no variant"),
            (change("/predicate/buildDefinition/externalParameters", json!({})), "externalParameters"),
        ] {
            let error = format!("{:#}", Claim::read(text.as_bytes()).unwrap_err());
            assert!(error.contains(words), "{error}");
        }
    }
}
