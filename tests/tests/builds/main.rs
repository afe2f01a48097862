//! Whole builds by the `xtask` program: the same twice, only what changed, and with everything going wrong that can.

mod bad_hosts;
mod bad_mirrors;
mod bad_sources;
mod caching;
mod interrupted;
mod packages;
mod rebuilt;
mod reproducible;

use std::process::ExitCode;

use cairn_tests::harness;
use cairn_tests::workshop::Workshop;

/// Rows at a time. Each has a checkout and a cache of its own, and most of a build runs on one processor.
const AT_A_TIME: usize = 2;

type Row = harness::Row<Workshop>;

fn main() -> ExitCode {
    // Long ones first: at the end, both processors have something to do.
    let rows = [
        reproducible::rows(),
        caching::rows(),
        interrupted::rows(),
        rebuilt::rows(),
        packages::rows(),
        bad_hosts::rows(),
        bad_mirrors::rows(),
        bad_sources::rows(),
    ];
    harness::run(AT_A_TIME, Workshop::open(), rows.into_iter().flatten().collect())
}
