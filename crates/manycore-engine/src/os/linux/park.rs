//! Sleeping on a word that another process may change.
//!
//! The futex is shared (no `FUTEX_PRIVATE_FLAG`): its key is the page of the
//! file, so every process sleeps in the same queue whatever its mapping's address.
//!
//! # Why this file is unsafe
//!
//! The kernel compares 32 bits. To sleep on a word of 64 is to sleep on its lower
//! half, whose address is not a reference Rust gives out.

#![allow(unsafe_code)]

use crate::error::{Error, Kind, Result};
use core::sync::atomic::{AtomicU32, AtomicU64};
use rustix::io::Errno;
use rustix::thread::futex;
use std::time::Duration;

/// Sleeps while `word` holds `expected`, for `timeout` at the longest (`None`: no limit).
///
/// Returns at once when the word holds something else, and may return for nothing.
///
/// # Errors
/// [`Kind::Timeout`] after `timeout`; [`Kind::Interrupted`] when a signal handler ran.
pub fn futex_wait(word: &AtomicU32, expected: u32, timeout: Option<Duration>) -> Result<()> {
    let limit = timeout.map(|limit| futex::Timespec {
        tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: limit.subsec_nanos().into(),
    });
    match futex::wait(word, futex::Flags::empty(), expected, limit.as_ref()) {
        Ok(()) | Err(Errno::AGAIN) => Ok(()),
        Err(Errno::TIMEDOUT) => Err(Error::new(Kind::Timeout, "the time given to a wait is over")),
        Err(Errno::INTR) => Err(Error::new(Kind::Interrupted, "a signal interrupted a wait")),
        Err(errno) => Err(Error::os("sleeping on a shared word", errno.raw_os_error())),
    }
}

/// Wakes at most `sleepers` of those who sleep on `word`.
pub fn futex_wake(word: &AtomicU32, sleepers: u32) {
    // The only failure is a bad address, which a reference cannot be.
    let _ = futex::wake(word, futex::Flags::empty(), sleepers);
}

/// As [`futex_wait`], on the lower half of a word: sleeps while it holds that of `expected`.
pub fn futex_wait_half(word: &AtomicU64, expected: u64, timeout: Option<Duration>) -> Result<()> {
    futex_wait(lower_half(word), expected as u32, timeout)
}

/// As [`futex_wake`], for those who sleep on the lower half of `word`.
pub fn futex_wake_half(word: &AtomicU64, sleepers: u32) {
    futex_wake(lower_half(word), sleepers);
}

fn lower_half(word: &AtomicU64) -> &AtomicU32 {
    let first = std::ptr::from_ref(word).cast::<AtomicU32>();
    // SAFETY: both halves lie inside the word, aligned, for as long as it is borrowed.
    // No Rust code loads or stores through the result: it goes to the kernel, which
    // reads memory, so accesses of two sizes never meet in one program.
    unsafe { &*first.add(usize::from(cfg!(target_endian = "big"))) }
}
