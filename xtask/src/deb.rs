//! Reads .deb files (deb(5)): an ar archive of `debian-binary`, `control.tar.*` and `data.tar.*`.
//!
//! Used for the index of the local repository, and to unpack packages that are never installed: the kernel, the
//! firmwares, mkosi, and the tree that bootstraps the build root. No maintainer script runs.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// A control file larger than this is not one.
const CONTROL_LIMIT: u64 = 1 << 20;

/// The text of a package's control file.
pub fn control(path: &Path) -> Result<String> {
    let read = || -> Result<String> {
        let mut found = None;
        with_member(path, "control.tar", |reader| {
            let mut archive = tar::Archive::new(reader);
            for entry in archive.entries()? {
                let mut entry = entry?;
                if entry.path()?.file_name().is_some_and(|name| name == "control") {
                    let mut text = String::new();
                    entry.by_ref().take(CONTROL_LIMIT).read_to_string(&mut text)?;
                    found = Some(text);
                }
            }
            Ok(())
        })?;
        found.context("it has no control file")
    };
    read().with_context(|| format!("Failed to read the package {}", path.display()))
}

/// Unpacks a package's files below `folder`: regular files, folders and links, with their modes; owners are not kept.
pub fn unpack(path: &Path, folder: &Path) -> Result<()> {
    with_member(path, "data.tar", |reader| unpack_tar(reader, folder))
        .with_context(|| format!("Failed to unpack {}", path.display()))
}

fn with_member(path: &Path, prefix: &str, mut act: impl FnMut(Box<dyn Read + '_>) -> Result<()>) -> Result<()> {
    let file = File::open(path)?;
    let mut archive = ar::Archive::new(BufReader::with_capacity(1 << 18, file));
    while let Some(entry) = archive.next_entry() {
        let entry = entry?;
        let name = String::from_utf8_lossy(entry.header().identifier()).trim_end_matches('/').to_owned();
        let Some(compression) = name.strip_prefix(prefix) else { continue };
        return match compression {
            "" => act(Box::new(entry)),
            ".gz" => act(Box::new(flate2::read::GzDecoder::new(entry))),
            ".xz" => act(Box::new(liblzma::read::XzDecoder::new(entry))),
            ".zst" => act(Box::new(zstd::stream::read::Decoder::new(entry)?)),
            other => bail!("its member {prefix}{other} has a compression that is not understood"),
        };
    }
    bail!("it has no member {prefix}")
}

fn unpack_tar(reader: Box<dyn Read + '_>, folder: &Path) -> Result<()> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.into_owned();
        let target = resolve(folder, &name).with_context(|| format!("entry {}", name.display()))?;
        let mode = entry.header().mode()? & 0o7777;
        match entry.header().entry_type() {
            tar::EntryType::Directory => {
                // A link that an earlier entry made is not a folder: what is behind it may be anywhere.
                match fs::symlink_metadata(&target) {
                    Ok(data) if data.is_dir() => {}
                    Ok(_) => bail!("entry {} is a folder, and was a file or link before", name.display()),
                    Err(_) => fs::create_dir(&target)?,
                }
                fs::set_permissions(&target, fs::Permissions::from_mode(mode | 0o700))?;
            }
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                remove_old(&target)?;
                let mut file =
                    File::create(&target).with_context(|| format!("Failed to write {}", target.display()))?;
                std::io::copy(&mut entry, &mut file)
                    .with_context(|| format!("Failed to write {}", target.display()))?;
                fs::set_permissions(&target, fs::Permissions::from_mode(mode | 0o600))?;
            }
            tar::EntryType::Symlink => {
                remove_old(&target)?;
                let to = entry.link_name()?.context("a symbolic link without target")?;
                symlink(&to, &target).with_context(|| format!("Failed to link {}", target.display()))?;
            }
            tar::EntryType::Link => {
                remove_old(&target)?;
                let to = resolve(folder, &entry.link_name()?.context("a hard link without target")?)?;
                fs::hard_link(&to, &target).with_context(|| format!("Failed to link {}", target.display()))?;
            }
            other => bail!("entry {} is of a kind that no tool package has: {other:?}", name.display()),
        }
    }
    Ok(())
}

fn remove_old(target: &Path) -> Result<()> {
    if fs::symlink_metadata(target).is_ok_and(|data| !data.is_dir()) {
        fs::remove_file(target).with_context(|| format!("Failed to replace {}", target.display()))?;
    }
    Ok(())
}

/// Where an entry goes: below `folder`, its parents followed through links that stay in the tree (`/bin` -> `usr/bin`).
fn resolve(folder: &Path, name: &Path) -> Result<PathBuf> {
    let mut parts = Vec::new();
    for component in name.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_owned()),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => bail!("the path {} leaves the package", name.display()),
        }
    }
    let Some(last) = parts.pop() else { return Ok(folder.to_owned()) };
    let mut parent = folder.to_owned();
    for part in parts {
        parent.push(part);
        if !parent.exists() {
            fs::create_dir(&parent).with_context(|| format!("Failed to make {}", parent.display()))?;
        }
        let real = parent.canonicalize().with_context(|| format!("Failed to resolve {}", parent.display()))?;
        ensure!(real.starts_with(folder), "the path {} leaves the tree through a link", name.display());
        parent = real;
    }
    Ok(parent.join(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Member<'a> = (&'a str, tar::EntryType, &'a str, &'a [u8]);

    fn deb(members: &[Member]) -> tempfile::NamedTempFile {
        let mut data = tar::Builder::new(Vec::new());
        for (name, kind, link, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            // Written raw, because the library refuses the paths that an attacker would write.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            data.append(&header, *content).unwrap();
        }
        let mut control = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        let text = b"Package: sample\nVersion: 1\n";
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        control.append_data(&mut header, "./control", &text[..]).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut archive = ar::Builder::new(file.reopen().unwrap());
        let members = [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar", control.into_inner().unwrap()),
            ("data.tar.zst", zstd::encode_all(&data.into_inner().unwrap()[..], 1).unwrap()),
        ];
        for (name, bytes) in members {
            archive.append(&ar::Header::new(name.into(), bytes.len() as u64), &bytes[..]).unwrap();
        }
        file
    }

    #[test]
    fn a_package_gives_its_control_file_and_its_tree() {
        use tar::EntryType as Kind;
        let package = deb(&[
            ("./usr/", Kind::Directory, "", b""),
            ("./usr/bin/", Kind::Directory, "", b""),
            ("./bin", Kind::Symlink, "usr/bin", b""),
            ("./bin/tool", Kind::Regular, "", b"content"),
            ("./usr/bin/same", Kind::Link, "./usr/bin/tool", b""),
        ]);
        assert!(control(package.path()).unwrap().starts_with("Package: sample\n"));
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        unpack(package.path(), &root).unwrap();
        assert_eq!(fs::read(root.join("usr/bin/same")).unwrap(), b"content");
    }

    #[test]
    fn a_package_that_leaves_its_tree_is_refused() {
        use tar::EntryType as Kind;
        let cases: [&[Member]; 2] = [
            &[("../evil", Kind::Regular, "", b"x")],
            &[("./out", Kind::Symlink, "/tmp", b""), ("./out/evil", Kind::Regular, "", b"x")],
        ];
        for members in cases {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().canonicalize().unwrap();
            let error = format!("{:#}", unpack(deb(members).path(), &root).unwrap_err());
            assert!(error.contains("leaves the"), "{error}");
        }
    }

    /// A folder entry whose place is a link: its mode would be set on whatever the link names.
    #[test]
    fn folder_entry_over_a_link_is_refused_and_changes_nothing_outside() {
        use tar::EntryType as Kind;
        let outside = tempfile::tempdir().unwrap();
        fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let target = outside.path().display().to_string();
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let package = deb(&[("./out", Kind::Symlink, &target, b""), ("./out/", Kind::Directory, "", b"")]);
        let error = format!("{:#}", unpack(package.path(), &root).unwrap_err());
        assert!(error.contains("was a file or link before"), "{error}");
        assert_eq!(fs::metadata(outside.path()).unwrap().permissions().mode() & 0o777, 0o700);
        // A folder twice is one folder.
        let package = deb(&[("./a/", Kind::Directory, "", b""), ("./a/", Kind::Directory, "", b"")]);
        unpack(package.path(), &root).unwrap();
    }

    #[test]
    fn what_is_no_package_is_an_error_that_names_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"!<arch>\ntruncated").unwrap();
        let error = format!("{:#}", control(file.path()).unwrap_err());
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}
