//! The rows of `tests/mutants.toml`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::checkout::Checkout;

/// Path of the table in the checkout.
pub(super) const TABLE: &str = "tests/mutants.toml";

/// All rows.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub mutant: Vec<Mutant>,
}

/// One change, and the tests that must fail with it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mutant {
    /// The check that is taken out.
    pub name: String,
    /// Path in the checkout.
    pub file: PathBuf,
    /// Text that is in the file once.
    pub find: String,
    /// Its replacement.
    pub replace: String,
    /// The package whose tests fail; without it, rows of the suite `broker` do.
    pub package: Option<String>,
    /// Each of them must fail.
    pub tests: Vec<String>,
    /// Whether the row is part of CI.
    #[serde(default)]
    pub ci: bool,
    /// Without this check the tests do not end: their time limit is the failure.
    #[serde(default)]
    pub hangs: bool,
}

impl Table {
    pub fn read(checkout: &Checkout) -> Result<Self> {
        let path = checkout.join(TABLE);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// That its tests fail is what `cargo xtask mutants` shows.
    #[test]
    fn every_row_of_the_table_has_its_place_once() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let table = Table::read(&Checkout::at(root)).unwrap();
        let names: BTreeSet<&str> = table.mutant.iter().map(|mutant| mutant.name.as_str()).collect();
        assert_eq!(names.len(), table.mutant.len(), "a name is in the table twice");
        for mutant in &table.mutant {
            let text = fs::read_to_string(root.join(&mutant.file)).unwrap();
            assert_eq!(text.matches(&mutant.find).count(), 1, "{}", mutant.name);
            assert!(!mutant.tests.is_empty() && mutant.find != mutant.replace, "{}", mutant.name);
        }
    }
}
