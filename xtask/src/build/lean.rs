//! A root that no person logs in to has no programs for people: only those that `os/tree.toml` lists stay, and no script, because there is nothing to run one.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use cairn_image::tree::{Kind, Tree};

use crate::config::profile::ProfileConfig;
use crate::config::tree::Lean;

/// Where programs are.
const FOLDERS: [&str; 2] = ["usr/bin", "usr/sbin"];

/// Removes what only people use.
pub fn make(tree: &mut Tree, lean: &Lean, profile: &ProfileConfig) {
    for folder in FOLDERS {
        let names: Vec<String> = tree.names(folder).map(str::to_owned).collect();
        let stays = |name: &String| lean.programs.contains(name) || profile.programs.contains(name);
        for name in names.iter().filter(|name| !stays(name)) {
            tree.remove(&format!("{folder}/{name}"));
        }
    }
    for pattern in &lean.drop {
        tree.remove(pattern);
    }
}

/// Fails where something is left that would run a script or let somebody look around, and where a listed program is not there.
pub fn check(tree: &Tree, lean: &Lean, profile: &ProfileConfig) -> Result<()> {
    let mut findings = String::new();
    let mut add = |path: &str, what: &str| {
        // A string takes all that is written to it.
        let _ = write!(findings, "\n  /{path}: {what}");
    };
    for (path, entry) in tree.iter() {
        let name = path.rsplit('/').next().unwrap_or(path);
        let runs = matches!(entry.kind, Kind::Symlink(_)) || entry.mode & 0o111 != 0;
        if !entry.is_directory() && runs && lean.denied.iter().any(|denied| denied == name) {
            add(path, "nobody runs it here: drop it in os/tree.toml");
        }
        if let Kind::File { content, .. } = &entry.kind {
            let bytes = content.read().with_context(|| format!("Failed to read /{path}"))?;
            if bytes.starts_with(b"#!") {
                add(path, "a script, and nothing to run it with: drop it in os/tree.toml");
            }
        }
    }
    for (list, programs) in [("os/tree.toml", &lean.programs), ("profile.toml", &profile.programs)] {
        for program in programs {
            if !FOLDERS.iter().any(|folder| tree.get(&format!("{folder}/{program}")).is_some()) {
                add(program, &format!("listed in {list}, and not there"));
            }
        }
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("The root has what is for people, or lacks what it needs:{findings}")
}

#[cfg(test)]
mod tests {
    use cairn_image::tree::Entry;

    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::new();
        for folder in ["usr", "usr/bin", "usr/sbin", "usr/lib"] {
            tree.insert(folder, Entry::directory(0o755)).unwrap();
        }
        for (path, text) in
            [("usr/bin/good", "ELF"), ("usr/bin/dash", "ELF"), ("usr/sbin/own", "ELF"), ("usr/lib/x", "#!/bin/sh")]
        {
            tree.insert(path, Entry::file(text, 0o755)).unwrap();
        }
        tree.insert("usr/bin/sh", Entry::symlink("dash")).unwrap();
        tree
    }

    fn lean() -> Lean {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Lean { programs: list(&["good"]), drop: list(&["usr/lib/x"]), denied: list(&["sh", "dash"]) }
    }

    #[test]
    fn only_listed_programs_stay() {
        let mut tree = tree();
        make(&mut tree, &lean(), &ProfileConfig::default());
        assert_eq!(tree.names("usr/bin").collect::<Vec<_>>(), ["good"]);
        assert_eq!(tree.names("usr/sbin").count() + tree.names("usr/lib").count(), 0);
        check(&tree, &lean(), &ProfileConfig::default()).unwrap();
        let mut tree = self::tree();
        let profile = ProfileConfig { programs: vec!["own".into()], ..ProfileConfig::default() };
        make(&mut tree, &lean(), &profile);
        assert_eq!(tree.names("usr/sbin").collect::<Vec<_>>(), ["own"]);
        check(&tree, &lean(), &profile).unwrap();
        tree.remove("usr/sbin/own");
        assert!(check(&tree, &lean(), &profile).unwrap_err().to_string().contains("own: listed in profile.toml"));
    }

    #[test]
    fn shells_and_scripts_and_missing_programs_are_found() {
        let error = check(&tree(), &lean(), &ProfileConfig::default()).unwrap_err().to_string();
        for words in ["/usr/bin/sh: nobody", "/usr/bin/dash: nobody", "/usr/lib/x: a script"] {
            assert!(error.contains(words), "{error}");
        }
        let mut tree = tree();
        make(&mut tree, &lean(), &ProfileConfig::default());
        tree.remove("usr/bin/good");
        assert!(check(&tree, &lean(), &ProfileConfig::default()).unwrap_err().to_string().contains("good: listed"));
    }
}
