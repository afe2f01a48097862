//! Debian packages of the programs: the same bytes twice, and what an operator gets who installs them. `cargo install` gives the same programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cairn_tests::environment::output_of;
use xtask::sandbox::WORK;

use super::Row;
use cairn_tests::workshop::Workshop;

/// Names of the packages, and their programs.
const PACKAGES: [(&str, &str); 2] = [("cairn", "cairn"), ("cairn-key-broker", "key-broker")];
/// What is left out of the fresh root: compilers and virtual machines.
const LEFT_OUT: [&str; 9] = [
    "./dev/*",
    "./proc/*",
    "./run/*",
    "./sys/*",
    "./tmp/*",
    "./usr/include",
    "./usr/lib/gcc",
    "./usr/lib/llvm*",
    "./usr/share/qemu",
];

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("packages_of_two_builds_in_two_directories_are_identical", identical).in_full(),
        Row::new("packages_install_into_a_fresh_root_and_their_programs_run", installed).in_full(),
        Row::new("programs_are_installed_by_cargo_from_a_fresh_clone", by_cargo).in_full(),
    ]
}

/// Builds the packages in a clone; `cache` is the directory of `cairn`.
fn packages(shop: &Workshop, row: &str, cache: Option<&Path>) -> Result<PathBuf> {
    let bench = shop.bench(row)?;
    if cache.is_none() {
        bench.forget_stages(&["programs", "debian-package"])?;
    }
    let mut command = bench.xtask(&["package", "--locked"]);
    bench.must_succeed(command.env("XDG_CACHE_HOME", cache.unwrap_or(&bench.cache)))?;
    Ok(bench.checkout.join("target/packages"))
}

/// From the user's cache, where they stay for the next time.
fn kept_packages(shop: &Workshop, row: &str) -> Result<PathBuf> {
    packages(shop, row, shop.store.folder().parent())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("Failed to list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let are_packages = paths.iter().all(|path| path.extension().is_some_and(|kind| kind == "deb"));
    ensure!(are_packages && paths.len() == PACKAGES.len(), "{paths:?}");
    Ok(paths)
}

fn identical(shop: &Workshop, row: &str) -> Result<()> {
    let (first, second) =
        (kept_packages(shop, &format!("{row}-first"))?, packages(shop, &format!("{row}/second"), None)?);
    for (one, other) in files(&first)?.iter().zip(files(&second)?) {
        let (one, other) = (fs::read(one)?, fs::read(&other).with_context(|| other.display().to_string())?);
        ensure!(one == other, "the packages of two builds differ: {} and {} bytes", one.len(), other.len());
    }
    Ok(())
}

fn installed(shop: &Workshop, row: &str) -> Result<()> {
    let folder = shop.folder(&format!("{row}-work"))?;
    for path in files(&kept_packages(shop, row)?)? {
        fs::copy(&path, folder.join(path.file_name().context("a path without a name")?))?;
    }
    let sandbox = shop.sandbox.clone().bind(&folder, WORK).work_dir(WORK);
    let shell = |script: &str| output_of(sandbox.command("sh").args(["-euc", script]));
    for (package, program) in PACKAGES {
        let field = |name: &str| shell(&format!("dpkg-deb --field {package}_*.deb {name}"));
        ensure!(field("Package")?.trim() == package && field("Architecture")?.trim() == "amd64");
        let depends = field("Depends")?;
        ensure!(depends.contains("libc6 (>= 2.") && depends.contains("libgcc-s1"), "{depends}");
        ensure!(depends.contains("systemd") == (program == "key-broker"), "{depends}");
        check_contents(&shell(&format!("dpkg-deb --contents {package}_*.deb"))?, program)?;
    }
    let conffiles = shell("dpkg-deb --info cairn-key-broker_*.deb conffiles")?;
    ensure!(conffiles == "/etc/default/cairn-key-broker\n", "{conffiles:?}");

    let without: String = LEFT_OUT.iter().map(|path| format!("--exclude='{path}' ")).collect();
    shell(&format!("mkdir fresh; tar -C / --one-file-system {without} -cf - . | tar -C fresh --no-same-owner -xf -"))?;
    shell("dpkg --root=$PWD/fresh --install ./*.deb && dpkg --root=$PWD/fresh --verify cairn cairn-key-broker")?;
    let version = shell("chroot fresh cairn --version")?;
    ensure!(version.starts_with("cairn 0."), "{version}");
    let help = shell("chroot fresh key-broker --help")?;
    ensure!(help.contains("Usage: key-broker"), "{help}");
    let passwd = fs::read_to_string(folder.join("fresh/etc/passwd"))?;
    let account = passwd.lines().find(|line| line.starts_with("cairn-broker:")).context("no account is created")?;
    ensure!(account.ends_with(":/usr/sbin/nologin"), "the account has a shell: {account}");

    let unit = "cairn-key-broker.service";
    let said = shell(&format!("systemd-analyze verify --man=no --root=$PWD/fresh {unit} 2>&1"))?;
    ensure!(!said.contains(unit), "systemd has remarks about the unit: {said}");
    // Exposure in tenths: a unit without any setting of the sandbox has 96.
    shell(&format!("systemd-analyze security --offline=true --threshold=20 --root=$PWD/fresh {unit} >&2"))?;

    shell("dpkg --root=$PWD/fresh --remove cairn cairn-key-broker")?;
    ensure!(folder.join("fresh/etc/default/cairn-key-broker").exists(), "a removed package takes its settings along");
    shell("dpkg --root=$PWD/fresh --purge cairn-key-broker")?;
    ensure!(!folder.join("fresh/etc/default/cairn-key-broker").exists(), "a purged package leaves its settings");
    ensure!(!folder.join("fresh/usr/bin/key-broker").exists(), "a removed package leaves its program");
    Ok(())
}

/// Lines of `dpkg-deb --contents`: mode, owner, size, date, time, path.
fn check_contents(contents: &str, program: &str) -> Result<()> {
    let entries: Vec<Vec<&str>> = contents.lines().map(|line| line.split_whitespace().collect()).collect();
    for entry in &entries {
        let [mode, owner, _, _, _, path, ..] = entry[..] else { anyhow::bail!("{entry:?}") };
        let expected = match path {
            _ if path.ends_with('/') => "drwxr-xr-x",
            _ if path.starts_with("./usr/bin/") => "-rwxr-xr-x",
            _ => "-rw-r--r--",
        };
        ensure!(owner == "root/root" && mode == expected, "{entry:?}");
    }
    let mut wanted = vec![
        format!("./usr/bin/{program}"),
        format!("./usr/share/man/man1/{program}.1.gz"),
        format!("./usr/share/bash-completion/completions/{program}"),
        format!("./usr/share/zsh/vendor-completions/_{program}"),
        format!("./usr/share/fish/vendor_completions.d/{program}.fish"),
    ];
    match program {
        "cairn" => wanted.push("./usr/share/doc/cairn/copyright".into()),
        _ => {
            let own = ["doc/cairn-key-broker/copyright", "man/man1/key-broker-serve.1.gz"];
            wanted.extend(own.map(|path| format!("./usr/share/{path}")));
            wanted.push("./usr/lib/systemd/system/cairn-key-broker.service".into());
            wanted.push("./etc/default/cairn-key-broker".into());
        }
    }
    for path in wanted {
        ensure!(entries.iter().any(|entry| entry.get(5) == Some(&&*path)), "{path} is missing: {contents}");
    }
    Ok(())
}

/// Without optimization, which the rows above have: here it is the commands of the documents that count.
fn by_cargo(shop: &Workshop, row: &str) -> Result<()> {
    let folder = shop.folder(row)?;
    let checkout = folder.join("checkout");
    shop.clone_to(&checkout)?;
    for program in ["cairn", "key-broker"] {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["install", "--locked", "--debug", "--path", program, "--root"]).arg(&folder);
        cargo.current_dir(&checkout).env("CARGO_TARGET_DIR", folder.join("target"));
        output_of(&mut cargo)?;
        let version = output_of(Command::new(folder.join("bin").join(program)).arg("--version"))?;
        ensure!(version.starts_with(&format!("{program} 0.")), "{version}");
        let share = folder.join("share");
        output_of(Command::new(folder.join("bin").join(program)).arg("documents").arg(&share))?;
        ensure!(share.join(format!("man/man1/{program}.1")).exists(), "no man page of {program}");
    }
    Ok(())
}
