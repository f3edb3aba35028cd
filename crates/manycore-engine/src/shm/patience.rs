//! How long it is worth spinning before a sleep.

use crate::sync::{AtomicU32, Ordering};

/// An estimate that all who wait at one place share: spinning has paid lately, or not.
///
/// A sleep and its wake cost 50 microseconds where a spinner sees the change after
/// one or two; but a spinner burns the processor that the one it waits for may need.
/// So the time to spin doubles when spinning ended a wait and halves when it did not;
/// and of many vain waits one still spins for long, because two who have both learned
/// to sleep would never find out that they need not.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Patience(AtomicU32);

/// Nanoseconds of spinning before a sleep: when it never pays, and at the longest,
/// which is what two sleeps cost.
#[cfg(not(loom))]
const SPIN: (u32, u32) = (2_000, 100_000);

/// Nanoseconds where nothing was learned yet.
#[cfg(not(loom))]
const UNKNOWN: u32 = 20_000;

/// Of so many vain waits in a row, one spins for the longest time.
#[cfg(not(loom))]
const TRY_AGAIN: u32 = 32;

#[cfg(not(loom))]
const NANOSECONDS: u32 = (1 << 24) - 1;

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
        let learned = self.0.load(Ordering::Relaxed);
        let (budget, vain) = match learned {
            0 => (UNKNOWN, 0),
            word => ((word & NANOSECONDS).clamp(SPIN.0, SPIN.1), word >> 24),
        };
        let limit = if vain + 1 >= TRY_AGAIN { SPIN.1 } else { budget };
        let start = std::time::Instant::now();
        loop {
            for _ in 0..32 {
                crate::sync::spin();
                if ready() {
                    self.learn(learned, (limit * 2).min(SPIN.1));
                    return true;
                }
            }
            if start.elapsed().as_nanos() >= u128::from(limit) {
                self.learn(learned, (budget / 2).max(SPIN.0) | ((vain + 1) % TRY_AGAIN) << 24);
                return false;
            }
        }
    }

    /// A model searches every order; turns of a spin would only repeat them.
    #[cfg(loom)]
    pub fn spin(&self, mut ready: impl FnMut() -> bool) -> bool {
        let _ = self.0.load(Ordering::Relaxed);
        ready()
    }

    #[cfg(not(loom))]
    fn learn(&self, before: u32, now: u32) {
        if before != now {
            self.0.store(now, Ordering::Relaxed);
        }
    }
}

/// Whether somebody else can run while this thread spins.
#[cfg(not(loom))]
fn elsewhere() -> bool {
    use std::sync::OnceLock;
    static MANY: OnceLock<bool> = OnceLock::new();
    *MANY.get_or_init(|| crate::os::cpus::usable() > 1)
}
