//! A flag that processes wait for.
//!
//! See "The event" in README.md.

use super::mutex::{nap, woke_up};
use super::patience::Patience;
use crate::error::{Kind, Result};
use crate::sync::{AtomicU32, Ordering, futex_wait, futex_wake};
use std::time::Instant;

const SET: u32 = 1;
/// Somebody may sleep.
const SLEEPERS: u32 = 2;
/// Counts in the upper bits how often the flag was set.
const ONE: u32 = 4;

/// A flag. A waiter goes on once the flag was set, also if it is cleared before the waiter looks.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Event {
    word: AtomicU32,
    patience: Patience,
}

impl Event {
    /// Whether the flag is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.word.load(Ordering::Acquire) & SET != 0
    }

    /// Whether somebody may sleep until it is set.
    pub fn is_awaited(&self) -> bool {
        self.word.load(Ordering::Relaxed) & SLEEPERS != 0
    }

    /// Sets the flag and wakes all waiters.
    pub fn set(&self) {
        let mut seen = self.word.load(Ordering::Relaxed);
        // Release, also if the flag is set already: who sees it set sees what came before this.
        while let Err(now) = self.word.compare_exchange_weak(seen, raised(seen), Ordering::AcqRel, Ordering::Relaxed) {
            seen = now;
        }
        if seen & SLEEPERS != 0 {
            crate::fault::point("before-event-wake");
            futex_wake(&self.word, u32::MAX >> 1);
        }
    }

    /// Clears the flag.
    pub fn clear(&self) {
        self.word.fetch_and(!SET, Ordering::Relaxed);
    }

    /// Waits until the flag is set, or was set since the call, until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`super::mutex::Mutex::lock`].
    pub fn wait(&self, deadline: Option<Instant>) -> Result<()> {
        let first = self.word.load(Ordering::Acquire);
        let happened = |word: u32| word & SET != 0 || word / ONE != first / ONE;
        loop {
            if self.patience.spin(|| happened(self.word.load(Ordering::Acquire))) {
                return Ok(());
            }
            let nap = nap(deadline)?;
            let seen = self.word.load(Ordering::Acquire);
            if happened(seen) {
                return Ok(());
            }
            let marked = seen | SLEEPERS;
            if seen != marked && self.word.compare_exchange(seen, marked, Ordering::Relaxed, Ordering::Relaxed).is_err()
            {
                continue;
            }
            match futex_wait(&self.word, marked, Some(nap)) {
                Ok(()) => crate::fault::point("event-woken"),
                Err(error) if error.kind() == Kind::Timeout => {
                    // The setter may have died before its wake.
                    if happened(self.word.load(Ordering::Acquire)) {
                        return Ok(());
                    }
                    return Err(woke_up(deadline));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The word after the flag was set; nobody sleeps any more.
fn raised(word: u32) -> u32 {
    if word & SET != 0 { word } else { ((word / ONE).wrapping_add(1)).wrapping_mul(ONE) | SET }
}
