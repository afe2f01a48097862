//! The check that each unit of a profile can start: something enables it, it is defined, and the programs and accounts that it names are in the root.
//! Without it these mistakes would be seen at boot only, on a machine that nobody logs in to.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use cairn_image::tree::{Kind, Tree};

use super::ways_in::{UNIT_FOLDERS, template_of};

/// Directories of programs that are named without one (systemd.service(5)).
const PROGRAMS: [&str; 2] = ["usr/bin", "usr/sbin"];
/// Settings that start a program before a service counts as started.
const STARTS: [&str; 3] = ["ExecStart", "ExecStartPre", "ExecCondition"];

/// Fails with all that is missing for `units`.
pub fn check(tree: &Tree, units: &[String]) -> Result<()> {
    let mut missing = Vec::new();
    let (users, groups) = (accounts(tree, "etc/passwd")?, accounts(tree, "etc/group")?);
    for unit in units {
        if !is_enabled(tree, unit) {
            missing.push(format!(
                "{unit} is in `units`, and nothing enables it: link it in root/etc/systemd/system/multi-user.target.wants"
            ));
        }
        let Some(text) = definition(tree, unit)? else {
            missing.push(format!("{unit} is in `units`, and no file defines it: check its name"));
            continue;
        };
        for (key, value) in settings(&text) {
            if STARTS.contains(&key) {
                if let Some(program) = program(value).filter(|program| !is_there(tree, program)) {
                    missing.push(format!(
                        "{unit} starts {program}, which is not in the root: add its name to `programs` of profile.toml, or its package to mkosi.conf"
                    ));
                }
            } else if let Some(known) = [("User", &users), ("Group", &groups)].iter().find(|(name, _)| *name == key) {
                let is_known = value.is_empty()
                    || value.contains('%')
                    || value.bytes().all(|byte| byte.is_ascii_digit())
                    || known.1.contains(value)
                    || settings(&text).any(|setting| setting == ("DynamicUser", "yes"));
                if !is_known {
                    missing.push(format!(
                        "{unit} runs as {value}, which is no account of the root: add it to root/etc/passwd, group, shadow and gshadow of the profile"
                    ));
                }
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    bail!("cannot start the units of the profile:\n  {}\nhint: see docs/profiles.md", missing.join("\n  "))
}

/// Whether a target or another unit pulls it in.
fn is_enabled(tree: &Tree, unit: &str) -> bool {
    let pulls = |name: &&str| [".wants", ".requires", ".upholds"].iter().any(|ending| name.ends_with(ending));
    UNIT_FOLDERS.iter().any(|folder| {
        tree.names(folder).filter(pulls).any(|target| tree.get(&format!("{folder}/{target}/{unit}")).is_some())
    })
}

/// The text of the unit, or of its template.
fn definition(tree: &Tree, unit: &str) -> Result<Option<String>> {
    for name in [unit, &template_of(unit)] {
        for folder in UNIT_FOLDERS {
            let path = format!("{folder}/{name}");
            if let Some(Kind::File { content, .. }) = tree.get(&path).map(|entry| &entry.kind) {
                let bytes = content.read().with_context(|| format!("Failed to read /{path}"))?;
                return Ok(Some(String::from_utf8_lossy(&bytes).replace("\\\n", " ")));
            }
        }
    }
    Ok(None)
}

/// Settings of a unit in order, without its sections.
fn settings(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '[']));
    lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.trim(), value.trim()))
}

/// The program of a command line, unless `-` says that it may fail or a specifier is part of its name.
fn program(value: &str) -> Option<&str> {
    let command = value.trim_start_matches(['@', ':', '+', '!', '|']);
    let word = command.split_whitespace().next()?.trim_matches('"');
    (!word.starts_with('-') && !word.contains('%')).then_some(word)
}

/// Whether a program is in the tree; `/bin`, `/sbin` and `/lib` are links to those of `/usr`.
fn is_there(tree: &Tree, program: &str) -> bool {
    match program.strip_prefix('/') {
        Some(path) => tree.get(path).is_some() || tree.get(&format!("usr/{path}")).is_some(),
        None => PROGRAMS.iter().any(|folder| tree.get(&format!("{folder}/{program}")).is_some()),
    }
}

fn accounts(tree: &Tree, path: &str) -> Result<BTreeSet<String>> {
    let Some(Kind::File { content, .. }) = tree.get(path).map(|entry| &entry.kind) else { return Ok(BTreeSet::new()) };
    let bytes = content.read().with_context(|| format!("Failed to read /{path}"))?;
    Ok(String::from_utf8_lossy(&bytes).lines().filter_map(|line| line.split(':').next()).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use cairn_image::tree::Entry;

    use super::*;

    const WANTS: &str = "etc/systemd/system/multi-user.target.wants/web.service";
    const UNIT: &str = "usr/lib/systemd/system/web.service";
    const GOOD: &str = "[Service]\nExecStartPre=-/usr/bin/absent\nExecStart=@/sbin/web web -g \\\n 'x'\nExecStart=tool\nExecStop=/usr/bin/absent\nUser=www-data\nGroup=4\n";

    fn tree(unit: &str) -> Tree {
        let mut tree = Tree::new();
        for (path, entry) in [
            ("etc/passwd", Entry::file("root:x:0:\nwww-data:x:33:\n", 0o644)),
            ("etc/group", Entry::file("root:x:0:\n", 0o644)),
            ("usr/sbin/web", Entry::file("ELF", 0o755)),
            ("usr/bin/tool", Entry::symlink("other")),
            (UNIT, Entry::file(unit, 0o644)),
            ("etc/systemd/system/multi-user.target.wants", Entry::directory(0o755)),
            (WANTS, Entry::symlink("/usr/lib/systemd/system/web.service")),
        ] {
            tree.insert(path, entry).unwrap();
        }
        tree
    }

    fn error(tree: &Tree) -> String {
        check(tree, &["web.service".into()]).unwrap_err().to_string()
    }

    #[test]
    fn unit_that_nothing_enables_or_defines_is_named() {
        check(&tree(GOOD), &["web.service".into()]).unwrap();
        let mut without = tree(GOOD);
        without.remove(WANTS);
        assert!(error(&without).contains("web.service is in `units`, and nothing enables it"));
        let mut without = tree(GOOD);
        without.remove(UNIT);
        assert!(error(&without).contains("no file defines it"));
        let masked = {
            let mut tree = tree(GOOD);
            tree.insert(UNIT, Entry::symlink("/dev/null")).unwrap();
            tree
        };
        assert!(error(&masked).contains("no file defines it"));
    }

    #[test]
    fn program_and_account_that_are_not_in_the_root_are_named() {
        for (line, words) in [
            ("ExecStart=/usr/sbin/other -x", "starts /usr/sbin/other"),
            ("ExecStartPre=!other", "starts other"),
            ("User=web", "runs as web"),
            ("Group=web", "runs as web"),
        ] {
            let error = error(&tree(&format!("{GOOD}{line}\n")));
            assert!(error.contains(words) && error.contains("hint: "), "{line}: {error}");
        }
        for line in ["DynamicUser=yes\nUser=web", "User=%i", "ExecStart=-/usr/bin/absent", "ExecStart=/usr/bin/%i"] {
            check(&tree(&format!("{GOOD}{line}\n")), &["web.service".into()]).unwrap();
        }
    }
}
