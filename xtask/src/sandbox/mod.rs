//! Runs a program inside a build-root tree, as any user, without root, bubblewrap or setuid helpers.
//!
//! Linux namespaces (`unshare(2)`, `pivot_root(2)`) give the program the tree as a read-only `/`, private `/tmp` and `/run`, no network, fixed
//! environment, umask and host name, so that what it makes depends on its inputs only. When the caller dies, by whatever signal, everything inside
//! dies too and no mount outlives it. Refused: a mount point that the tree lacks (only `/tmp` and `/run` are writable), or one behind a symbolic link that
//! leaves the tree.
//!
//! The caller re-executes itself: [`maybe_enter`] must be the first statement of `main`, before any thread exists.

mod enter;
mod hint;
mod in_root;
mod mounts;
mod spec;
mod supervise;

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

pub use enter::maybe_enter;
pub use in_root::InRootArgs;
pub use spec::Network;

use spec::{Bind, Spec};

/// Exit code when the sandbox itself could not be made; the reason is on standard error.
pub const EXIT_NOT_ENTERED: i32 = 125;
/// Exit code when the program exists inside but could not be started.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Exit code when there is no such program inside.
pub const EXIT_NOT_FOUND: i32 = 127;

/// Environment variable with the `xtask` program to re-execute, for callers (test binaries) whose `main` does not call [`maybe_enter`].
pub const LAUNCHER_VARIABLE: &str = "CAIRN_XTASK";

/// Where [`InRootArgs`] and others mount the folder that a program works on.
pub const WORK: &str = "/tmp/work";

/// How programs are run inside one root tree. Cheap to clone.
///
/// ```no_run
/// # use std::path::Path;
/// # use xtask::sandbox::Sandbox;
/// let status = Sandbox::new(Path::new("target/build-root/tree"))
///     .bind(Path::new("target/work"), "/tmp/work")
///     .work_dir("/tmp/work")
///     .command("mkfs.erofs")
///     .arg("--version")
///     .status();
/// ```
#[derive(Clone, Debug)]
pub struct Sandbox {
    spec: Spec,
    launcher: Option<PathBuf>,
}

impl Sandbox {
    /// Programs will see `root`, read-only, as `/`. It must have the folders dev, proc, run and tmp.
    pub fn new(root: &Path) -> Self {
        Self { spec: Spec::new(absolute(root)), launcher: None }
    }

    /// Shows the file or folder `host` at `guest`, writable.
    pub fn bind(mut self, host: &Path, guest: impl AsRef<Path>) -> Self {
        self.spec.binds.push(Bind { host: absolute(host), guest: guest.as_ref().to_owned(), read_only: false });
        self
    }

    /// Shows the file or folder `host` at `guest`, read-only (mounts below it keep their own mode).
    pub fn bind_read_only(mut self, host: &Path, guest: impl AsRef<Path>) -> Self {
        self.spec.binds.push(Bind { host: absolute(host), guest: guest.as_ref().to_owned(), read_only: true });
        self
    }

    /// The default is [`Network::None`].
    pub fn network(mut self, network: Network) -> Self {
        self.spec.network = network;
        self
    }

    /// Adds or replaces one environment variable. Nothing of the caller's environment gets in.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.spec.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The program starts in this folder; the default is `/`.
    pub fn work_dir(mut self, guest: impl AsRef<Path>) -> Self {
        self.spec.work_dir = guest.as_ref().to_owned();
        self
    }

    /// The program sees the caller's own user id instead of 0. For root that means: no user namespace, all ids exist and `chown` works.
    pub fn keep_user(mut self) -> Self {
        self.spec.keep_user = true;
        self
    }

    /// The executable to re-execute; its `main` must call [`maybe_enter`]. Default: `CAIRN_XTASK`, else this very executable.
    pub fn launcher(mut self, path: &Path) -> Self {
        self.launcher = Some(path.to_owned());
        self
    }

    /// A command that runs `program` inside: add arguments, set standard input and outputs, spawn it as usual. `program` is looked up in the tree's
    /// `/usr/sbin:/usr/bin`. Environment and folder are set here on [`Sandbox`], not on the command.
    ///
    /// The exit code is the program's, or 128+n if it died of signal n, or [`EXIT_NOT_ENTERED`], [`EXIT_NOT_EXECUTABLE`], [`EXIT_NOT_FOUND`].
    ///
    /// The program is killed when the *thread* that spawned it ends (`PR_SET_PDEATHSIG`): spawn it from the thread that waits for it.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let launcher = match &self.launcher {
            Some(path) => path.clone().into_os_string(),
            None => std::env::var_os(LAUNCHER_VARIABLE).unwrap_or_else(|| OsString::from("/proc/self/exe")),
        };
        let mut command = Command::new(launcher);
        command.arg0("xtask").arg(enter::OUTER).args(self.spec.to_arguments(std::process::id())).arg(program.as_ref());
        command
    }
}

/// Absolute without resolving symbolic links; a relative path counts from the current folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
