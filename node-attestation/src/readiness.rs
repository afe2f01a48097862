//! Tells systemd that questions are answered (sd_notify(3)): a node that has reached its target answers.

use std::io;
use std::os::unix::net::UnixDatagram;

const VARIABLE: &str = "NOTIFY_SOCKET";

/// Says so, if somebody wants to know.
///
/// # Errors
/// The socket's.
pub fn tell() -> io::Result<()> {
    let Some(socket) = std::env::var_os(VARIABLE) else { return Ok(()) };
    UnixDatagram::unbound()?.send_to(b"READY=1", socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_where_nobody_asked() {
        assert!(std::env::var_os(VARIABLE).is_none());
        tell().unwrap();
    }
}
