//! Where the processes on one side of a channel wait, and how the other side wakes them.
//!
//! See "Waiting for the other side" in README.md.

use super::patience::Patience;
use super::queue::Line;
use crate::error::{Error, Kind, Result};
use crate::sync::{AtomicU32, Ordering, full_fence, futex_wait, futex_wake};
use std::time::Duration;

/// Whoever sleeps looks again after this time, whatever happens: somebody may have
/// been woken, or been about to wake somebody, when it was killed.
pub const SLICE: Duration = Duration::from_millis(100);

/// The words of one side.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Waiters {
    /// Changes with every wake; the futex.
    turn: Line<AtomicU32>,
    /// How many sleep or are about to. One that is killed in its sleep leaves it too
    /// high, which costs a system call now and then and no more.
    asleep: AtomicU32,
    /// Until when the one process spins that may, in microseconds, counting round; 0: nobody.
    spinning: AtomicU32,
    patience: Patience,
}

impl Waiters {
    /// How many sleep. If the caller has passed a full fence since it wrote what they
    /// wait for, whoever is not counted yet will see that before it sleeps.
    pub fn asleep(&self) -> u32 {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Wakes at most `count` of those who sleep.
    pub fn wake(&self, count: u32) {
        self.turn.0.fetch_add(1, Ordering::Release);
        futex_wake(&self.turn.0, count);
    }

    /// Sleeps unless `ready`, until it may be, but not for longer than `limit`. The
    /// caller looks again itself, also after an error.
    ///
    /// # Errors
    /// [`Kind::Timeout`] after `limit`. [`Kind::Interrupted`] when a signal handler ran, and
    /// also after each slice of time: a signal that comes just before the sleep does not end it.
    pub fn sleep(&self, ready: impl FnOnce() -> bool, limit: Option<Duration>) -> Result<()> {
        let seen = self.turn.0.load(Ordering::Acquire);
        self.asleep.fetch_add(1, Ordering::Relaxed);
        full_fence(); // Pairs with the one before `asleep`: one of us sees the other.
        let slice = limit.map_or(SLICE, |limit| limit.min(SLICE));
        let outcome = if ready() { Ok(()) } else { futex_wait(&self.turn.0, seen, Some(slice)) };
        self.asleep.fetch_sub(1, Ordering::Relaxed);
        full_fence(); // What the caller finds when it looks again, others count on its having seen.
        match outcome {
            Err(error) if error.kind() == Kind::Timeout && limit.is_none_or(|limit| limit > slice) => {
                Err(Error::new(Kind::Interrupted, "time to look for signals"))
            }
            other => other,
        }
    }

    /// Spins until `ready` for as long as that is worth it; its last answer. One
    /// process at a time spins, or those who wait would take the processors of those
    /// they wait for. The permission ends by itself, so a death costs nothing.
    #[cfg(not(loom))]
    pub fn spin(&self, ready: impl Fn() -> bool) -> bool {
        let now = microseconds();
        let held = self.spinning.load(Ordering::Relaxed);
        if held != 0 && (held.wrapping_sub(now) as i32) > 0 {
            return ready();
        }
        let until = now.wrapping_add(LONGEST).max(1);
        if self.spinning.compare_exchange(held, until, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return ready();
        }
        let found = self.patience.spin(ready);
        let _ = self.spinning.compare_exchange(until, 0, Ordering::Relaxed, Ordering::Relaxed);
        found
    }

    /// A model searches every order; turns of a spin would only repeat them.
    #[cfg(loom)]
    pub fn spin(&self, ready: impl Fn() -> bool) -> bool {
        let _ = (&self.spinning, &self.patience);
        ready()
    }
}

/// Longer than anybody spins, in microseconds.
#[cfg(not(loom))]
const LONGEST: u32 = 200;

/// The time, counting round.
#[cfg(not(loom))]
fn microseconds() -> u32 {
    use rustix::time::{ClockId, clock_gettime};
    // The same clock in every process.
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000).wrapping_add(now.tv_nsec as u64 / 1000) as u32
}
