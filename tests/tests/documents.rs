//! Every document that is kept in the repository keeps to its schema in `docs/formats`, and what `cairn` prints does, too. That the schemas can refuse is tested beside each.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use cairn_tests::formats::Schema;
use serde_json::Value;

fn checkout() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn every_machine_reference_keeps_to_its_schema() {
    let schema = Schema::get("machine").unwrap();
    let machines = std::fs::read_dir(checkout().join("measurements/machines")).unwrap();
    let paths = machines.map(|entry| entry.unwrap().path());
    let paths: Vec<PathBuf> = paths.filter(|path| path.to_string_lossy().ends_with(".machine.json")).collect();
    assert!(paths.len() > 8, "{paths:?}");
    for path in paths {
        let good = json(&path);
        schema.check(&good).unwrap_or_else(|problem| panic!("{}: {problem}", path.display()));
        for (field, value) in [("boot", Value::from("floppy")), ("unknown", Value::from(1)), ("events", Value::from(1))]
        {
            let mut bad = good.clone();
            bad[field] = value;
            assert!(schema.check(&bad).is_err(), "{field} of {}", path.display());
        }
    }
}

#[test]
fn every_schema_is_listed_and_refuses_what_is_no_document() {
    let folder = checkout().join("docs/formats");
    let list = std::fs::read_to_string(folder.join("README.md")).unwrap();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(name) = name.strip_suffix(".schema.json") else { continue };
        assert!(list.contains(&format!("[`{name}`]({name}.schema.json)")), "{name} is not listed");
        assert!(Schema::get(name).unwrap().check(&serde_json::json!({})).is_err(), "{name}");
    }
}
