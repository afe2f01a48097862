//! A database that was restored, and the bundles of the audit log beside it: those that its own log does not contain continue another database.

use std::path::{Path, PathBuf};

use super::audit::{self, BundleProblem, Bundles};
use crate::store::Store;

/// What was found beside a restored database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Directory to which bundles of the database from before were moved.
    pub aside: Option<PathBuf>,
    /// The last leaf of those that are missing.
    pub missing: Option<Missing>,
}

/// Leaves that are neither in the database nor beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Number of the first one.
    pub first: u64,
    /// Number of the last one.
    pub last: u64,
    /// Where their bundles belong.
    pub directory: PathBuf,
}

/// Moves bundles that the restored database does not continue to `aside`, and looks for those that it needs. The broker must not run.
///
/// # Errors
/// The database or a file cannot be used.
pub fn adopt_bundles(store: &dyn Store, database: &Path, aside: &Path) -> anyhow::Result<Restored> {
    let bundles = Bundles::of(database);
    let first = audit::first_in_database(store)?;
    let needed = first.div_ceil(audit::WIDTH);
    let moved = bundles.set_aside(needed, aside)?;
    let missing = (0..needed).find(|number| !bundles.has(*number)).map(|number| Missing {
        first: number * audit::WIDTH,
        last: first - 1,
        directory: bundles.directory().to_owned(),
    });
    Ok(Restored { aside: (moved > 0).then(|| aside.to_owned()), missing })
}

/// Writes the bundles of a backup, which are verified, beside a restored database. One that is there with other bytes belongs to another log: it is moved to `aside` with all that follow it. The broker must not run.
///
/// # Errors
/// A file cannot be read or written.
pub fn merge_bundles(backup: &Path, database: &Path, aside: &Path) -> anyhow::Result<()> {
    let (backup, bundles) = (Bundles::of(backup), Bundles::of(database));
    for number in backup.numbers()? {
        let first = number * audit::WIDTH;
        let leaves = backup.read(number, (first, first + audit::WIDTH - 1))?;
        if let Err(problem) = bundles.write(number, &leaves) {
            let BundleProblem::Conflict { .. } = problem else { return Err(problem.into()) };
            bundles.set_aside(number, aside)?;
            bundles.write(number, &leaves)?;
        }
    }
    Ok(())
}
