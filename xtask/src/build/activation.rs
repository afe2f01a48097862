//! What the finished root can do on its own: services that are started on request, rules of udev, drop-ins, temporary files, hooks. `os/activation.toml` lists all of it, and the build fails where tree and list differ, in either direction.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cairn_image::tree::{Entry, Kind, Tree};
use serde::Deserialize;

use crate::config::read_toml;

/// Assignments of udev rules that start a program (udev(7)).
const UDEV_PROGRAMS: [&str; 4] = ["RUN", "RUN{program}", "PROGRAM", "IMPORT{program}"];
/// Assignments that start something that is built into udev, or load a module.
const UDEV_BUILTINS: [&str; 2] = ["RUN{builtin}", "IMPORT{builtin}"];

/// One kind of activation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kinds {
    /// Folders in which everything counts, with all below them. `*` is anything within one name.
    folders: Vec<String>,
    /// Only names that end so; all if none is named.
    #[serde(default)]
    endings: Vec<String>,
    /// Everything that may be there, as paths.
    files: BTreeSet<String>,
}

/// `os/activation.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// What rules of udev start.
    udev_programs: BTreeSet<String>,
    /// Kinds by their names.
    kinds: BTreeMap<String, Kinds>,
}

impl Activation {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        read_toml(path)
    }

    /// Fails with everything that differs. `more` are paths and programs that a profile adds.
    pub fn check(&self, tree: &Tree, more: &BTreeSet<String>) -> Result<()> {
        let mut differences = Vec::new();
        let mut compare = |kind: &str, found: &BTreeSet<String>, listed: &BTreeSet<String>| {
            let added = found.difference(listed).filter(|path| !more.contains(*path));
            differences.extend(added.map(|path| format!("{kind}: {path:?} is not listed")));
            differences
                .extend(listed.difference(found).map(|path| format!("{kind}: {path:?} is listed and not there")));
        };
        for (name, kind) in &self.kinds {
            compare(name, &kind.found(tree), &kind.files);
        }
        compare("udev_programs", &udev_programs(tree)?, &self.udev_programs);
        let forbidden = modprobe_commands(tree)?.into_iter();
        differences.extend(
            forbidden.map(|line| format!("modprobe_commands: {line:?} is not listed and cannot be: remove it")),
        );
        if differences.is_empty() {
            return Ok(());
        }
        bail!(
            "os/activation.toml does not say what the root can do on its own ({} differences); drop it in os/tree.toml, or list it:\n  {}",
            differences.len(),
            differences.join("\n  ")
        )
    }
}

impl Kinds {
    fn found(&self, tree: &Tree) -> BTreeSet<String> {
        let is_in = |path: &str| self.folders.iter().any(|folder| is_below(folder, path));
        let ends = |path: &str| self.endings.is_empty() || self.endings.iter().any(|ending| path.ends_with(ending));
        tree.iter()
            .filter(|(path, entry)| !entry.is_directory() && is_in(path) && ends(path))
            .map(|(path, _)| path.to_owned())
            .collect()
    }
}

/// Whether a path is a folder's, or below it.
fn is_below(folder: &str, path: &str) -> bool {
    let (mut parts, mut names) = (folder.split('/'), path.split('/'));
    loop {
        match (parts.next(), names.next()) {
            (None, _) => return true,
            (Some(_), None) => return false,
            (Some(part), Some(name)) => {
                let is_match = match part.split_once('*') {
                    Some((start, end)) => {
                        name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
                    }
                    None => part == name,
                };
                if !is_match {
                    return false;
                }
            }
        }
    }
}

/// First words of everything that rules start.
fn udev_programs(tree: &Tree) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (path, entry) in tree.iter().filter(|(path, _)| path.ends_with(".rules") && path.contains("udev/rules.d/")) {
        for rule in lines(path, entry)? {
            found.extend(started(&rule));
        }
    }
    Ok(found)
}

/// Lines of modprobe.d(5) that run a command where a module would be loaded or removed.
fn modprobe_commands(tree: &Tree) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (path, entry) in tree.iter().filter(|(path, _)| path.contains("modprobe.d/")) {
        let is_command = |line: &String| matches!(line.split_whitespace().next(), Some("install" | "remove"));
        found.extend(lines(path, entry)?.into_iter().filter(is_command).map(|line| format!("/{path}: {line}")));
    }
    Ok(found)
}

/// The lines of a file without comments; a backslash joins a line and the next. Other entries have none.
fn lines(path: &str, entry: &Entry) -> Result<Vec<String>> {
    let Kind::File { content, .. } = &entry.kind else { return Ok(vec![]) };
    let bytes = content.read().with_context(|| format!("Failed to read /{path}"))?;
    let text = String::from_utf8(bytes).with_context(|| format!("/{path} is not UTF-8"))?;
    let text = text.replace("\\\n", " ");
    Ok(text.lines().map(str::trim).filter(|line| !line.starts_with('#')).map(str::to_owned).collect())
}

/// `RUN+="/bin/x y"` starts `/bin/x`; `RUN{builtin}+="kmod load z"` starts `builtin kmod`.
fn started(rule: &str) -> impl Iterator<Item = String> + '_ {
    rule.split(',').filter_map(|assignment| {
        let (key, value) = assignment.split_once('=')?;
        let key = key.trim().trim_end_matches(['+', '-', ':', '=', '!']).trim();
        let word = value.trim_start_matches('=').trim().trim_matches('"').split_whitespace().next()?.to_owned();
        if UDEV_PROGRAMS.contains(&key) {
            Some(word)
        } else if UDEV_BUILTINS.contains(&key) {
            Some(format!("builtin {word}"))
        } else {
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let mut tree = Tree::new();
        for (path, text) in files {
            let mut at = String::new();
            for part in path.rsplit_once('/').map_or("", |(parent, _)| parent).split('/') {
                at = if at.is_empty() { part.to_owned() } else { format!("{at}/{part}") };
                tree.insert(&at, Entry::directory(0o755)).unwrap();
            }
            tree.insert(path, Entry::file(*text, 0o644)).unwrap();
        }
        tree
    }

    fn activation() -> Activation {
        let text = r#"
            udev_programs = ["/usr/bin/good", "builtin kmod"]
            [kinds.dbus]
            folders = ["usr/share/dbus-1/system-services"]
            files = ["usr/share/dbus-1/system-services/good.service"]
            [kinds.drop_ins]
            folders = ["etc/systemd/system/*.d", "usr/lib/systemd/system/*.d"]
            endings = [".conf"]
            files = []
            [kinds.network]
            folders = ["etc/systemd/network", "usr/lib/systemd/network"]
            files = []
            [kinds.name_services]
            folders = ["etc/nsswitch.conf", "usr/lib/*/libnss_*"]
            files = []
        "#;
        toml::from_str(text).unwrap()
    }

    const GOOD: [(&str, &str); 3] = [
        ("usr/share/dbus-1/system-services/good.service", "x"),
        (
            "usr/lib/udev/rules.d/50.rules",
            "# RUN+=\"/bin/comment\"\nACTION==\"add\", RUN+=\"/usr/bin/good a\", RUN{builtin}+=\"kmod load x\"\n",
        ),
        (
            "usr/lib/modprobe.d/50.conf",
            "# install x /bin/comment\nblacklist install\noptions remove a=1\nalias x install\n",
        ),
    ];

    #[test]
    fn what_is_listed_passes_and_each_difference_is_named() {
        let nothing = BTreeSet::new();
        activation().check(&tree(&GOOD), &nothing).unwrap();
        for (path, text, words) in [
            ("usr/share/dbus-1/system-services/evil.service", "x", "dbus"),
            ("usr/lib/systemd/system/good.service.d/evil.conf", "x", "drop_ins"),
            ("etc/systemd/system/x.d/evil.conf", "x", "drop_ins"),
            ("etc/systemd/network/1.network", "x", "network"),
            ("usr/lib/systemd/network/1.link", "x", "network"),
            ("usr/lib/systemd/network/1.network.d/evil.conf", "x", "network"),
            ("etc/nsswitch.conf", "hosts: evil", "name_services"),
            ("usr/lib/x86_64-linux-gnu/libnss_evil.so.2", "x", "name_services"),
            ("etc/modprobe.d/1.conf", "install x /bin/evil", "modprobe_commands: \"/etc/modprobe.d/1.conf: install x"),
            ("usr/lib/modprobe.d/50.conf", "alias a b\n \tremove\tx /bin/evil", "modprobe_commands"),
            ("usr/lib/modprobe.d/50.conf", "install\\\n  x /bin/evil", "modprobe_commands"),
            ("etc/udev/rules.d/1.rules", "SUBSYSTEM==\"block\", RUN+=\"/dev/vda\"", "udev_programs: \"/dev/vda\""),
            ("etc/udev/rules.d/1.rules", "IMPORT{program}=\"evil x\"", "udev_programs: \"evil\""),
            ("etc/udev/rules.d/1.rules", "A==\"b\", \\\n  PROGRAM==\"evil x\"", "udev_programs: \"evil\""),
            ("etc/udev/rules.d/1.rules", "IMPORT{builtin}=\"evil x\"", "udev_programs: \"builtin evil\""),
        ] {
            let changed = tree(&[&GOOD[..], &[(path, text)]].concat());
            let error = format!("{:#}", activation().check(&changed, &nothing).unwrap_err());
            assert!(error.contains(words) && error.contains("is not listed"), "{path}: {error}");
        }
        let error = activation().check(&tree(&GOOD[1..]), &nothing).unwrap_err().to_string();
        assert!(error.contains("is listed and not there"), "{error}");
        // A profile adds its own.
        let own = tree(&[&GOOD[..], &[("usr/share/dbus-1/system-services/own.service", "x")]].concat());
        activation().check(&own, &BTreeSet::from(["usr/share/dbus-1/system-services/own.service".into()])).unwrap();
    }
}
