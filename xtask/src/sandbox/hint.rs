//! Says what to do on a host that forbids unprivileged user namespaces: the kernel's answer is a bare "Operation not permitted".

use std::fs;

use anyhow::Error;
use nix::errno::Errno;

/// Settings that forbid user namespaces, the value that does, and the way on.
const SETTINGS: [(&str, &str, &str); 3] = [
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile that allows userns",
    ),
    ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl user.max_user_namespaces=10000"),
];

const CONTAINER: &str = "in a container: docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
                         --security-opt systempaths=unconfined (podman: --security-opt unmask=ALL), as root also --cap-add SYS_ADMIN";

/// The error for a refused `unshare(2)`.
pub(super) fn refused(errno: Errno, is_root: bool) -> Error {
    let what = if is_root { "namespaces" } else { "unprivileged user namespaces" };
    let error = Error::new(errno).context(format!("This host refuses {what} (unshare)"));
    match errno {
        Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::EUSERS => with_advice(error),
        _ => error,
    }
}

/// Adds the advice when the cause is a permission that the host withholds, also after a successful `unshare(2)` (AppArmor).
pub(super) fn explain(error: Error) -> Error {
    let errno = error.chain().find_map(|cause| {
        let raw = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error).map(Errno::from_raw);
        cause.downcast_ref::<Errno>().copied().or(raw)
    });
    if matches!(errno, Some(Errno::EPERM | Errno::EACCES)) { with_advice(error) } else { error }
}

fn with_advice(error: Error) -> Error {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let advice = advice(read);
    error.context(format!("the sandbox needs user namespaces; {advice}"))
}

/// What to try, given a reader of kernel settings.
fn advice(read: impl Fn(&str) -> Option<String>) -> String {
    let blocking = SETTINGS.iter().filter(|(path, value, _)| read(path).as_deref() == Some(value));
    let found: Vec<String> = blocking.map(|(path, value, cure)| format!("{path} is {value}, try: {cure}")).collect();
    if found.is_empty() { CONTAINER.to_owned() } else { found.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_blocks_is_named() {
        for (blocking, value, _) in SETTINGS {
            let text = advice(|path| Some(if path == blocking { value.into() } else { "7".into() }));
            assert!(text.starts_with(&format!("{blocking} is {value}")), "{text}");
            assert!(!text.contains("docker"), "{text}");
        }
    }

    #[test]
    fn without_a_blocking_setting_the_container_is_suspected() {
        assert!(advice(|_| None).contains("seccomp=unconfined"));
    }

    #[test]
    fn only_withheld_permission_gets_advice() {
        for (errno, advised) in [(Errno::EPERM, true), (Errno::EACCES, true), (Errno::ENOENT, false)] {
            let nix = explain(Error::new(errno).context("Failed to mount"));
            let io = explain(Error::new(std::io::Error::from_raw_os_error(errno as i32)).context("Failed to write"));
            for error in [nix, io] {
                assert_eq!(format!("{error:#}").contains("user namespaces"), advised, "{error:#}");
            }
        }
    }
}
