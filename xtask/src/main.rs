//! `cargo xtask`: see `cargo xtask --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Must come first: a sandboxed program is this one, started again.
    xtask::sandbox::maybe_enter();
    xtask::cli::main()
}
