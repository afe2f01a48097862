//! Places where a test kills the broker, to see that nothing is released twice and nothing is lost. Compiled in with the feature `fault-points` alone, which no release has.

/// Kills the process here, as `kill -9` does, if the variable CAIRN_FAULT names this place.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    if std::env::var_os("CAIRN_FAULT").is_some_and(|wanted| wanted == name) {
        // Where even that fails, it ends otherwise.
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "fault-points"))]
pub const fn point(_name: &str) {}
