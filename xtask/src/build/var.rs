//! Entries of tmpfiles.d(5) for what the packages' files and our own have under `/var`. At run time `/var` is an empty file system or the state disk, which hides that
//! part of the root: directories and links are created there at each boot, and a regular file is copied from `/usr/share/factory` where it is missing.
//!
//! Refused by name: programs, because `/var` is mounted without execution, and names that tmpfiles.d(5) would read as something else.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use cairn_image::tree::{Entry, Kind, Tree};

/// The directory that is another file system at run time.
const VAR: &str = "var";
/// Where tmpfiles.d(5) looks; the first directory wins where both have a file of one name.
const FOLDERS: [&str; 2] = ["etc/tmpfiles.d", "usr/lib/tmpfiles.d"];
/// Written in every image. The last of its directory: of two entries for one path the first counts.
pub const FILE: &str = "usr/lib/tmpfiles.d/zz-cairn-var.conf";
/// The copies of regular files.
const FACTORY: &str = "usr/share/factory";
/// Types of tmpfiles.d(5) that create a path: `e` adjusts one that is there.
const CREATING: [char; 9] = ['d', 'D', 'v', 'q', 'Q', 'f', 'F', 'L', 'C'];

/// Replaces what is under `/var` by [`FILE`] and the factory's copies. Owners and modes of `tree` must be final.
pub fn create_at_boot(tree: &mut Tree) -> Result<()> {
    let claimed = claimed(tree)?;
    let prefix = format!("{VAR}/");
    let mut lines =
        String::from("# Written by the build from the files of the packages and of os: see docs/profiles.md.\n");
    let (mut copies, mut refused) = (Vec::new(), Vec::new());
    for (path, entry) in tree.iter().filter(|(path, _)| path.starts_with(&prefix)) {
        if let Some(file) = claimed.get(path) {
            if (entry.uid, entry.gid) != (0, 0) {
                refused.push(format!("/{path}: /{file} creates it with an owner of its own: remove it from `owners`"));
            }
            continue;
        }
        match line(path, entry) {
            // A string takes all that is written to it.
            Ok(line) => drop(writeln!(lines, "{line}")),
            Err(why) => refused.push(format!("/{path}: {why}")),
        }
        if matches!(entry.kind, Kind::File { .. }) {
            copies.push((path.to_owned(), entry.clone()));
        }
    }
    if !refused.is_empty() {
        bail!(
            "cannot create {} paths of the packages under /var at boot:\n  {}\nhint: add them to `drop` of profile.toml or os/tree.toml, or install them below /usr",
            refused.len(),
            refused.join("\n  ")
        );
    }
    tree.empty(VAR);
    for (path, entry) in copies {
        insert(tree, &format!("{FACTORY}/{path}"), entry)?;
    }
    insert(tree, FILE, Entry::file(lines, 0o644))
}

/// Adds an entry, and the directories above it that are missing.
fn insert(tree: &mut Tree, path: &str, entry: Entry) -> Result<()> {
    for (at, _) in path.match_indices('/') {
        if tree.get(&path[..at]).is_none() {
            tree.insert(&path[..at], Entry::directory(0o755))?;
        }
    }
    Ok(tree.insert(path, entry)?)
}

/// One line of tmpfiles.d(5), or why there is none.
fn line(path: &str, entry: &Entry) -> Result<String, &'static str> {
    let name = word(path).ok_or("its name cannot be in tmpfiles.d(5)")?;
    let Entry { mode, uid, gid, .. } = entry;
    match &entry.kind {
        Kind::Directory => Ok(format!("d /{name} {mode:04o} {uid} {gid} -")),
        Kind::Symlink(target) => {
            let target = word(target).ok_or("the target of the link cannot be in tmpfiles.d(5)")?;
            Ok(format!("L /{name} - - - - {target}"))
        }
        Kind::File { .. } if mode & 0o111 != 0 => Err("a program, and /var is mounted without execution"),
        Kind::File { .. } => Ok(format!("C /{name} {mode:04o} {uid} {gid} - /{FACTORY}/{name}")),
    }
}

/// A path as a word of tmpfiles.d(5), in which `%` begins a specifier.
fn word(path: &str) -> Option<String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:,=~%".contains(&byte);
    (!path.is_empty() && path.bytes().all(is_plain)).then(|| path.replace('%', "%%"))
}

/// The paths that files of tmpfiles.d(5) in the tree create, each with its file.
fn claimed(tree: &Tree) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for folder in FOLDERS {
        for name in tree.names(folder).filter(|name| name.ends_with(".conf")) {
            // A file of etc replaces or masks the one of the same name.
            if folder != FOLDERS[0] && tree.get(&format!("{}/{name}", FOLDERS[0])).is_some() {
                continue;
            }
            let file = format!("{folder}/{name}");
            let Some(Kind::File { content, .. }) = tree.get(&file).map(|entry| &entry.kind) else { continue };
            let bytes = content.read().with_context(|| format!("Failed to read /{file}"))?;
            for line in String::from_utf8_lossy(&bytes).lines() {
                let mut words = line.split_whitespace();
                let (Some(kind), Some(path)) = (words.next(), words.next()) else { continue };
                if kind.starts_with(CREATING) {
                    let path = path.trim_matches(['"', '\'']).trim_matches('/').replace("%%", "%");
                    found.entry(path).or_insert_with(|| file.clone());
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, Entry)]) -> Tree {
        let mut tree = Tree::new();
        for (path, entry) in entries {
            insert(&mut tree, path, entry.clone()).unwrap();
        }
        tree
    }

    fn owned(entry: Entry, uid: u32, gid: u32) -> Entry {
        Entry { uid, gid, ..entry }
    }

    fn text(tree: &Tree, path: &str) -> String {
        let Kind::File { content, .. } = &tree.get(path).unwrap().kind else { panic!("not a file") };
        String::from_utf8(content.read().unwrap()).unwrap()
    }

    #[test]
    fn files_of_packages_under_var_become_entries_and_factory_copies() {
        let mut tree = tree(&[
            ("usr/lib/tmpfiles.d/var.conf", Entry::file("d /var/lib 0755 - - -\nq /var 0755 - - -\n", 0o644)),
            ("var/lib/nginx", Entry::directory(0o755)),
            ("var/log/nginx", owned(Entry::directory(0o750), 33, 4)),
            ("var/lib/nginx/100%.txt", owned(Entry::file("content", 0o640), 0, 33)),
            ("var/www", Entry::symlink("../srv/www")),
        ]);
        create_at_boot(&mut tree).unwrap();
        let lines: Vec<String> = text(&tree, FILE).lines().skip(1).map(str::to_owned).collect();
        assert_eq!(
            lines,
            [
                "d /var/lib/nginx 0755 0 0 -",
                "C /var/lib/nginx/100%%.txt 0640 0 33 - /usr/share/factory/var/lib/nginx/100%%.txt",
                "d /var/log 0755 0 0 -",
                "d /var/log/nginx 0750 33 4 -",
                "L /var/www - - - - ../srv/www",
            ]
        );
        let copy = "usr/share/factory/var/lib/nginx/100%.txt";
        assert_eq!(text(&tree, copy), "content");
        let Entry { mode, uid, gid, .. } = *tree.get(copy).unwrap();
        assert_eq!((mode, uid, gid), (0o640, 0, 33));
        assert!(tree.get("var").is_some() && tree.names("var").count() == 0);
    }

    #[test]
    fn paths_that_a_package_creates_itself_are_left_to_it() {
        let own = "# d /var/comment\ne /var/comment - - - 10d\nd$ /var/lib/a 0700 a a -\nL+ /var/run - - - - ../run\nz /var/lib/b 0700 - -\n";
        let mut tree = tree(&[
            ("etc/tmpfiles.d/own.conf", Entry::file(own, 0o644)),
            ("etc/tmpfiles.d/masked.conf", Entry::symlink("/dev/null")),
            ("usr/lib/tmpfiles.d/masked.conf", Entry::file("d /var/lib/b", 0o644)),
            ("usr/lib/tmpfiles.d/read.me", Entry::file("d /var/lib/b", 0o644)),
            ("var/lib/a", Entry::directory(0o755)),
            ("var/lib/b", Entry::directory(0o755)),
            ("var/run", Entry::symlink("/run")),
            ("var/comment", Entry::directory(0o755)),
        ]);
        let mut other = tree.clone();
        create_at_boot(&mut tree).unwrap();
        let found = text(&tree, FILE);
        assert!(found.contains("/var/lib/b ") && found.contains("/var/comment "), "{found}");
        assert!(!found.contains("/var/lib/a") && !found.contains("/var/run"), "{found}");

        other.set_owners(&BTreeMap::from([("var/lib/a".to_owned(), (1, 1))])).unwrap();
        let error = create_at_boot(&mut other).unwrap_err().to_string();
        assert!(error.contains("/var/lib/a: /etc/tmpfiles.d/own.conf creates it"), "{error}");
    }

    #[test]
    fn programs_and_names_with_a_meaning_are_refused_by_name() {
        for (path, entry, words) in [
            ("var/lib/x/run", Entry::file("ELF", 0o755), "/var/lib/x/run: a program"),
            ("var/lib/a b", Entry::directory(0o755), "/var/lib/a b: its name"),
            ("var/lib/a\nd", Entry::directory(0o755), "its name"),
            ("var/lib/l", Entry::symlink("a b"), "/var/lib/l: the target"),
        ] {
            let error = create_at_boot(&mut tree(&[(path, entry)])).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("hint: "), "{path}: {error}");
        }
    }
}
