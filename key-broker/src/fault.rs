//! Places where a test kills the broker, to see that nothing is released twice and nothing is lost, or holds it, to change something between a verification and the transaction that follows. Compiled in with the feature `fault-points` alone, which no release has.

/// Kills the process here, as `kill -9` does, if the variable CAIRN_FAULT names this place. Waits here, for at most a minute, until the file in CAIRN_HOLD_UNTIL is there, if CAIRN_HOLD names it; the file beside it with the suffix `.reached` says that it waits.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    let names = |variable: &str| std::env::var_os(variable).is_some_and(|wanted| wanted == name);
    if names("CAIRN_FAULT") {
        // Where even that fails, it ends otherwise.
        let _ = nix::sys::signal::kill(nix::unistd::getpid(), nix::sys::signal::Signal::SIGKILL);
        std::process::abort();
    }
    if names("CAIRN_HOLD")
        && let Some(until) = std::env::var_os("CAIRN_HOLD_UNTIL").map(std::path::PathBuf::from)
    {
        let _ = std::fs::write(until.with_extension("reached"), "");
        for _ in 0..600 {
            if until.exists() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }
}

/// By how many seconds a test sets the host's clock forward or back: CAIRN_CLOCK_OFFSET, or the content of the file that it names as `@PATH`, which the test may change meanwhile.
#[cfg(feature = "fault-points")]
pub fn clock_offset() -> i64 {
    let text = std::env::var("CAIRN_CLOCK_OFFSET").unwrap_or_default();
    let text = text.strip_prefix('@').map_or(text.clone(), |path| std::fs::read_to_string(path).unwrap_or_default());
    text.trim().parse().unwrap_or(0)
}

/// None.
#[cfg(not(feature = "fault-points"))]
pub const fn clock_offset() -> i64 {
    0
}

/// Nothing.
#[cfg(not(feature = "fault-points"))]
pub const fn point(_name: &str) {}
