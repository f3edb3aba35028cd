//! Descriptors that came through `exec`, known by their number only.
//!
//! # Why this file is unsafe
//!
//! A number says nothing about who owns the descriptor, so it is never taken
//! over here, only borrowed for one call that makes a duplicate of it.

#![allow(unsafe_code)]

use super::refused;
use crate::error::{Error, Result};
use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::stdio::dup2_stdout;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// A duplicate of the open descriptor `number`, closed on exec.
pub fn duplicate(number: RawFd) -> Result<OwnedFd> {
    fcntl_dupfd_cloexec(borrow(number)?, 3).map_err(refused("taking an inherited descriptor"))
}

/// Keeps descriptor `number` from the programs this process starts.
pub fn keep_private(number: RawFd) -> Result<()> {
    fcntl_setfd(borrow(number)?, FdFlags::CLOEXEC).map_err(refused("keeping an inherited descriptor private"))
}

/// Makes `file` this process's standard output.
pub fn replace_output(file: impl AsFd) -> Result<()> {
    dup2_stdout(file).map_err(refused("taking an inherited standard output"))
}

fn borrow<'a>(number: RawFd) -> Result<BorrowedFd<'a>> {
    if number < 0 {
        return Err(Error::corrupt(format_args!("{number} is no descriptor")));
    }
    // SAFETY: not -1 (checked above). The borrow ends with the one system call it
    // is made for; where nothing is open under the number, that call says so.
    Ok(unsafe { BorrowedFd::borrow_raw(number) })
}
