//! Units that would give a program a place where it can write and execute. Everything beside the root is mounted without execution, and systemd mounts
//! file systems of its own for one service (systemd.exec(5)): those that have no `noexec` are refused here, with the unit's drop-ins applied.

use std::collections::BTreeMap;

use anyhow::Result;
use cairn_image::tree::Tree;

use super::{text, units};

/// Values of a boolean of systemd.
const TRUE: [&str; 5] = ["1", "yes", "y", "true", "on"];
const FALSE: [&str; 5] = ["0", "no", "n", "false", "off"];
/// Settings that give back execution, or that mount an image beside the root, with execution.
const FORBIDDEN: [&str; 6] =
    ["ExecPaths", "ExtensionDirectories", "ExtensionImages", "MountImages", "RootDirectory", "RootImage"];

/// Findings by unit, for each unit that can start.
pub fn found(tree: &Tree) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in units::found(tree)?.keys() {
        let is_outside = |path: &String| {
            tree.get(path).is_some_and(|entry| matches!(text::target(tree, path, entry), text::Target::Outside))
        };
        for path in units::texts(tree, name).iter().filter(|path| is_outside(path)) {
            found.push(format!(
                "execution: {name}: /{path} is a link that leads out of the root: put the file in its place"
            ));
        }
        let settings = settings(tree, name)?;
        found.extend(faults(name, &settings).into_iter().map(|fault| format!("execution: {name}: {fault}")));
    }
    Ok(found)
}

/// All values of each setting in order, those of drop-ins last. An empty value removes those before it.
fn settings(tree: &Tree, name: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut settings: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for path in units::texts(tree, name) {
        let Some(entry) = tree.get(&path) else { continue };
        for line in text::unit_lines(&text::read(tree, &path, entry)?) {
            let Some((key, value)) = units::option(&line) else { continue };
            let values = settings.entry(key.to_owned()).or_default();
            if value.is_empty() {
                values.clear();
            } else {
                values.push(value.to_owned());
            }
        }
    }
    Ok(settings)
}

fn faults(name: &str, settings: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let values = |key: &str| settings.get(key).map_or(&[][..], Vec::as_slice);
    let last = |key: &str| values(key).last().map(|value| value.to_ascii_lowercase());
    let mut faults = Vec::new();

    let private_tmp = last("PrivateTmp").unwrap_or_else(|| "no".into());
    let is_connected = private_tmp == "connected" || TRUE.contains(&private_tmp.as_str());
    let has_dynamic_user = last("DynamicUser").is_some_and(|value| !FALSE.contains(&value.as_str()));
    if has_dynamic_user && !is_connected {
        faults.push("DynamicUser= implies PrivateTmp=disconnected: set PrivateTmp=yes".into());
    } else if !is_connected && !FALSE.contains(&private_tmp.as_str()) {
        faults.push(format!("PrivateTmp={private_tmp} is a tmpfs with execution: set PrivateTmp=yes or no"));
    }
    for words in values("TemporaryFileSystem").iter().flat_map(|value| value.split_whitespace()) {
        if !has_noexec(words.split_once(':').map_or("", |(_, options)| options)) {
            faults.push(format!("TemporaryFileSystem={words} has execution: add noexec"));
        }
    }
    if name.ends_with(".mount") && !has_noexec(&last("Options").unwrap_or_default()) {
        faults.push("Options= has no noexec: add it".into());
    }
    faults.extend(FORBIDDEN.iter().filter(|key| !values(key).is_empty()).map(|key| format!("remove {key}=")));
    faults
}

/// Whether the last word about execution in the options of a mount forbids it.
fn has_noexec(options: &str) -> bool {
    options.split(',').map(str::trim).rfind(|option| ["exec", "noexec", "defaults"].contains(option)) == Some("noexec")
}

#[cfg(test)]
mod tests {
    use super::super::tests::tree;
    use super::*;

    const TARGET: (&str, &str) = ("etc/systemd/system/default.target", "[Unit]\nWants=a.service alias.service\n");
    const UNIT: &str = "usr/lib/systemd/system/a.service";
    const MOUNT: &str = "usr/lib/systemd/system/a.mount";

    fn findings(files: &[(&str, &str)]) -> String {
        found(&tree(&[&[TARGET], files].concat())).unwrap().join("\n")
    }

    #[test]
    fn unit_that_gives_a_program_a_place_to_write_and_execute_is_refused() {
        for (text, words) in [
            ("PrivateTmp=disconnected", "a.service: PrivateTmp=disconnected"),
            ("PrivateTmp=Disconnected", "a.service: PrivateTmp=disconnected"),
            ("PrivateTmp=value of a later systemd", "a.service: PrivateTmp=value"),
            ("DynamicUser=yes", "a.service: DynamicUser="),
            ("DynamicUser=yes\nPrivateTmp=no", "a.service: DynamicUser="),
            ("DynamicUser=yes\nPrivateTmp=disconnected", "a.service: DynamicUser="),
            ("TemporaryFileSystem=/srv", "TemporaryFileSystem=/srv has execution"),
            ("TemporaryFileSystem=/a:ro,noexec /b:nodev", "TemporaryFileSystem=/b:nodev"),
            ("TemporaryFileSystem=/a:noexec,exec", "TemporaryFileSystem=/a:noexec,exec"),
            ("ExecPaths=/run", "remove ExecPaths="),
            ("MountImages=/a:/b", "remove MountImages="),
            ("RootDirectory=/x", "remove RootDirectory="),
            ("ExtensionDirectories=/var/x", "remove ExtensionDirectories="),
            ("Environment=A=b\\\\\nPrivateTmp=disconnected", "a.service: PrivateTmp=disconnected"),
            ("Environment=A=b\\ \nPrivateTmp=disconnected", "a.service: PrivateTmp=disconnected"),
        ] {
            let found = findings(&[(UNIT, text)]);
            assert!(found.starts_with("execution: ") && found.contains(words), "{text}: {found:?}");
            assert!(findings(&[(UNIT, &format!("{text}\\\n # x\n"))]).contains("execution: "), "{text}");
            // Settings of a unit that cannot start are not read.
            assert_eq!(findings(&[("usr/lib/systemd/system/other.service", text)]), "");
        }
        for text in [
            "PrivateTmp=no",
            "PrivateTmp=disconnected\nPrivateTmp=yes",
            "DynamicUser=yes\nPrivateTmp=yes",
            "DynamicUser=no",
            "TemporaryFileSystem=/a:ro,noexec",
            "TemporaryFileSystem=/a\nTemporaryFileSystem=\nExecPaths=/run\nExecPaths=",
        ] {
            assert_eq!(findings(&[(UNIT, text)]), "", "{text}");
        }
        let wants = ("usr/lib/systemd/system/a.service", "[Unit]\nWants=a.mount\n");
        for (options, is_refused) in [
            ("[Mount]", true),
            ("Options=nosuid", true),
            ("Options=noexec,defaults", true),
            ("Options=nosuid,noexec", false),
        ] {
            assert_eq!(findings(&[wants, (MOUNT, options)]).contains("a.mount: Options="), is_refused, "{options}");
        }
    }

    #[test]
    fn drop_ins_are_applied_in_the_order_of_systemd() {
        const BAD: &str = "PrivateTmp=disconnected";
        const GOOD: &str = "PrivateTmp=no";
        let alias = ("etc/systemd/system/alias.service", "-> /usr/lib/systemd/system/a.service");
        for (files, is_refused) in [
            (vec![(UNIT, BAD), ("etc/systemd/system/a.service.d/1.conf", GOOD)], false),
            (vec![(UNIT, GOOD), ("usr/lib/systemd/system/a.service.d/1.conf", BAD)], true),
            (vec![(UNIT, GOOD), ("etc/systemd/system/service.d/1.conf", BAD)], true),
            (vec![(UNIT, GOOD), ("etc/systemd/system/service.d/1.txt", BAD)], false),
            // A link is the file that it names, wherever that is.
            (
                vec![
                    ("lib", "-> usr/lib"),
                    (UNIT, BAD),
                    ("etc/systemd/system/a.service", "-> /lib/systemd/system/a.service"),
                ],
                true,
            ),
            (
                vec![
                    (UNIT, GOOD),
                    ("usr/share/1.conf", BAD),
                    ("etc/systemd/system/a.service.d/1.conf", "-> /usr/share/1.conf"),
                ],
                true,
            ),
            // By name, whatever the folder; of one name the first folder alone.
            (
                vec![
                    (UNIT, GOOD),
                    ("etc/systemd/system/a.service.d/1.conf", GOOD),
                    ("usr/lib/systemd/system/a.service.d/2.conf", BAD),
                ],
                true,
            ),
            (
                vec![
                    (UNIT, GOOD),
                    ("etc/systemd/system/a.service.d/1.conf", GOOD),
                    ("usr/lib/systemd/system/a.service.d/1.conf", BAD),
                ],
                false,
            ),
            (
                vec![
                    (UNIT, BAD),
                    ("etc/systemd/system/a.service.d/1.conf", "-> /dev/null"),
                    ("usr/lib/systemd/system/a.service.d/1.conf", GOOD),
                ],
                true,
            ),
            // The unit of /etc replaces the package's.
            (vec![(UNIT, BAD), ("etc/systemd/system/a.service", GOOD)], false),
            // Another name of the unit has drop-ins, too.
            (vec![(UNIT, GOOD), alias, ("etc/systemd/system/alias.service.d/1.conf", BAD)], true),
            (vec![(UNIT, BAD), alias, ("etc/systemd/system/a.service.d/1.conf", GOOD)], false),
        ] {
            assert_eq!(!findings(&files).is_empty(), is_refused, "{files:?}");
        }
    }

    #[test]
    fn unit_whose_text_is_not_in_the_root_is_refused() {
        for path in ["etc/systemd/system/a.service", "etc/systemd/system/a.service.d/1.conf"] {
            let files = [(UNIT, "PrivateTmp=no"), (path, "-> /run/a")];
            let found = findings(&files);
            assert!(found.contains(path) && found.contains("leads out of the root"), "{found:?}");
        }
    }
}
