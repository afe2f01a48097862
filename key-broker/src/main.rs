//! `key-broker`: see `key-broker --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    key_broker::cli::main()
}
