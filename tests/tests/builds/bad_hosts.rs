//! Hosts that lack something: a program, a place to write, room.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Row;
use cairn_tests::workshop::Workshop;

/// An account that no host has.
pub const OTHER_USER: &str = "54321";

pub fn rows() -> Vec<Row> {
    vec![
        Row::new("a_host_without_a_program_is_told_the_one_line", missing_program),
        Row::new("an_output_folder_that_cannot_be_made_is_named", |shop, row| {
            let bench = shop.bench(row)?;
            for out in ["/proc/cairn", "os/image.toml/here"] {
                bench.must_fail(&mut bench.xtask(&["build-image", "--out", out]), &[out, "--out"])?;
            }
            bench.must_be_clean()
        }),
        Row::new("a_cache_folder_that_cannot_be_made_is_named", |shop, row| {
            let bench = shop.bench(row)?;
            let mut build = bench.xtask(&["build-image"]);
            bench.must_fail(build.env("XDG_CACHE_HOME", "/proc/cairn"), &["/proc/cairn", "XDG_CACHE_HOME"])
        }),
        Row::new("a_full_disk_leaves_no_output", full_output),
        Row::new("a_full_cache_leaves_no_stage", full_cache),
    ]
}

/// As an ordinary user: root would install it.
fn missing_program(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    let mut command = bench.xtask(&["build-image"]);
    command.env("PATH", "/nonexistent");
    if nix::unistd::geteuid().is_root() {
        let program = command.get_program().to_owned();
        let mut other = Command::new("setpriv");
        let ids = [format!("--reuid={OTHER_USER}"), format!("--regid={OTHER_USER}")];
        other.args(ids).arg("--clear-groups").arg("env").args(["PATH=/nonexistent"]).arg(program).arg("build-image");
        other.current_dir(&bench.checkout);
        command = other;
    }
    bench.must_fail(&mut command, &["sudo apt-get install --yes apt git"])
}

/// A command with a small file system of its own on `folder`, in a mount namespace. Shell commands with the same view run `before` and `after` it; there, `$0`
/// is the folder.
pub fn on_small_disk(command: &Command, folder: &Path, before: &str, after: &str) -> Result<Command> {
    fs::create_dir_all(folder).with_context(|| format!("Failed to make {}", folder.display()))?;
    let script =
        format!("mount -t tmpfs -o size=40m none \"$0\" && {before} && {{ \"$@\"; code=$?; {after}; exit $code; }}");
    Ok(inside(command, &["--mount"], &["sh".as_ref(), "-c".as_ref(), script.as_ref(), folder.as_os_str()]))
}

/// A command in namespaces of its own, behind further words in front of it.
pub fn inside(command: &Command, namespaces: &[&str], before: &[&OsStr]) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(["--user", "--map-root-user"]).args(namespaces).args(before);
    outer.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        outer.current_dir(folder);
    }
    outer
}

fn full_output(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    let disk = bench.folder.join("disk");
    let out = disk.join("image").to_string_lossy().into_owned();
    let build = bench.xtask(&["build-image", "--out", &out]);
    let mut command = on_small_disk(&build, &disk, "true", "ls -A \"$0/image\" | sed 's/^/left: /'")?;
    let output = command.output().context("Failed to start unshare")?;
    let text = cairn_tests::workshop::text_of(&output);
    ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
    ensure!(text.contains("No space left on device") && text.contains("cairn_"), "{text}");
    let left: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("left: ")).collect();
    ensure!(left == [".lock"], "files are left: {left:?}");
    bench.must_be_clean()?;
    // With room again, the next run just works.
    bench.must_succeed(&mut bench.xtask(&["build-image"])).map(drop)
}

fn full_cache(shop: &Workshop, row: &str) -> Result<()> {
    let bench = shop.bench(row)?;
    // Everything but the root is there; the small disk is where it would go.
    bench.forget_stages(&["root"])?;
    let full = bench.folder.join("full");
    fs::rename(&bench.cache, &full).context("Failed to move the cache")?;
    let fill = format!("cp -a '{}/.' \"$0\"", full.display());
    let build = bench.xtask(&["build-image"]);
    let mut command = on_small_disk(&build, &bench.cache, &fill, "ls -A \"$0/cairn/tmp\" | sed 's/^/left: /'")?;
    let output = command.output().context("Failed to start unshare")?;
    let text = cairn_tests::workshop::text_of(&output);
    ensure!(output.status.code() == Some(1), "{:?}: {text}", output.status);
    ensure!(
        text.contains("The stage `root` failed") && text.contains("is full") && text.contains("make room"),
        "{text}"
    );
    ensure!(!text.contains("left: "), "temporary folders are left: {text}");
    Ok(())
}
