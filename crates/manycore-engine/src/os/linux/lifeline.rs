//! A pipe whose one end keeps the holder of the other alive.
//!
//! When the last holder of the writing end is gone, however it went, the kernel
//! kills the process that armed the reading end: at once, also in the middle of
//! a computation, with no thread and no signal handler in it. `PR_SET_PDEATHSIG`
//! would not do: it fires when the *thread* that started the child ends.
//!
//! # Why this file is unsafe
//!
//! rustix has no `F_SETSIG` and no `F_SETOWN`; libc's `fcntl` takes whatever it
//! is given.

#![allow(unsafe_code)]

use super::refused;
use crate::error::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// From the kernel's asm-generic/fcntl.h; libc names it for few targets only.
const F_SETSIG: i32 = 10;

/// The end to keep and the end to give to one other process.
///
/// One pipe for each process: the receiver of the signal is written down in the open file,
/// which processes that inherit the same end would share.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let (given, kept) = pipe_with(PipeFlags::CLOEXEC).map_err(refused("creating a lifeline (pipe)"))?;
    Ok((kept, given))
}

/// From now on this process is killed with SIGKILL when the other end is gone.
/// False when it is gone already.
pub fn arm(given: impl AsFd) -> Result<bool> {
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    set(&given, libc::F_SETOWN, pid)?;
    set(&given, F_SETSIG, libc::SIGKILL)?;
    set(&given, libc::F_SETFL, libc::O_ASYNC)?;
    // The other end may have gone before; nothing happens to it any more then.
    let mut ends = [PollFd::new(&given, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut ends, Some(&now)).map_err(refused("looking at the lifeline (poll)"))?;
    Ok(!ends[0].revents().contains(PollFlags::HUP))
}

fn set(file: &impl AsFd, command: i32, value: i32) -> Result<()> {
    // SAFETY: the descriptor is open while `file` is borrowed, and each of the
    // three commands above takes one integer and touches no memory of ours.
    let outcome = unsafe { libc::fcntl(file.as_fd().as_raw_fd(), command, value) };
    if outcome == -1 {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        return Err(Error::os("arming the lifeline (fcntl)", code));
    }
    Ok(())
}
