//! How long it is worth spinning before a sleep.

use crate::sync::{AtomicU32, Ordering};

/// What the waiters of one place have learned: how many waits in a row spinning has
/// not ended.
///
/// A sleep and its wake cost 50 microseconds where a spinner sees the change after
/// one or two; but a spinner burns the processor that the one it waits for may need.
/// So it spins for as long as a sleep would cost, until that was in vain a few times.
/// Then it sleeps at once. Two processes that have both learned to sleep would never find out
/// that spinning pays again. So some waits spin all the same: many of them for a moment,
/// because the other process may just have been woken; a few of them for as long as the other
/// process needs to wake up and answer.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Patience(AtomicU32);

/// Nanoseconds of spinning while it pays.
#[cfg(not(loom))]
const SPIN: u32 = 50_000;

/// So many waits in vain, and it does not.
#[cfg(not(loom))]
const ENOUGH: u32 = 3;

/// Of so many waits in vain, one spins for a moment; and how many nanoseconds that is.
#[cfg(not(loom))]
const MOMENT: (u32, u32) = (8, 4_000);

/// After so many waits in vain one spins for long, again after twice as many, and so on
/// up to the second number; and how many nanoseconds that is.
#[cfg(not(loom))]
const LONG: (u32, u32, u32) = (32, 1024, 100_000);

impl Patience {
    /// Spins until `ready` says true, for as long as that is worth it; its last answer.
    #[cfg(not(loom))]
    pub fn spin(&self, mut ready: impl FnMut() -> bool) -> bool {
        if ready() {
            return true;
        }
        if !elsewhere() {
            return false;
        }
        // Read and written without an exchange: what another writes meanwhile is as good.
        let vain = self.0.load(Ordering::Relaxed);
        let limit = match vain {
            0..ENOUGH => SPIN,
            _ if vain >= LONG.0 && vain.is_power_of_two() => LONG.2,
            _ if vain.is_multiple_of(MOMENT.0) => MOMENT.1,
            _ => 0,
        };
        if limit > 0 {
            let start = std::time::Instant::now();
            while start.elapsed().as_nanos() < u128::from(limit) {
                for _ in 0..16 {
                    crate::sync::spin();
                    if ready() {
                        if vain > 0 {
                            self.0.store(0, Ordering::Relaxed);
                        }
                        return true;
                    }
                }
            }
        }
        self.0.store(if vain < LONG.1 { vain + 1 } else { LONG.1 / 2 + 1 }, Ordering::Relaxed);
        false
    }

    /// A model searches every order; turns of a spin would only repeat them.
    #[cfg(loom)]
    pub fn spin(&self, mut ready: impl FnMut() -> bool) -> bool {
        let _ = self.0.load(Ordering::Relaxed);
        ready()
    }
}

/// Whether somebody else can run while this thread spins.
#[cfg(not(loom))]
fn elsewhere() -> bool {
    static MANY: crate::sync::Found = crate::sync::Found::new();
    MANY.get(|| u64::from(crate::os::cpus::usable() > 1)) == 1
}
