//! What the process does to itself before it has secrets: no core dumps, no swap, no file that others read.

use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl::set_dumpable;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;

/// What the process may need, opening its keys above all. With less, locking would succeed now and be missed by an allocation later.
const NEEDED: u64 = 512 << 20;

/// No file that this process makes is readable by others: databases, their copies, keys, folders.
pub fn files() {
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
}

/// Does the rest; what the system does not allow is said.
pub fn process() {
    if let Err(error) = setrlimit(Resource::RLIMIT_CORE, 0, 0).and_then(|()| set_dumpable(false)) {
        eprintln!("key-broker: core dumps cannot be switched off: {error}");
    }
    if let Err(problem) = lock_memory() {
        eprintln!("key-broker: memory cannot be locked ({problem}): switch swap off, or set LimitMEMLOCK=infinity");
    }
}

fn lock_memory() -> Result<(), String> {
    let (_, most) = getrlimit(Resource::RLIMIT_MEMLOCK).map_err(|error| error.to_string())?;
    if !geteuid().is_root() && most < NEEDED {
        return Err(format!("the limit is {most} bytes"));
    }
    // Root is not bound by it.
    setrlimit(Resource::RLIMIT_MEMLOCK, most, most)
        .and_then(|()| mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE))
        .map_err(|error| error.to_string())
}
