//! The sandbox, on a real build root: `CAIRN_BUILD_ROOT` names it, as `cargo xtask test` sets it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use xtask::sandbox::{EXIT_NOT_ENTERED, EXIT_NOT_FOUND, Network, Sandbox};

fn sandbox() -> Sandbox {
    cairn_tests::environment::sandbox().unwrap()
}

fn shell(sandbox: &Sandbox, script: &str) -> Output {
    sandbox.command("sh").args(["-c", script]).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn the_program_is_user_zero_in_a_fixed_environment() {
    let script = "id -u; id -g; umask; hostname; pwd; env | sort; ls /proc | grep -c '^[0-9]'";
    let output = text(&shell(&sandbox().env("A", "b c").work_dir("/tmp"), script));
    let lines: Vec<&str> = output.lines().collect();
    let expected =
        ["0", "0", "0022", "localhost", "/tmp", "A=b c", "HOME=/tmp", "LC_ALL=C.UTF-8", "PATH=/usr/sbin:/usr/bin"];
    assert_eq!(lines[..9], expected);
    assert!(lines.contains(&"TZ=UTC"), "{output}");
    let processes: u32 = lines.last().unwrap().parse().unwrap();
    assert!(processes <= 5, "the program sees processes of the host: {output}");
}

#[test]
fn only_scratch_folders_and_writable_binds_can_be_written() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox().bind(folder.path(), "/tmp/rw").bind_read_only(folder.path(), "/tmp/ro");
    for (path, writable) in [
        ("/x", false),
        ("/usr/x", false),
        ("/tmp/ro/x", false),
        ("/tmp/rw/x", true),
        ("/tmp/x", true),
        ("/run/x", true),
        ("/var/lib/swtpm-localca/x", true),
    ] {
        let output = shell(&sandbox, &format!("echo made > {path}"));
        assert_eq!(output.status.success(), writable, "{path}: {output:?}");
    }
    assert_eq!(fs::read_to_string(folder.path().join("x")).unwrap(), "made\n");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn one_file_can_be_shown_inside() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "content").unwrap();
    let output = shell(&sandbox().bind_read_only(file.path(), "/tmp/deep/file"), "cat /tmp/deep/file");
    assert_eq!(text(&output), "content");
}

#[test]
fn the_network_is_absent_unless_asked_for() {
    let interfaces = |sandbox: &Sandbox| text(&shell(sandbox, "tail -n +3 /proc/net/dev | cut -d: -f1"));
    assert_eq!(interfaces(&sandbox()), "lo");
    let host = fs::read_to_string("/proc/net/dev").unwrap();
    assert_eq!(interfaces(&sandbox().network(Network::Host)).lines().count(), host.lines().count() - 2);
}

#[test]
fn exit_codes_and_signals_pass_through() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -TERM $$", 143)] {
        assert_eq!(shell(&sandbox(), script).status.code(), Some(code), "{script}");
    }
    let missing = sandbox().command("no-such-program").output().unwrap();
    assert_eq!(missing.status.code(), Some(EXIT_NOT_FOUND), "{missing:?}");
}

#[test]
fn a_mount_point_that_the_tree_lacks_is_an_error_that_names_it() {
    let output = shell(&sandbox().bind(Path::new("/"), "/usr/nowhere"), "true");
    assert_eq!(output.status.code(), Some(EXIT_NOT_ENTERED));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("/usr/nowhere") && message.contains("/tmp"), "{message}");
}

#[test]
fn standard_input_and_orphans_are_handled() {
    let mut command = sandbox().command("sh");
    command.args(["-c", "(sleep 300 &) ; cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"through").unwrap();
    assert_eq!(text(&child.wait_with_output().unwrap()), "through");
    assert!(start.elapsed() < Duration::from_secs(60), "an orphan kept the sandbox alive");
}

#[test]
fn a_termination_request_reaches_the_program() {
    let mut command = sandbox().command("sh");
    command.args(["-c", "trap 'echo asked; exit 7' TERM; echo ready; while :; do sleep 0.1; done"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut output, &mut line).unwrap();
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(7));
}

#[test]
fn killing_the_outermost_process_leaves_nothing_running() {
    // An argument that no other process has.
    let marker = format!("86399.{}", std::process::id());
    let mut child = sandbox().command("sh").args(["-c", &format!("sleep {marker} & sleep {marker}")]).spawn().unwrap();
    wait_until("the program runs", || running(&marker) >= 2);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the program is gone", || running(&marker) == 0);
}

/// How many processes have `marker` as an argument of their own.
fn running(marker: &str) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|word| word == marker.as_bytes())).count()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_program_that_keeps_the_user_may_make_user_namespaces() {
    let output = shell(&sandbox().keep_user(), "id -u; unshare --user --map-root-user id -u");
    let own = Command::new("id").arg("-u").output().unwrap();
    assert_eq!(text(&output), format!("{}\n0", text(&own)));
}
