//! What the end-to-end tests are made of: the images under test, copies of them with one thing changed, machines that are watched until there is a
//! verdict, and a small model of the registers, written apart from the build so that both must be right.

pub mod attacks;
pub mod attester;
pub mod broker;
pub mod disk;
pub mod environment;
pub mod erofs;
pub mod event_log;
pub mod formats;
pub mod harness;
pub mod how_to;
pub mod image;
pub mod luks;
pub mod lying_broker;
pub mod machine;
pub mod mirror;
pub mod newer;
pub mod node;
pub mod npm_verifier;
pub mod oci;
pub mod pe;
pub mod printed;
pub mod records;
pub mod registers;
pub mod settled;
pub mod sources;
pub mod suite;
pub mod uki;
pub mod usage;
pub mod variables;
pub mod watch;
pub mod workshop;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    fn checkout() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
    }

    pub(crate) fn sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => sources(&path, text),
                path => *text += &fs::read_to_string(path).unwrap(),
            }
        }
    }

    /// Functions of unit tests beside the code.
    fn unit_tests() -> String {
        let mut code = String::new();
        for folder in [
            "crates",
            "key-broker/src",
            "initrd-agent/src",
            "node-attestation/src",
            "tests/tests",
            "tests/src",
            "cairn/src",
            "cairn/tests",
            "key-broker/tests",
            "publisher/tests",
            "xtask/src",
        ] {
            rust_sources(&checkout().join(folder), &mut code);
        }
        code
    }

    fn rust_sources(folder: &Path, text: &mut String) {
        for entry in fs::read_dir(folder).unwrap().flatten() {
            match entry.path() {
                path if path.is_dir() => rust_sources(&path, text),
                path if path.extension().is_some_and(|extension| extension == "rs") => {
                    *text += &fs::read_to_string(path).unwrap();
                }
                _ => {}
            }
        }
    }

    /// Words in backquotes with so many underscores are names of rows or of unit tests.
    fn rows(document: &str) -> Vec<&str> {
        document
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.matches('_').count() > 3 && word.to_lowercase() == *word)
            .collect()
    }

    #[test]
    fn every_row_that_a_document_names_exists() {
        let mut code = String::new();
        sources(&checkout().join("tests/tests"), &mut code);
        let units = unit_tests();
        for document in ["docs/host-inputs.md", "docs/threat-model.md"] {
            let text = fs::read_to_string(checkout().join(document)).unwrap();
            let named = rows(&text);
            assert!(named.len() > 20, "{document}: {named:?}");
            for name in &named {
                let is_row = code.contains(&format!("\"{name}\""));
                let is_unit = units.contains(&format!("#[test]\n    fn {name}()"))
                    || units.contains(&format!("#[test]\nfn {name}()"));
                assert!(is_row || is_unit, "{document}: {name} is not a test");
            }
        }
    }

    #[test]
    fn every_row_on_host_inputs_is_named() {
        let document = fs::read_to_string(checkout().join("docs/host-inputs.md")).unwrap();
        let inputs = fs::read_to_string(checkout().join("tests/tests/vm/host_inputs.rs")).unwrap();
        let all = inputs.split("Row::new(\"").skip(1).filter_map(|rest| rest.split('"').next());
        for row in all {
            assert!(document.contains(row), "docs/host-inputs.md does not name {row}");
        }
    }
}
