//! Boots images in virtual machines, and attacks them. Run by `cargo xtask test`; one row is `cargo xtask test -- ROW`.

mod authenticated;
mod boots;
mod changes;
mod devices;
mod esp_files;
mod external_journal;
#[path = "../../../crates/transparency/tests/fake/mod.rs"]
mod fake;
mod foreign;
mod host_inputs;
mod hostile;
mod lost;
mod nodes;
mod persistence;
mod predictions;
#[path = "../broker/publisher.rs"]
mod publisher;
mod releases;
mod root;
mod secrets;
mod state_disks;
mod workloads;

use std::process::ExitCode;

use cairn_tests::harness;
use cairn_tests::suite::Suite;

/// Small machines at a time.
const MACHINES: usize = 2;

type Row = harness::Row<Suite>;

fn main() -> ExitCode {
    let transcripts = concat!(env!("CARGO_TARGET_TMPDIR"), "/vm").into();
    // Long ones first: at the end, both processors have something to do.
    let rows = [
        persistence::rows(),
        nodes::rows(),
        state_disks::rows(),
        lost::rows(),
        secrets::rows(),
        releases::rows(),
        external_journal::rows(),
        esp_files::rows(),
        authenticated::rows(),
        hostile::rows(),
        workloads::rows(),
        predictions::rows(),
        foreign::rows(),
        devices::rows(),
        changes::rows(),
        boots::rows(),
        host_inputs::rows(),
        root::rows(),
    ]
    .into_iter()
    .flatten()
    .collect();
    harness::run(MACHINES, Suite::from_environment(transcripts), rows)
}
