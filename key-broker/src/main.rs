//! `key-broker`: see `key-broker --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    key_broker::cli::main()
}
