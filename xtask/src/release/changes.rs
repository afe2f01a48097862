//! What changed between two releases: packages, files of the root, registers that follow from the image alone, sizes.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::differences::{self, Difference};
use super::page::values_of;
use crate::difference::{Outputs, files};
use crate::sandbox::Sandbox;

/// Something that is another one now; `null` where it was not there, or is there no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Before.
    pub from: Option<String>,
    /// What: a package, a path, a register, an output.
    pub name: String,
    /// Now.
    pub to: Option<String>,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changes {
    /// Text differences of changed files of the root, within limits.
    pub differences: Vec<Difference>,
    /// Files of the root: mode, owners, time, and digest or target.
    pub files: Vec<Change>,
    /// Packages: their versions.
    pub packages: Vec<Change>,
    /// Version of the release before.
    pub previous: String,
    /// Registers: SHA-256 values.
    pub registers: Vec<Change>,
    /// Outputs: bytes.
    pub sizes: Vec<Change>,
}

/// What changed between two releases.
pub fn between(sandbox: &Sandbox, old: &Outputs, new: &Outputs) -> Result<Changes> {
    let registers = |outputs: &Outputs| -> Result<BTreeMap<String, String>> {
        let values = values_of(outputs)?.into_iter();
        Ok(values.filter_map(|(name, digests)| Some((name, digests.get("sha256")?.clone()))).collect())
    };
    let files = differing(&files(sandbox, old, "root.erofs")?, &files(sandbox, new, "root.erofs")?);
    Ok(Changes {
        differences: differences::of(sandbox, old, new, &files)?,
        files,
        packages: differing(&packages(old)?, &packages(new)?),
        previous: old.document()?.version,
        registers: differing(&registers(old)?, &registers(new)?),
        sizes: differing(&sizes(old)?, &sizes(new)?),
    })
}

fn packages(outputs: &Outputs) -> Result<BTreeMap<String, String>> {
    let path = outputs.file("packages.json");
    let document: Value = serde_json::from_slice(&outputs.read("packages.json")?)
        .with_context(|| format!("{} is not understood", path.display()))?;
    let list = document["packages"].as_array().with_context(|| format!("{} has no packages", path.display()))?;
    let text = |package: &Value, field: &str| package[field].as_str().unwrap_or_default().to_owned();
    Ok(list.iter().map(|package| (text(package, "name"), text(package, "version"))).collect())
}

/// By suffix: names have the version.
fn sizes(outputs: &Outputs) -> Result<BTreeMap<String, String>> {
    let prefix = format!("{}.", outputs.name());
    let sizes = outputs.document()?.outputs.into_iter();
    Ok(sizes.map(|(name, output)| (name.trim_start_matches(&prefix).to_owned(), output.size.to_string())).collect())
}

fn differing(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Change> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let trimmed = |text: &String| text.trim().to_owned();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| Change { from: old.get(name).map(trimmed), name: name.clone(), to: new.get(name).map(trimmed) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_went_and_changed_is_listed_in_order() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, what)| ((*name).into(), (*what).into())).collect()
        };
        let found =
            differing(&map(&[("a", "1"), ("b", "1"), ("c", "1")]), &map(&[("b", "1"), ("c", "2 "), ("d", "1")]));
        let change = |from: Option<&str>, name: &str, to: Option<&str>| Change {
            from: from.map(str::to_owned),
            name: name.into(),
            to: to.map(str::to_owned),
        };
        let expected = [change(Some("1"), "a", None), change(Some("1"), "c", Some("2")), change(None, "d", Some("1"))];
        assert_eq!(found, expected);
    }
}
