//! How long it is worth spinning before a sleep.

use crate::sync::{AtomicU32, Ordering};

/// An estimate that all who wait at one place share: how soon a spinner sees what it
/// waits for, and whether it does.
///
/// A sleep and its wake cost 50 microseconds where a spinner sees the change after
/// one or two; but a spinner burns the processor that the one it waits for may need.
/// So the time to spin is a few times what it has lately taken, and nothing after a few
/// waits in vain. Now and then one still spins for long, because two who have both learned
/// to sleep would never find out that they need not.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Patience(AtomicU32);

/// Nanoseconds of spinning at the longest: what two sleeps cost.
#[cfg(not(loom))]
const LONGEST: u32 = 100_000;

/// Nanoseconds it takes where nothing was learned yet.
#[cfg(not(loom))]
const UNKNOWN: u32 = 10_000;

/// So many waits in vain, and spinning does not pay.
#[cfg(not(loom))]
const ENOUGH: u32 = 3;

/// After so many waits in vain one tries again, and after twice as many, up to the second number.
#[cfg(not(loom))]
const TRY_AGAIN: (u32, u32) = (32, 1024);

/// The lower bits have the usual time, those above count the waits in vain.
#[cfg(not(loom))]
const USUAL_BITS: u32 = 20;

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
        let (usual, vain) = match learned & ((1 << USUAL_BITS) - 1) {
            0 => (UNKNOWN, 0),
            usual => (usual.min(LONGEST), learned >> USUAL_BITS),
        };
        let limit = match vain {
            0..ENOUGH => (3 * usual).min(LONGEST),
            _ if vain >= TRY_AGAIN.0 && vain.is_power_of_two() => LONGEST,
            _ => 0,
        };
        let vain = if vain >= TRY_AGAIN.1 { TRY_AGAIN.1 / 2 } else { vain } + 1;
        if limit > 0 {
            let start = std::time::Instant::now();
            while start.elapsed().as_nanos() < u128::from(limit) {
                for _ in 0..16 {
                    crate::sync::spin();
                    if ready() {
                        let took = start.elapsed().as_nanos().min(u128::from(LONGEST)) as u32;
                        self.0.store(((3 * usual + took) / 4).max(1), Ordering::Relaxed);
                        return true;
                    }
                }
            }
        }
        self.0.store(usual | vain << USUAL_BITS, Ordering::Relaxed);
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
    use std::sync::OnceLock;
    static MANY: OnceLock<bool> = OnceLock::new();
    *MANY.get_or_init(|| crate::os::cpus::usable() > 1)
}
