//! Places where a test kills the broker, to see that nothing is released twice and nothing is lost. Compiled in with the feature `fault-points` alone, which no release has.

/// Ends the process here if the variable CAIRN_FAULT names this place.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    if std::env::var_os("CAIRN_FAULT").is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "fault-points"))]
pub const fn point(_name: &str) {}
