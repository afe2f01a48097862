//! The key broker's program, attacked over TLS by nodes that are nothing but a TPM emulator: each row changes one thing, and the audit log must have exactly the code of the [table](cairn_tests::attacks). Run by
//! `cargo xtask test`; one row is `cargo xtask test -- ROW`.

mod availability;
mod bodies;
mod clock;
mod commits;
mod crashes;
// The log that lies is the one that the chain of checks is tested with.
mod evidence;
#[path = "../../../crates/transparency/tests/fake/mod.rs"]
mod fake;
mod files;
mod forged_rows;
mod growth;
mod holds;
mod identity;
mod impostors;
mod lost;
mod meanwhile;
mod measured;
mod migrated;
mod operation;
mod published;
mod publisher;
mod readiness;
mod repeats;
mod scene;
mod sessions;
mod shares;
mod strangers;

use std::process::ExitCode;

use cairn_tests::harness;
use cairn_tests::suite::Suite;

/// Rows at a time: they wait for each other's processors.
const AT_A_TIME: usize = 2;

type Row = harness::Row<Suite>;

fn main() -> ExitCode {
    let transcripts = concat!(env!("CARGO_TARGET_TMPDIR"), "/broker").into();
    let rows = [
        evidence::rows(),
        identity::rows(),
        holds::rows(),
        shares::rows(),
        forged_rows::rows(),
        growth::rows(),
        migrated::rows(),
        commits::rows(),
        meanwhile::rows(),
        availability::rows(),
        readiness::rows(),
        measured::rows(),
        sessions::rows(),
        repeats::rows(),
        strangers::rows(),
        impostors::rows(),
        bodies::rows(),
        operation::rows(),
        files::rows(),
        lost::rows(),
        published::rows(),
        clock::rows(),
        crashes::rows(),
    ];
    harness::run(AT_A_TIME, Suite::from_environment(transcripts), rows.into_iter().flatten().collect())
}
