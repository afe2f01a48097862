//! The front of `cargo xtask` with the real cargo and compiler, in a small workspace whose packages have the names of the real ones.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const FRONT: &str = env!("CARGO_BIN_EXE_cargo-xtask");

/// A workspace with the programs `xtask`, `cairn` and `publisher`; `manifest` is added to those of all, `main` is what they do.
fn workspace(manifest: &str, main: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"xtask\", \"cairn\", \"publisher\"]\n");
    for name in ["xtask", "cairn", "publisher"] {
        let own = format!("[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n{manifest}");
        write(&format!("{name}/Cargo.toml"), &own);
        write(&format!("{name}/src/main.rs"), main);
    }
    folder
}

const SHOWS_ITSELF: &str = "fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    println!(\"{} {words:?} {:?}\", env!(\"CARGO_PKG_NAME\"), std::env::var_os(\"CARGO_PKG_NAME\"));
    std::process::exit(3);
}";

/// The front in a workspace, as cargo starts it, with a target directory of its own.
fn front(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(FRONT);
    command.args(arguments).current_dir(folder).env("CARGO_TARGET_DIR", folder.join("target"));
    command.env_remove("CAIRN_PROGRAMS").env_remove("RUSTFLAGS").env("CARGO_PKG_NAME", "cargo-xtask");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Requires a failure whose last two lines are the cause and the hint.
fn must_fail(output: &Output, cause: &str, hint: &str) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let lines: Vec<&str> = errors.trim_end().lines().rev().take(2).collect();
    assert!(lines[1].starts_with("error: cannot compile xtask: ") && lines[1].contains(cause), "{errors}");
    assert!(lines[0].starts_with("hint: ") && lines[0].contains(hint), "{errors}");
}

#[test]
fn command_is_run_by_the_program_that_has_it_with_its_words_and_exit_code() {
    let folder = workspace("", SHOWS_ITSELF);
    for (words, program) in
        [(&["build-image", "--locked"][..], "xtask"), (&["measure", "a b"], "cairn"), (&["keygen", "k"], "publisher")]
    {
        let output = front(folder.path(), words).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        assert_eq!(text(&output.stdout), format!("{program} {words:?} None\n"));
    }
    assert!(!folder.path().join("target/debug/deps/libxtask.rlib").exists());
}

#[test]
fn small_command_does_not_compile_the_builder() {
    let folder = workspace("", SHOWS_ITSELF);
    front(folder.path(), &["keygen"]).output().unwrap();
    let target = folder.path().join("target/debug");
    assert!(target.join("publisher").exists() && !target.join("xtask").exists() && !target.join("cairn").exists());
}

/// In the real workspace: what keys and trust roots are compiled with.
#[test]
fn program_of_keys_depends_on_no_client_of_a_log_and_not_on_the_builder() {
    let tree = |arguments: &[&str]| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["tree", "--offline", "--locked", "--edges", "normal,build", "--prefix", "none", "--package"]);
        let output = cargo.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).lines().filter_map(|line| line.split(' ').next().map(str::to_owned)).collect::<Vec<_>>()
    };
    let heavy = ["reqwest", "hyper", "rustls", "aws-lc-sys", "sigstore", "second-opinion", "xtask", "cairn-image"];
    let has = |tree: &[String]| heavy.into_iter().filter(|name| tree.iter().any(|found| found == name)).count();
    let (keys, publisher) = (tree(&["publisher", "--no-default-features"]), tree(&["publisher"]));
    assert_eq!(has(&keys), 0, "{keys:?}");
    assert!(has(&publisher) > 3, "the control: {publisher:?}");
    assert_eq!(tree(&["cargo-xtask"]), ["cargo-xtask"], "the front is compiled before anything is printed");
}

#[test]
fn long_compilation_is_reported_within_the_first_second_and_counted_at_its_end() {
    let folder = workspace("build = \"build.rs\"\n", SHOWS_ITSELF);
    let slow = "fn main() { std::thread::sleep(std::time::Duration::from_secs(2)); }";
    fs::write(folder.path().join("xtask/build.rs"), slow).unwrap();
    for name in ["cairn", "publisher"] {
        fs::write(folder.path().join(name).join("build.rs"), "fn main() {}").unwrap();
    }
    let run = |words: &[&str]| text(&front(folder.path(), words).output().unwrap().stderr);
    let errors = run(&["boot"]);
    let lines: Vec<&str> = errors.lines().collect();
    // A crate may be done already.
    let (first, is_progress) = (lines[0], lines[0].contains("] compiling xtask") && lines[0].ends_with(" ..."));
    assert!(first.starts_with("[   0.") && is_progress, "{errors}");
    assert!(lines.last().unwrap().contains("compiled xtask: 2 crates"), "{errors}");
    fs::write(folder.path().join("xtask/build.rs"), format!("{slow} // again")).unwrap();
    let json = run(&["build-image", "--json"]);
    assert!(json.lines().all(|line| line.starts_with("{\"type\":\"note\",") && line.ends_with('}')), "{json}");
    assert!(json.contains("compiling xtask"), "{json}");
}

#[test]
fn error_of_the_compiler_is_shown_and_the_command_is_not_run() {
    let folder = workspace("", "fn main() { missing() }");
    let output = front(folder.path(), &["build-image"]).output().unwrap();
    assert!(text(&output.stderr).contains("cannot find function `missing`"), "{}", text(&output.stderr));
    must_fail(&output, "see the errors above", "cargo build --package xtask");
}

/// A command in namespaces of its own, behind a shell command.
fn inside(command: &Command, namespaces: &[&str], script: &str) -> Command {
    let mut outer = Command::new("unshare");
    outer.args(["--user", "--map-root-user"]).args(namespaces).args(["sh", "-euc", script, "sh"]);
    outer.arg(command.get_program()).args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

#[test]
fn full_disk_is_named_as_the_cause() {
    let folder = workspace("", SHOWS_ITSELF);
    fs::create_dir(folder.path().join("target")).unwrap();
    let command = front(folder.path(), &["build-image"]);
    let script = "mount -t tmpfs -o size=64k none target; exec \"$@\"";
    must_fail(&inside(&command, &["--mount"], script).output().unwrap(), "the disk is full", "CARGO_TARGET_DIR");
}

/// The registry is asked at an address that no name server knows, in a network namespace without interfaces.
#[test]
fn missing_network_is_named_as_the_cause_within_seconds() {
    let folder = workspace("[dependencies]\nserde = \"1\"\n", SHOWS_ITSELF);
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    let registry =
        "[source.crates-io]\nreplace-with = \"none\"\n[source.none]\nregistry = \"sparse+https://registry.invalid/\"\n";
    fs::write(home.join("config.toml"), registry).unwrap();
    let mut command = front(folder.path(), &["build-image"]);
    let rustc = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let rustc = Path::new(text(&rustc.stdout).trim()).join("bin/rustc");
    // As cargo sets it: the toolchain's own, which needs no rustup, whose home is elsewhere.
    command.env("CARGO", env!("CARGO")).env("RUSTC", rustc).env("CARGO_HOME", &home);
    let started = Instant::now();
    let output = inside(&command, &["--net"], "exec \"$@\"").output().unwrap();
    must_fail(&output, "registry does not answer", "cargo fetch --locked");
    assert!(started.elapsed() < Duration::from_secs(60), "it took {:?}", started.elapsed());
}
