//! One wait over many processes and one bell.
//!
//! A process is watched through its pidfd, which becomes readable when it ends:
//! no polling, no signal handler, and no other process can take its number
//! while we hold it.

use super::refused;
use crate::error::{Error, Kind, Result};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// A counter in the kernel that wakes whoever waits for it.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// A silent bell.
    pub fn new() -> Result<Bell> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        eventfd(0, flags).map(Bell).map_err(refused("creating a bell (eventfd)"))
    }

    /// The bell behind a descriptor that came from another process.
    pub fn from_fd(fd: OwnedFd) -> Bell {
        Bell(fd)
    }

    /// Wakes the waiter, or the next one to wait.
    pub fn ring(&self) {
        // The counter is full only after 2^64 rings nobody heard: it rings then, too.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Makes the bell silent again.
    pub fn silence(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The processes and bells one thread waits for at once.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Result<Watch> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(Watch).map_err(refused("creating a watch (epoll)"))
    }

    /// Reports `token` from [`Watch::wait`] for as long as `fd` is readable.
    pub fn add(&self, fd: impl AsFd, token: u64) -> Result<()> {
        epoll::add(&self.0, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)
            .map_err(refused("watching a process"))
    }

    /// Stops watching `fd`.
    pub fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.0, fd);
    }

    /// Sleeps until something is readable and gives one token each.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] when a signal handler ran. A timeout gives no token.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Vec<u64>> {
        let limit = timeout.map(timespec);
        let mut events = Vec::with_capacity(16);
        match epoll::wait(&self.0, rustix::buffer::spare_capacity(&mut events), limit.as_ref()) {
            Ok(_) => Ok(events.iter().map(|event| event.data.u64()).collect()),
            Err(Errno::INTR) => Err(Error::new(Kind::Interrupted, "a signal interrupted a wait")),
            Err(errno) => Err(Error::os("waiting for processes", errno.raw_os_error())),
        }
    }
}

impl AsFd for Watch {
    /// Readable while something that is watched is.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A descriptor that becomes readable when child `pid` ends.
///
/// Free of races only for a child of this process that was not waited for yet.
pub fn open_process(pid: u32) -> Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::new(Kind::Os, format!("{pid} is no process number")))?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(refused("watching a child process (pidfd_open)"))
}

/// Kills the process behind `pidfd`; one that has ended already is no error.
pub fn kill(pidfd: impl AsFd) -> Result<()> {
    signal(pidfd, Signal::KILL, "killing a process")
}

/// Asks the process behind `pidfd` to end (SIGTERM); one that has ended already is no
/// error.
pub fn terminate(pidfd: impl AsFd) -> Result<()> {
    signal(pidfd, Signal::TERM, "terminating a process")
}

/// Sends SIGSTKFLT, which no Linux kernel sends and which ends a process that does not handle it: a worker may have
/// a handler that says where it is before it ends.
pub fn ask_to_end(pidfd: impl AsFd) -> Result<()> {
    signal(pidfd, Signal::STKFLT, "asking a process to end")
}

fn signal(pidfd: impl AsFd, signal: Signal, attempt: &str) -> Result<()> {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::os(attempt, errno.raw_os_error())),
    }
}

/// Sleeps until one of `files` is readable or its other end gone, for `timeout` at the
/// longest, and says which are. A signal handler ends the sleep, too: none is then.
pub fn readable<const N: usize>(files: [BorrowedFd<'_>; N], timeout: Option<Duration>) -> Result<[bool; N]> {
    let limit = timeout.map(timespec);
    let mut files = files.map(|file| PollFd::from_borrowed_fd(file, PollFlags::IN));
    match poll(&mut files, limit.as_ref()) {
        Ok(_) => Ok(files.map(|file| !file.revents().is_empty())),
        Err(Errno::INTR) => Ok([false; N]),
        Err(errno) => Err(refused("waiting for a process (poll)")(errno)),
    }
}

fn timespec(limit: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: limit.subsec_nanos().into() }
}
