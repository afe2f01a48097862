//! The units that can start without a request of a person: those that systemd starts itself, those that a rule of udev or a service of D-Bus names, and all that follow from them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use cairn_image::tree::{Entry, Kind, Tree};

use super::{text, udev};

/// Where units are, in the order in which systemd takes the first one (systemd.unit(5)).
const FOLDERS: [&str; 5] = [
    "etc/systemd/system.control",
    "etc/systemd/system",
    "etc/systemd/system.attached",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
];
/// Where services of D-Bus name units.
const DBUS_FOLDERS: [&str; 3] =
    ["usr/share/dbus-1/system-services/", "usr/lib/dbus-1/system-services/", "etc/dbus-1/system-services/"];
/// Units that systemd and systemd-logind start by their names (systemd.special(7), `*Action=` of systemd.unit(5), logind.conf(5)).
const BY_NAME: [&str; 22] = [
    "autovt@.service",
    "basic.target",
    "ctrl-alt-del.target",
    "dbus.service",
    "dbus.socket",
    "default.target",
    "emergency.target",
    "exit.target",
    "factory-reset.target",
    "halt.target",
    "kbrequest.target",
    "kexec.target",
    "poweroff.target",
    "reboot.target",
    "rescue.target",
    "shutdown.target",
    "sigpwr.target",
    "soft-reboot.target",
    "suspend.target",
    "sysinit.target",
    "user-runtime-dir@.service",
    "user@.service",
];
/// Options whose value names units that start with, after, or instead of this one.
const OPTIONS: [&str; 13] = [
    "BindTo",
    "BindsTo",
    "OnFailure",
    "OnSuccess",
    "PropagatesStopTo",
    "Requires",
    "Requisite",
    "Service",
    "Slice",
    "Sockets",
    "Unit",
    "Upholds",
    "Wants",
];
/// Options whose value names paths whose mount units start.
const MOUNT_OPTIONS: [&str; 2] = ["RequiresMountsFor", "WantsMountsFor"];
/// Folders beside a unit whose names are dependencies.
const DEPENDENCIES: [&str; 3] = ["wants", "requires", "upholds"];

/// Each unit that can start, with the reason. Units without a file, and masked ones, are left out.
pub fn found(tree: &Tree) -> Result<BTreeMap<String, String>> {
    let aliases = aliases(tree);
    let mut queue: Vec<(String, String)> =
        BY_NAME.iter().map(|name| (name.to_string(), "by its name".into())).collect();
    queue.extend(udev::wanted_units(tree)?.into_iter().map(|name| (name, "a rule of udev".into())));
    for (path, entry) in tree.iter().filter(|(path, _)| DBUS_FOLDERS.iter().any(|folder| path.starts_with(folder))) {
        let lines = text::unit_lines(&text::read(tree, path, entry)?);
        let services = lines.iter().filter_map(|line| option(line)).filter(|(key, _)| *key == "SystemdService");
        queue.extend(services.map(|(_, name)| (name.to_owned(), format!("/{path}"))));
    }
    let mut found = BTreeMap::new();
    while let Some((name, reason)) = queue.pop() {
        let name = without_placeholder(&name);
        if found.contains_key(&name) || !can_start(tree, &name) {
            continue;
        }
        for (next, reason) in following(tree, &name, &aliases)? {
            queue.push((next, reason));
        }
        found.insert(name, reason);
    }
    Ok(found)
}

/// Names that are links to another unit, by that one's name.
fn aliases(tree: &Tree) -> BTreeMap<String, BTreeSet<String>> {
    let mut aliases: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for folder in FOLDERS {
        for name in tree.names(folder) {
            if let Some(Kind::Symlink(target)) = tree.get(&format!("{folder}/{name}")).map(|entry| &entry.kind) {
                aliases.entry(last_name(target).to_owned()).or_default().insert(name.to_owned());
            }
        }
    }
    aliases
}

/// The file of a unit, or of its template.
fn file_of<'a>(tree: &'a Tree, name: &str) -> Option<(String, &'a Entry)> {
    names_of(name).into_iter().find_map(|name| {
        FOLDERS.iter().find_map(|folder| {
            let path = format!("{folder}/{name}");
            tree.get(&path).filter(|entry| !entry.is_directory()).map(|entry| (path, entry))
        })
    })
}

/// Paths of the texts of a unit in the order in which systemd applies them: its file, then its drop-ins by their file names, of which the first folder
/// with a name counts. A unit that is a link is its target, with the drop-ins of both names.
pub fn texts(tree: &Tree, name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let mut texts = Vec::new();
    while let Some((path, entry)) = names.last().and_then(|name| file_of(tree, name)) {
        let is_outside = matches!(text::target(tree, &path, entry), text::Target::Outside);
        match &entry.kind {
            Kind::Symlink(target) if !is_outside && !names.iter().any(|name| name == last_name(target)) => {
                names.push(last_name(target).to_owned());
            }
            _ => {
                texts.push(path);
                break;
            }
        }
    }
    let aliases = aliases(tree);
    let other = names.iter().flat_map(|name| names_of(name)).filter_map(|name| aliases.get(&name)).flatten();
    let all: Vec<&String> = names.iter().chain(other).collect();
    let mut drop_ins: BTreeMap<String, String> = BTreeMap::new();
    for drop_in_folder in all.iter().flat_map(|name| drop_in_folders(name)) {
        for folder in FOLDERS.map(|folder| format!("{folder}/{drop_in_folder}")) {
            for file in tree.names(&folder).filter(|file| file.ends_with(".conf")) {
                drop_ins.entry(file.to_owned()).or_insert_with(|| format!("{folder}/{file}"));
            }
        }
    }
    texts.extend(drop_ins.into_values());
    texts
}

fn can_start(tree: &Tree, name: &str) -> bool {
    file_of(tree, name).is_some_and(|(_, entry)| match &entry.kind {
        Kind::Symlink(target) => target != "/dev/null",
        Kind::File { content, .. } => !content.is_empty(),
        Kind::Directory => false,
    })
}

/// Everything that can start because `name` does.
fn following(tree: &Tree, name: &str, aliases: &BTreeMap<String, BTreeSet<String>>) -> Result<Vec<(String, String)>> {
    let mut next: Vec<(String, String)> = implied(name).into_iter().map(|unit| (unit, name.to_owned())).collect();
    let mut files = Vec::new();
    if let Some((path, entry)) = file_of(tree, name) {
        match &entry.kind {
            Kind::Symlink(target) => next.push((last_name(target).to_owned(), format!("/{path}"))),
            _ => files.push((path, entry)),
        }
    }
    let other = names_of(name).into_iter().filter_map(|name| aliases.get(&name)).flatten();
    next.extend(other.map(|alias| (alias.clone(), format!("a name of {name}"))));
    for folder in FOLDERS {
        for unit in names_of(name) {
            for kind in DEPENDENCIES {
                let folder = format!("{folder}/{unit}.{kind}");
                next.extend(tree.names(&folder).map(|unit| (unit.to_owned(), format!("/{folder}"))));
            }
        }
        for drop_ins in drop_in_folders(name) {
            let folder = format!("{folder}/{drop_ins}");
            for path in tree.names(&folder).map(|name| format!("{folder}/{name}")) {
                files.extend(tree.get(&path).map(|entry| (path.clone(), entry)));
            }
        }
    }
    for (path, entry) in files {
        for line in text::unit_lines(&text::read(tree, &path, entry)?) {
            let Some((key, value)) = option(&line) else { continue };
            let words = value.split_whitespace();
            if OPTIONS.contains(&key) {
                next.extend(words.map(|unit| (unit.to_owned(), format!("{key}= of /{path}"))));
            } else if MOUNT_OPTIONS.contains(&key) {
                next.extend(words.flat_map(mounts).map(|unit| (unit, format!("{key}= of /{path}"))));
            }
        }
    }
    Ok(next)
}

/// Units that a unit starts without naming them.
fn implied(name: &str) -> Vec<String> {
    let Some((stem, kind)) = name.rsplit_once('.') else { return vec![] };
    match kind {
        "socket" if !stem.contains('@') => vec![format!("{stem}.service"), format!("{stem}@.service")],
        "socket" | "timer" | "path" => vec![format!("{stem}.service")],
        "automount" => vec![format!("{stem}.mount")],
        "slice" => stem.rsplit_once('-').map(|(parent, _)| format!("{parent}.slice")).into_iter().collect(),
        _ => vec![],
    }
}

/// Mount units of a path and of those above it, as systemd names them.
fn mounts(path: &str) -> Vec<String> {
    let parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty()).map(|part| part.replace('-', "\\x2d")).collect();
    (1..=parts.len()).map(|count| format!("{}.mount", parts[..count].join("-"))).collect()
}

/// `a@b.service` is read from its own files and from those of `a@.service`.
fn names_of(name: &str) -> Vec<String> {
    let template = match (name.find('@'), name.rfind('.')) {
        (Some(at), Some(dot)) if at + 1 < dot => Some(format!("{}{}", &name[..=at], &name[dot..])),
        _ => None,
    };
    [Some(name.to_owned()), template].into_iter().flatten().collect()
}

/// The template where the name of the instance is known only when the unit starts: `%i` of systemd, `$name` of udev.
fn without_placeholder(name: &str) -> String {
    match names_of(name).as_slice() {
        [_, template] if name.contains(['%', '$']) => template.clone(),
        _ => name.to_owned(),
    }
}

/// `a-b.service` has drop-ins in `a-b.service.d`, `a-.service.d` and `service.d`.
fn drop_in_folders(name: &str) -> Vec<String> {
    let mut folders = Vec::new();
    for name in names_of(name) {
        let Some((stem, kind)) = name.rsplit_once('.') else { continue };
        folders.push(format!("{name}.d"));
        folders.extend(stem.match_indices('-').map(|(dash, _)| format!("{}.{kind}.d", &stem[..=dash])));
        folders.push(format!("{kind}.d"));
    }
    folders
}

/// Key and value of a line.
pub fn option(line: &str) -> Option<(&str, &str)> {
    line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))
}

fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    fn names(files: &[(&str, &str)]) -> Vec<String> {
        found(&tree(files)).unwrap().into_keys().collect()
    }

    #[test]
    fn units_follow_by_every_option_folder_name_and_request() {
        const DEFAULT: (&str, &str) = ("etc/systemd/system/default.target", "-> /usr/lib/systemd/system/own.target");
        const OWN: (&str, &str) = ("usr/lib/systemd/system/own.target", "[Unit]\nWants=first.service\n");
        const EVIL: (&str, &str) = ("usr/lib/systemd/system/evil.service", "[Service]\n");
        const FIRST: (&str, &str) = ("usr/lib/systemd/system/first.service", "[Service]\n");
        let plain = [DEFAULT, OWN, FIRST, EVIL];
        assert_eq!(names(&plain), ["default.target", "first.service", "own.target"], "evil.service is not asked for");
        for option in OPTIONS {
            let text = format!("[Unit]\nAfter=x\n {option} = x.device \\\n# comment \\\n  evil.service\n");
            for path in [
                "usr/lib/systemd/system/first.service",
                "etc/systemd/system/first.service",
                "etc/systemd/system.control/first.service",
                "usr/local/lib/systemd/system/first.service",
                "usr/lib/systemd/system/first.service.d/1.conf",
                "etc/systemd/system/service.d/1.conf",
            ] {
                let found = names(&[&plain[..], &[(path, &text)]].concat());
                assert!(found.contains(&"evil.service".to_owned()), "{option} in {path}: {found:?}");
            }
        }
        for (path, text) in [
            ("etc/systemd/system/default.target", "-> /usr/lib/systemd/system/evil.service"),
            ("etc/systemd/system/first.service.wants/evil.service", "-> ../evil.service"),
            ("etc/systemd/system/own.target.requires/evil.service", "-> ../evil.service"),
            ("usr/lib/systemd/system/own.target.upholds/evil.service", "-> ../evil.service"),
            ("etc/udev/rules.d/1.rules", "A==\"b\" ENV{SYSTEMD_WANTS}+=\"x.target evil.service\""),
            ("usr/share/dbus-1/system-services/a.service", "[D-BUS Service]\nSystemdService=evil.service\n"),
            ("usr/lib/systemd/system/own.target", "[Unit]\nWants=evil.timer\n"),
            ("usr/lib/systemd/system/own.target", "[Unit]\nWants=evil.socket\n"),
            ("usr/lib/systemd/system/autovt@.service", "-> evil.service"),
            ("usr/lib/systemd/system/emergency.target", "[Unit]\nRequires=evil.service\n"),
        ] {
            let more =
                [(path, text), ("usr/lib/systemd/system/evil.timer", "x"), ("usr/lib/systemd/system/evil.socket", "x")];
            let found = names(&[&plain[..], &more].concat());
            assert!(found.contains(&"evil.service".to_owned()), "{path}: {found:?}");
            let masked = ("etc/systemd/system/evil.service", "-> /dev/null");
            let found = names(&[&plain[..], &more, &[masked]].concat());
            assert!(!found.contains(&"evil.service".to_owned()), "{path}, masked: {found:?}");
        }
        // Another name of the target has folders of its own, and a template is read for its instances.
        let more = [
            ("usr/lib/systemd/system/other.target", "-> own.target"),
            ("etc/systemd/system/other.target.wants/a@b.service", "-> x"),
            ("usr/lib/systemd/system/a@.service", "[Unit]\nRequiresMountsFor=/a-b/c\nWants=c@%i.service\n"),
            ("usr/lib/systemd/system/c@.service", "x"),
            ("usr/lib/systemd/system/a\\x2db.mount", "x"),
        ];
        let found = names(&[&plain[..], &more].concat());
        let expected = [
            "a@b.service",
            "a\\x2db.mount",
            "c@.service",
            "default.target",
            "first.service",
            "other.target",
            "own.target",
        ];
        assert_eq!(found, expected);
    }
}
