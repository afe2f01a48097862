//! Why a compilation failed, in one line, where cargo's own words are many: no network, a full disk.

use std::fmt;

/// A compilation that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What was compiled.
    pub package: String,
    /// The cause.
    pub cause: String,
    /// What to do.
    pub hint: String,
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot compile {}: {}\nhint: {}", self.package, self.cause, self.hint)
    }
}

/// Words of cargo, curl, rustc and the linker, the cause that they name, and the way on. The first that is found counts.
const CAUSES: [(&[&str], &str, &str); 3] = [
    (
        &["No space left on device", "os error 28", "Disk quota exceeded"],
        "the disk is full",
        "make room (`cargo clean`), or set CARGO_TARGET_DIR to a directory on another disk",
    ),
    (
        &["File too large", "os error 27", "File size limit exceeded"],
        "a file grew beyond the limit of this shell (RLIMIT_FSIZE)",
        "ulimit -f unlimited",
    ),
    (
        &[
            "Could not resolve host",
            "Couldn't resolve host",
            "Could not connect to server",
            "Couldn't connect to server",
            "Failed to connect to",
            "failed to download",
            "network failure",
            "Network is unreachable",
            "Timeout was reached",
        ],
        "crates are missing on this host, and their registry does not answer",
        "connect this host to the network, then run `cargo fetch --locked`; later builds need no network",
    ),
];

/// The cause that cargo's standard error names, for the package.
pub fn of_output(package: &str, stderr: &str) -> Failed {
    let known = CAUSES.iter().find(|(words, ..)| words.iter().any(|word| stderr.contains(word)));
    let (cause, hint) = match known {
        Some((_, cause, hint)) => ((*cause).to_owned(), (*hint).to_owned()),
        None => ("see the errors above".to_owned(), format!("cargo build --package {package}")),
    };
    Failed { package: package.to_owned(), cause, hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_and_missing_network_are_named_and_compiler_errors_are_not_renamed() {
        let full = "error: failed to write `/t/a`\n\nCaused by:\n  No space left on device (os error 28)\n";
        let offline = "warning: spurious network error (3 tries remaining): [6] Could not resolve hostname (Could not resolve host: index.example)\n\
                       error: failed to download `a`";
        let limit = "error: failed to write: File too large (os error 27)";
        for (output, cause) in [
            (full, "the disk is full"),
            (offline, "registry does not answer"),
            (limit, "RLIMIT_FSIZE"),
            ("error[E0425]: cannot find value", "see the errors above"),
        ] {
            let text = of_output("xtask", output).to_string();
            assert!(text.starts_with("cannot compile xtask: ") && text.contains(cause), "{text}");
            assert_eq!(text.lines().count(), 2, "{text}");
            assert!(text.lines().nth(1).unwrap_or_default().starts_with("hint: "), "{text}");
        }
    }
}
