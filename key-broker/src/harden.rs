//! What the process does to itself before it has secrets: no core dumps, no swap, no file that others read, and as many open files as the system allows.

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

/// Raises the soft limit of open files to the hard one, and gives the limit that holds then.
pub fn open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            eprintln!("key-broker: cannot raise the limit of open files from {soft} to {hard}: {error}");
            soft
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn soft_limit_of_open_files_is_raised_to_the_hard_limit() {
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        // Enough for the tests beside this one.
        setrlimit(Resource::RLIMIT_NOFILE, hard - 1, hard).unwrap();
        assert_eq!(open_files(), hard);
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
    }
}
