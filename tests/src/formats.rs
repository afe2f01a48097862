//! The JSON schemas of `docs/formats`.

use std::fs;

use anyhow::{Context, Result, anyhow, ensure};
use jsonschema::Validator;
use serde_json::Value;

use crate::machine::checkout;

/// A schema.
pub struct Schema(Validator);

impl Schema {
    /// Reads `docs/formats/<name>.schema.json`.
    pub fn get(name: &str) -> Result<Self> {
        let path = checkout()?.join("docs/formats").join(format!("{name}.schema.json"));
        let bytes = fs::read(&path).with_context(|| format!("Failed to read {}", path.display()))?;
        let schema: Value = serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?;
        let validator = jsonschema::validator_for(&schema).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok(Self(validator))
    }

    /// That a document keeps to it.
    pub fn check(&self, document: &Value) -> Result<()> {
        let problems: Vec<String> = self
            .0
            .iter_errors(document)
            .take(3)
            .map(|error| {
                format!("{}: {}", error.instance_path, error.to_string().chars().take(200).collect::<String>())
            })
            .collect();
        ensure!(problems.is_empty(), "{}", problems.join("; "));
        Ok(())
    }
}
