//! The package lists in mkosi's configuration format: section `[Content]`, key `Packages=`.
//!
//! mkosi reads the file itself when it builds; the resolver needs the same list beforehand. Values may be separated by
//! commas or white space and continue on indented lines (mkosi.1, "CONFIGURATION SETTINGS"). Any other key is refused:
//! the file says which packages, and nothing else.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The packages that the file at `path` lists.
pub fn packages(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("Failed to read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is not a list of packages", path.display()))
}

fn parse(text: &str) -> Result<Vec<String>> {
    let (mut section, mut in_packages, mut found) = (String::new(), false, Vec::new());
    for line in text.lines() {
        let content = line.trim();
        if content.is_empty() || content.starts_with(['#', ';']) {
            continue;
        }
        let value = if line.starts_with([' ', '\t']) {
            ensure!(in_packages, "the line {content:?} continues nothing");
            content
        } else if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            (section, in_packages) = (name.to_owned(), false);
            continue;
        } else {
            match content.split_once('=').map(|(key, value)| (key.trim(), value)) {
                Some(("Packages", value)) if section == "Content" => value,
                _ => bail!("the line {content:?} is not allowed: only Packages= in [Content] is"),
            }
        };
        in_packages = true;
        found.extend(value.split([',', ' ', '\t']).filter(|name| !name.is_empty()).map(str::to_owned));
    }
    for name in &found {
        let valid = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
        ensure!(valid && name.len() > 1, "{name:?} is not a package name");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_blanks_and_lines_separate_packages() {
        let text = "# why\n[Content]\nPackages=a1,b2 c3\n  d4\n  # note\n\te5,\n";
        assert_eq!(parse(text).unwrap(), ["a1", "b2", "c3", "d4", "e5"]);
    }

    #[test]
    fn anything_but_packages_is_refused() {
        for text in [
            "Packages=a1",
            "[Content]\nBootable=no",
            "[Output]\nPackages=a1",
            "[Content]\n  a1",
            "[Content]\nPackages=?essential",
            "[Content]\nPackages=A1",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
