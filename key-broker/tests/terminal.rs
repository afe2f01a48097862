//! What `key-broker` prints of files that others wrote.

#![allow(clippy::unwrap_used)]

use std::process::Command;

#[test]
fn escape_codes_in_input_files_do_not_reach_the_terminal() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broker.toml"), "\"\\u001b[2J\" = 1\n").unwrap();
    for name in ["broker.toml", "\u{1b}[2Jmissing.toml"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_key-broker"));
        let output = command.args(["--config", name, "status"]).current_dir(folder.path()).output().unwrap();
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{printed:?}");
        assert!(printed.contains("\\u{1b}[2J"), "{printed:?}");
        assert!(!printed.contains(|letter: char| letter.is_control() && letter != '\n'), "{printed:?}");
    }
}
