//! The kernel's device events (`netlink(7)`, NETLINK_KOBJECT_UEVENT), used as a bell only: any event means "look
//! again", its text is not read. Opened before the first module is loaded, so that none is missed.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

use crate::code::Code;
use crate::failure::Failure;
use crate::process_one;

/// The multicast group of the kernel itself.
const KERNEL_GROUP: u32 = 1;
/// Longest sleep without a look: a lost event costs this much, not the boot.
const LONGEST_SLEEP: Duration = Duration::from_millis(500);

/// An open socket.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Starts to listen.
    ///
    /// # Errors
    /// `DEVICE_EVENTS_FAILED`.
    pub fn open() -> Result<Self, Failure> {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let protocol = SockProtocol::NetlinkKObjectUEvent;
            let socket = socket(AddressFamily::Netlink, SockType::Datagram, flags, protocol)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
            Ok(Self { socket })
        };
        open().map_err(failure)
    }

    /// Sleeps until something happened to a device, for `limit` at most.
    ///
    /// # Errors
    /// `DEVICE_EVENTS_FAILED`.
    pub fn wait(&mut self, limit: Duration) -> Result<(), Failure> {
        let timeout = PollTimeout::try_from(limit.min(LONGEST_SLEEP)).unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(failure(error)),
        }
        process_one::reap();
        self.drain()
    }

    /// Takes what has queued up; an overrun (ENOBUFS) means events too.
    fn drain(&mut self) -> Result<(), Failure> {
        let mut event = [0; 8192];
        loop {
            match recv(self.socket.as_raw_fd(), &mut event, MsgFlags::empty()) {
                Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(failure(error)),
            }
        }
    }
}

fn failure(error: Errno) -> Failure {
    Failure::new(Code::DeviceEventsFailed, format!("the kernel's device events: {error}"))
}
