//! The two processes between a caller and its program inside a sandbox.
//!
//! The outer one leaves the caller's namespaces (`unshare(2)`, `user_namespaces(7)`), makes the mounts and starts the inner one, which is then process 1 of
//! the new process namespace: it mounts `/proc`, changes the root and starts the program. Both stay: as process 1 the program itself would be immune to Ctrl-C
//! and would have to reap orphans.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{getgid, getpid, getppid, getuid, sethostname};

use super::spec::{Network, Spec};
use super::supervise::Supervisor;
use super::{EXIT_NOT_ENTERED, EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, hint, mounts};

/// First argument of the process that leaves the caller's namespaces.
pub(super) const OUTER: &str = "__sandbox";
/// First argument of process 1 inside.
const INNER: &str = "__sandbox-init";

/// Becomes a sandbox if this process was started as one, and then never returns. First statement of `main`.
pub fn maybe_enter() {
    let mut arguments = std::env::args_os().skip(1);
    let Some(first) = arguments.next() else { return };
    let run = match first.to_str() {
        Some(OUTER) => outer,
        Some(INNER) => inner,
        _ => return,
    };
    let code = run(arguments.collect()).unwrap_or_else(|error| {
        eprintln!("xtask: Failed to enter the sandbox: {error:#}");
        EXIT_NOT_ENTERED
    });
    std::process::exit(code);
}

fn outer(words: Vec<OsString>) -> Result<i32> {
    let (spec, parent, program) = Spec::from_arguments(words)?;
    let supervisor = Supervisor::new()?;
    let own_user = (getuid().as_raw(), getgid().as_raw());
    leave_namespaces(&spec, own_user)?;
    // After the change of credentials, which clears it.
    die_with_parent()?;
    let same = |id: nix::unistd::Pid| id.as_raw().unsigned_abs() == parent;
    ensure!(same(getppid()) || same(getpid()), "the caller (process {parent}) has already ended");

    mounts::prepare(&spec).map_err(hint::explain)?;
    sethostname("localhost").context("Failed to set the host name")?;
    umask(Mode::from_bits_truncate(0o022));
    let inner = Command::new("/proc/self/exe")
        .arg0("xtask")
        .arg(INNER)
        .arg(format!("{}:{}", own_user.0, own_user.1))
        .args(spec.to_arguments(std::process::id()))
        .args(program)
        .spawn()
        .context("Failed to start process 1 of the sandbox")?;
    supervisor.wait(inner.id())
}

fn inner(mut words: Vec<OsString>) -> Result<i32> {
    ensure!(!words.is_empty(), "the caller's user is missing");
    let own_user = words.remove(0);
    let (spec, parent, program) = Spec::from_arguments(words)?;
    let supervisor = Supervisor::new()?;
    die_with_parent()?;
    ensure!(outer_parent()? == Some(parent), "the outer process of the sandbox has already ended");

    mounts::mount_proc(&spec.root).map_err(hint::explain)?;
    mounts::change_root(&spec.root).map_err(hint::explain)?;
    if spec.keep_user {
        become_caller(&own_user)?;
    }
    std::env::set_current_dir(&spec.work_dir)
        .with_context(|| format!("There is no folder {} inside", spec.work_dir.display()))?;
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).env_clear();
    command.envs([("PATH", "/usr/sbin:/usr/bin"), ("HOME", "/tmp"), ("LC_ALL", "C.UTF-8"), ("TZ", "UTC")]);
    command.envs(spec.environment);
    match supervisor.spawn(&mut command) {
        Ok(child) => supervisor.wait(child.id()),
        Err(error) => {
            let name = program[0].display();
            eprintln!("xtask: Failed to start {name} inside {}: {error}", spec.root.display());
            let missing = error.kind() == std::io::ErrorKind::NotFound;
            Ok(if missing { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE })
        }
    }
}

fn die_with_parent() -> Result<()> {
    set_pdeathsig(Signal::SIGKILL).context("Failed to ask for a signal at the caller's death (PR_SET_PDEATHSIG)")
}

/// The parent's process id as the outer process numbers it: getppid(2) gives 0 here, the parent is in another namespace.
fn outer_parent() -> Result<Option<u32>> {
    let status = fs::read_to_string("/proc/self/status").context("Failed to read /proc/self/status")?;
    Ok(status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|text| text.trim().parse().ok()))
}

/// Moves this process into new namespaces, as user 0 of a user namespace unless the caller is root and keeps its user.
fn leave_namespaces(spec: &Spec, own_user: (u32, u32)) -> Result<()> {
    let mut flags =
        CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    if spec.network == Network::None {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    let is_root = own_user.0 == 0;
    if is_root && spec.keep_user {
        return unshare(flags).map_err(|errno| hint::refused(errno, true));
    }
    match unshare(flags | CloneFlags::CLONE_NEWUSER) {
        Ok(()) => map_users((0, 0), own_user),
        // Root in a container that allows namespaces, but not user namespaces.
        Err(Errno::EPERM | Errno::ENOSPC | Errno::EINVAL | Errno::EUSERS) if is_root => {
            unshare(flags).map_err(|errno| hint::refused(errno, true))
        }
        Err(errno) => Err(hint::refused(errno, is_root)),
    }
}

/// Undoes the mapping to user 0 by one more user namespace. Root kept its user from the start.
fn become_caller(own_user: &OsString) -> Result<()> {
    let ids = own_user.to_str().and_then(|text| text.split_once(':'));
    let (uid, gid) = ids.context("the caller's user is not uid:gid")?;
    let own_user = (uid.parse().context("bad uid")?, gid.parse().context("bad gid")?);
    if own_user.0 == 0 {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| hint::refused(errno, false))?;
    map_users(own_user, (0, 0))?;
    die_with_parent()
}

/// Maps one user and one group, (user, group) inside and outside: all that an ordinary user may map.
fn map_users(inside: (u32, u32), outside: (u32, u32)) -> Result<()> {
    let write = |path: &str, text: String| {
        fs::write(Path::new(path), &text)
            .with_context(|| format!("Failed to write {text:?} to {path}"))
            .map_err(hint::explain)
    };
    write("/proc/self/setgroups", "deny".into())?;
    write("/proc/self/uid_map", format!("{} {} 1", inside.0, outside.0))?;
    write("/proc/self/gid_map", format!("{} {} 1", inside.1, outside.1))
}
