//! The clock that all processes of a machine share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment before this machine's processes were started. Never runs backwards, and
/// says the same in every process.
pub fn now() -> u64 {
    read(ClockId::Monotonic)
}

/// Nanoseconds since this machine was started, the time in which it slept included.
pub(super) fn since_boot() -> u64 {
    read(ClockId::Boottime)
}

fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}
