//! Sleeping on a word that another process may change.
//!
//! The futex is shared (no `FUTEX_PRIVATE_FLAG`): its key is the page of the
//! file, so every process sleeps in the same queue whatever its mapping's address.

use crate::error::{Error, Kind, Result};
use core::sync::atomic::AtomicU32;
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
