//! A socket on which each read and write ends in time: after `patience`, and at the deadline of the exchange that it belongs to, whichever comes first.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A socket with a deadline.
pub struct TimedSocket {
    socket: TcpStream,
    patience: Duration,
    deadline: Instant,
}

impl TimedSocket {
    /// A connected socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(socket: TcpStream, patience: Duration, deadline: Instant) -> Result<Self> {
        socket.set_nodelay(true)?;
        Ok(Self { socket, patience, deadline })
    }

    pub(crate) fn connect(address: SocketAddr, patience: Duration, deadline: Instant) -> Result<Self> {
        Self::new(TcpStream::connect_timeout(&address, patience)?, patience, deadline)
    }

    pub(crate) fn set_deadline(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// How long the next read or write may take.
    fn left(&self) -> Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now()).min(self.patience);
        if left.is_zero() {
            return Err(Error::new(ErrorKind::TimedOut, "the exchange took too long"));
        }
        Ok(left)
    }

    /// The kernel reports a time-out as `EAGAIN`, which says nothing to whoever reads it.
    fn explain(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::WouldBlock if Instant::now() >= self.deadline => {
                Error::new(ErrorKind::TimedOut, "the exchange took too long")
            }
            ErrorKind::WouldBlock => Error::new(ErrorKind::TimedOut, format!("silent for {:?}", self.patience)),
            _ => error,
        }
    }
}

impl Read for TimedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buffer).map_err(|error| self.explain(error))
    }
}

impl Write for TimedSocket {
    fn write(&mut self, buffer: &[u8]) -> Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(buffer).map_err(|error| self.explain(error))
    }

    fn flush(&mut self) -> Result<()> {
        self.socket.flush()
    }
}
