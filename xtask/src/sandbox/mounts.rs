//! The mounts of a sandbox, made in a private mount namespace (`mount_namespaces(7)`): nothing of it is visible outside.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{chdir, chroot, pivot_root};

use super::spec::{Bind, Spec};

const NONE: Option<&str> = None;

/// Folders that are empty and writable inside. swtpm's certificate authority would write new keys into a cached tree.
const SCRATCH: [(&str, &str); 3] = [("tmp", "mode=1777"), ("run", "mode=0755"), ("var/lib/swtpm-localca", "mode=0755")];

/// Makes every mount but `/proc`, which needs a process of the new process namespace.
pub(super) fn prepare(spec: &Spec) -> Result<()> {
    let root = &spec.root;
    for name in ["dev", "proc", "run", "tmp"] {
        let folder = root.join(name);
        ensure!(folder.is_dir(), "{} is not a root tree: it has no folder {name}", root.display());
    }
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("Failed to make the mounts private to the sandbox")?;
    bind(root, root)?;
    bind(Path::new("/dev"), &root.join("dev"))?;
    for (name, options) in SCRATCH {
        let target = root.join(name);
        if target.is_dir() {
            mount(Some("tmpfs"), &target, Some("tmpfs"), MsFlags::empty(), Some(options))
                .with_context(|| format!("Failed to mount a tmpfs on {}", target.display()))?;
        }
    }
    read_only(root)?;
    spec.binds.iter().try_for_each(|entry| show(root, entry))
}

/// A fresh `/proc`; where the host masks parts of its own and so forbids that (containers), the host's.
pub(super) fn mount_proc(root: &Path) -> Result<()> {
    let target = root.join("proc");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("proc"), &target, Some("proc"), flags, NONE) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => bind(Path::new("/proc"), &target),
        Err(error) => Err(error).with_context(|| format!("Failed to mount proc on {}", target.display())),
    }
}

/// Makes `root` the `/` of this process; the old root is gone. `pivot_root` because a process in a mere chroot may not make user namespaces of its own.
pub(super) fn change_root(root: &Path) -> Result<()> {
    chdir(root).with_context(|| format!("Failed to change into {}", root.display()))?;
    match pivot_root(".", ".") {
        Ok(()) => umount2(".", MntFlags::MNT_DETACH).context("Failed to detach the old root")?,
        // The host's root is its initramfs, which cannot be pivoted.
        Err(Errno::EINVAL) => {
            mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE).context("Failed to move the root tree to /")?;
            chroot(".").context("Failed to change the root")?;
        }
        Err(error) => return Err(error).context("Failed to change the root (pivot_root)"),
    }
    chdir("/").context("Failed to change into the new root")
}

/// Shows one file or folder of the host inside, making the mount point when it lies on a writable folder.
fn show(root: &Path, entry: &Bind) -> Result<()> {
    let metadata = fs::metadata(&entry.host)
        .with_context(|| format!("Failed to show {} inside: it cannot be read", entry.host.display()))?;
    let target = inside(root, &entry.guest)?;
    if !target.exists() {
        make_mount_point(&target, metadata.is_dir()).with_context(|| {
            let guest = entry.guest.display();
            format!("Failed to make the mount point {guest}: the root tree is read-only, choose a path under /tmp")
        })?;
    }
    bind(&entry.host, &target)?;
    if entry.read_only { read_only(&target) } else { Ok(()) }
}

fn make_mount_point(target: &Path, folder: bool) -> std::io::Result<()> {
    if folder {
        return fs::create_dir_all(target);
    }
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(target, [])
}

/// Where a guest path lies while the tree is not yet the root. A symbolic link in it may be followed, but must not leave the tree.
fn inside(root: &Path, guest: &Path) -> Result<PathBuf> {
    let Ok(relative) = guest.strip_prefix("/") else { bail!("{} is not an absolute path", guest.display()) };
    let root = root.canonicalize().with_context(|| format!("Failed to resolve {}", root.display()))?;
    let target = root.join(relative);
    for ancestor in target.ancestors() {
        let resolved = match ancestor.canonicalize() {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("Failed to resolve {}", ancestor.display()))?,
        };
        ensure!(
            resolved.starts_with(&root),
            "{} leads out of the root tree, to {}",
            guest.display(),
            resolved.display()
        );
        break;
    }
    ensure!(!relative.components().any(|part| part.as_os_str() == ".."), "{} contains ..", guest.display());
    Ok(target)
}

/// Recursive, because an ordinary user may not uncover what a mount below hides.
fn bind(host: &Path, target: &Path) -> Result<()> {
    mount(Some(host), target, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
        .with_context(|| format!("Failed to bind {} to {}", host.display(), target.display()))
}

/// Remounts read-only, keeping the flags that an ordinary user may not drop.
fn read_only(target: &Path) -> Result<()> {
    let existing =
        statvfs(target).with_context(|| format!("Failed to examine the mount at {}", target.display()))?.flags();
    let kept = [
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    let kept = kept.iter().filter(|(old, _)| existing.contains(*old)).map(|(_, new)| *new);
    let flags = kept.fold(MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, |sum, flag| sum | flag);
    mount(NONE, target, NONE, flags, NONE)
        .with_context(|| format!("Failed to make {} read-only inside the sandbox", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_path_stays_in_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir_all(root.join("usr/lib")).unwrap();
        std::os::unix::fs::symlink("usr/lib", root.join("lib")).unwrap();
        std::os::unix::fs::symlink("/", root.join("escape")).unwrap();
        std::os::unix::fs::symlink("../..", root.join("up")).unwrap();
        for (guest, allowed) in [
            ("/usr/lib", true),
            ("/lib/x/y", true),
            ("/tmp/new/folder", true),
            ("/escape/etc", false),
            ("/up/x", false),
            ("/usr/../../x", false),
            ("tmp", false),
        ] {
            assert_eq!(inside(&root, Path::new(guest)).is_ok(), allowed, "{guest}");
        }
    }

    #[test]
    fn a_folder_that_is_no_root_tree_is_refused_before_any_mount() {
        let folder = tempfile::tempdir().unwrap();
        let error = prepare(&Spec::new(folder.path().to_owned())).unwrap_err();
        assert!(error.to_string().contains("no folder dev"), "{error}");
    }
}
