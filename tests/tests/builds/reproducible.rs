//! Two builds on hosts that differ in everything that a host can differ in: the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::output_of;
use cairn_tests::image::Image;
use xtask::difference::first_difference;
use xtask::sandbox::WORK;

use super::Row;
use super::bad_hosts::OTHER_USER;
use cairn_tests::workshop::{Workshop, text_of};

/// Another time in every tool of the build root. libfaketime would do the same, and hangs rustc.
const CLOCK: &str = include_str!("clock.c");
const CLOCK_LIBRARY: &str = "/usr/lib/libanotherclock.so";

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("two_builds_on_differing_hosts_are_identical", two_builds),
        Row::new("a_difference_is_named_by_output_stage_and_file", differences),
    ]
}

/// The first build is that of `cargo xtask test`, from the user's cache. The second: another clone in another place by another user (root and an
/// ordinary one), with an empty cache, another umask, time zone, locale and clock, on one CPU, and without network once everything is fetched.
fn two_builds(shop: &Workshop, row: &str) -> Result<()> {
    let first = shop.bench(&format!("{row}-first"))?;
    first.must_succeed(&mut first.xtask(&["build-image", "--locked"]))?;

    let other = OtherHost::prepare(shop, &shop.folder(row)?)?;
    other.run("", &["fetch"])?;
    // In the folder where it is called.
    let listed = other.run("unshare_net", &["in-root", "ls"])?;
    ensure!(listed.contains("Cargo.toml"), "the current folder is not shown: {listed}");
    other.change_the_clock()?;
    let (here, there) =
        (output_of(Command::new("date").arg("+%Y"))?, other.run("unshare_net", &["in-root", "date", "+%Y"])?);
    ensure!(!there.contains(here.trim()), "the clock of the other build root is not another one: {there}");
    other.run("unshare_net", &["build-image", "--locked"])?;

    // Copied, so that the tools that look for a difference may read what the other user made.
    let second = Image::open(&other.checkout.join("target/image"))?.copy_to(&shop.folder(&format!("{row}-second"))?)?;
    let found = difference(shop, &first.image()?, &second)?;
    ensure!(found.is_none(), "{}", found.unwrap_or_default());
    Ok(())
}

/// Another host, as far as one host can be two.
struct OtherHost<'a> {
    shop: &'a Workshop,
    folder: PathBuf,
    checkout: PathBuf,
    home: PathBuf,
    is_root: bool,
}

impl<'a> OtherHost<'a> {
    fn prepare(shop: &'a Workshop, folder: &Path) -> Result<Self> {
        let home = folder.join("another home, with blanks");
        let checkout = home.join("and a much longer path to the checkout");
        fs::create_dir_all(&home).context("Failed to make a home")?;
        shop.clone_to(&checkout)?;
        let is_root = nix::unistd::geteuid().is_root();
        let other = Self { shop, folder: folder.to_owned(), checkout, home, is_root };
        if is_root {
            let id = OTHER_USER.parse().context("not a number")?;
            own(&other.home, id)?;
        }
        for place in ["toolchain", "cargo"] {
            fs::create_dir_all(other.folder.join(place)).context("Failed to make a mount point")?;
        }
        Ok(other)
    }

    /// Runs `xtask` there. Root becomes an ordinary user, an ordinary user becomes root of a user namespace.
    fn run(&self, network: &str, arguments: &[&str]) -> Result<String> {
        let sysroot = output_of(Command::new("rustc").args(["--print", "sysroot"]).current_dir(&self.checkout))?;
        let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let cargo = cargo.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        let cargo = cargo.context("Neither CARGO_HOME nor HOME is set")?;
        // The first words make namespaces; the mounts show toolchain and crates where every user may look.
        let mut namespaces = vec!["--mount", "--propagation=private"];
        if !self.is_root {
            namespaces.extend(["--user", "--map-root-user"]);
        }
        if network == "unshare_net" {
            namespaces.push("--net");
        }
        let become_user = format!("setpriv --reuid={OTHER_USER} --regid={OTHER_USER} --clear-groups");
        let script = format!(
            "umask 077; mount --bind \"$1\" \"$0/toolchain\"; mount --bind -o ro \"$2\" \"$0/cargo\"; shift 2; exec {} \"$@\"",
            if self.is_root { &become_user } else { "" }
        );
        let mut command = Command::new("unshare");
        command.args(namespaces).args(["sh", "-euc", &script]).arg(&self.folder).arg(sysroot.trim()).arg(cargo);
        command.args(["taskset", "--cpu-list", "0"]).arg(&self.shop.xtask).args(arguments).current_dir(&self.checkout);
        let proxies = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().to_lowercase().ends_with("_proxy"));
        command.env_clear().envs(proxies).env("HOME", &self.home).env("XDG_CACHE_HOME", self.home.join("cache"));
        command
            .env("CARGO_HOME", self.folder.join("cargo"))
            .env("TZ", "Pacific/Kiritimati")
            .env("LC_ALL", "tr_TR.UTF-8");
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.folder.join("toolchain/bin").display()));
        for name in ["CAIRN_DEBIAN_MIRROR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let output = command.output().context("Failed to start unshare")?;
        ensure!(
            output.status.success(),
            "xtask {arguments:?} on the other host: {:?}: {}",
            output.status,
            text_of(&output)
        );
        Ok(text_of(&output))
    }

    /// The build root is taken from the cache as it is: a library that lies about the time is loaded into every program in it.
    fn change_the_clock(&self) -> Result<()> {
        let stages = self.home.join("cache/cairn/stages");
        let entries = fs::read_dir(&stages).with_context(|| format!("Failed to list {}", stages.display()))?.flatten();
        let root = entries.map(|entry| entry.path().join("tree")).find(|path| path.join("usr/bin/mkosi").exists());
        let root = root.context("there is no build root in the other cache")?;
        let source = self.folder.join("clock.c");
        fs::write(&source, CLOCK).context("Failed to write a source file")?;
        let sandbox = self.shop.sandbox.clone().bind(&self.folder, WORK).work_dir(WORK);
        output_of(sandbox.command("gcc").args(["-shared", "-fPIC", "-O2", "-o", "clock.so", "clock.c"]))?;
        fs::copy(self.folder.join("clock.so"), root.join(&CLOCK_LIBRARY[1..]))
            .context("Failed to install the clock")?;
        fs::write(root.join("etc/ld.so.preload"), CLOCK_LIBRARY).context("Failed to preload the clock")
    }
}

fn own(path: &Path, id: u32) -> Result<()> {
    std::os::unix::fs::lchown(path, Some(id), Some(id)).with_context(|| format!("Failed to own {}", path.display()))?;
    if path.symlink_metadata().is_ok_and(|data| data.is_dir()) {
        for entry in fs::read_dir(path).with_context(|| format!("Failed to list {}", path.display()))?.flatten() {
            own(&entry.path(), id)?;
        }
    }
    Ok(())
}

/// Without this, the row above could be green and blind.
fn differences(shop: &Workshop, row: &str) -> Result<()> {
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change, &str); 4] = [
        ("image.json", |bytes| bytes.push(b' '), "image.json (stage `outputs`)"),
        ("root.verity", |bytes| bytes[4100] ^= 1, "root.verity (stage `verity`): its content; from byte 4100"),
        ("efi", |bytes| flip_in_section(bytes, ".cmdline"), "efi (stage `disk`)"),
        ("raw", |bytes| bytes[(49 << 20) + 7] ^= 1, "partition configuration"),
    ];
    ensure!(difference(shop, &shop.image, &shop.image)?.is_none(), "an image differs from itself");
    for (suffix, change, expected) in changes {
        let copy = shop.image.copy_to(&shop.folder(&format!("{row}-{suffix}"))?)?;
        let mut bytes = copy.read(suffix)?;
        change(&mut bytes);
        fs::write(copy.file(suffix), bytes)?;
        let found = difference(shop, &shop.image, &copy)?.unwrap_or_default();
        ensure!(found.contains(expected), "{found:?} does not say {expected:?}");
    }
    in_a_file(shop, row)
}

fn difference(shop: &Workshop, ours: &Image, theirs: &Image) -> Result<Option<String>> {
    let found = first_difference(&shop.sandbox, ours.outputs(), theirs.outputs())?;
    Ok(found.map(|found| found.to_string()))
}

fn flip_in_section(bytes: &mut [u8], name: &str) {
    let position =
        cairn_tests::pe::section_data(bytes, name).map(|data| data.as_ptr() as usize - bytes.as_ptr() as usize);
    if let Ok(position) = position {
        bytes[position] ^= 1;
    }
}

/// One file more in the initrd, and another mode in the root.
fn in_a_file(shop: &Workshop, row: &str) -> Result<()> {
    let copy = shop.image.copy_to(&shop.folder(&format!("{row}-files"))?)?;
    let script = "mkdir /tmp/tree; cd /tmp/tree; zstd -qdc /tmp/file | cpio -i --quiet; echo >> etc/cairn/boot.json; \
                  find . | cpio -o --quiet -H newc | zstd -qc";
    fs::write(copy.file("initrd"), remade(shop, "initrd", script)?)?;
    let found = difference(shop, &shop.image, &copy)?.unwrap_or_default();
    ensure!(found.contains("initrd (stage `initrd`)") && found.contains("file /"), "{found}");

    let script = "fsck.erofs --extract=/tmp/tree /tmp/file >/dev/null 2>&1; chmod 600 /tmp/tree/etc/hosts; \
                  mkfs.erofs --quiet /tmp/new /tmp/tree >/dev/null 2>&1; cat /tmp/new";
    fs::write(copy.file("root.erofs"), remade(shop, "root.erofs", script)?)?;
    let found = difference(shop, &shop.image, &copy)?.unwrap_or_default();
    ensure!(found.contains("root.erofs (stage `root`)") && found.contains("file /etc/hosts"), "{found}");
    Ok(())
}

fn remade(shop: &Workshop, suffix: &str, script: &str) -> Result<Vec<u8>> {
    let sandbox = shop.sandbox.clone().bind_read_only(&shop.image.file(suffix), "/tmp/file");
    let output = sandbox.command("sh").args(["-c", script]).output().context("Failed to start a shell")?;
    ensure!(output.status.success() && !output.stdout.is_empty(), "{}", text_of(&output));
    Ok(output.stdout)
}
