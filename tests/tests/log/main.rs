//! Publishing to a real transparency log (Rekor v2 with a witness, and a timestamp authority) by the `publisher` program, and verifying that without a network by ourselves and by stock cosign. Run by `cargo xtask test`; one row is
//! `cargo xtask test -- ROW`. Where the log server cannot be made, the rows are skipped, and say why.

mod air_gap;
mod answers;
mod broker_witness;
mod channel;
mod fake;
mod keys;
mod monitor;
mod npm;
mod published;
mod recipe;
mod recorded;
mod rekor_v1;
mod release;
mod scene;
mod timestamps;
mod troubles;
mod trust;

use std::process::ExitCode;

use cairn_tests::harness;
use scene::Scene;
use xtask::log_server::programs::Unavailable;

/// Rows at a time: most of them wait for the log.
const AT_A_TIME: usize = 2;

type Row = harness::Row<Scene>;

fn main() -> ExitCode {
    let rows = [
        air_gap::rows(),
        answers::rows(),
        broker_witness::rows(),
        channel::rows(),
        keys::rows(),
        monitor::rows(),
        npm::rows(),
        published::rows(),
        timestamps::rows(),
        troubles::rows(),
        recipe::rows(),
        recorded::rows(),
        rekor_v1::rows(),
        release::rows(),
    ];
    let rows = rows.into_iter().flatten().collect();
    match Scene::open() {
        Err(error) if error.is::<Unavailable>() => harness::skip(&format!("{error:#}"), rows),
        scene => harness::run(AT_A_TIME, scene, rows),
    }
}
