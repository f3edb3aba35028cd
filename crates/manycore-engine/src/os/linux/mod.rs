//! Linux 5.4 or later: memfd, futex, pidfd, epoll, eventfd, pipe.

pub mod clock;
pub mod cpus;
mod groups;
pub mod image;
pub mod inherit;
pub mod kin;
pub mod lifeline;
pub mod limits;
pub mod memory;
pub mod name;
pub mod packets;
#[cfg(not(loom))]
pub mod park;
pub mod room;
pub mod spawn;
pub mod transfer;
pub mod watch;

use crate::error::Error;

/// The engine's error for a system call that failed while `attempt` was made.
fn refused(attempt: &str) -> impl FnOnce(rustix::io::Errno) -> Error + '_ {
    move |errno| Error::os(attempt, errno.raw_os_error())
}
