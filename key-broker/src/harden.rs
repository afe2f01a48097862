//! What the process does to itself before it has secrets: no core dumps, no swap, no file that others read.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Does it; what the system does not allow is said.
pub fn process() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| set_dumpable(false)) {
        eprintln!("key-broker: core dumps cannot be switched off: {error}");
    }
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE) {
        eprintln!("key-broker: memory cannot be locked ({error}): switch swap off, or raise LimitMEMLOCK");
    }
}
