//! A value beside the lock that guards it.
//!
//! See "A value and its lock" in README.md: a change is complete or has not happened,
//! whoever dies.
//!
//! # Why this file is unsafe
//!
//! It says of three types that any bytes are a value of them.

#![allow(unsafe_code)]

use super::mutex::{Mutex, Taken};
use super::plain::Plain;
use super::rwlock::RwLock;
use super::slots::Resident;
use crate::sync::{AtomicU32, Ordering};

/// A lock `L` and a value `T`, of which there are two copies: the one that counts, and
/// the one that is written next.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Kept<L, T> {
    /// Its holder may load, and, if the lock is held for writing, store.
    pub lock: L,
    /// 1: somebody died or failed with the lock in hand.
    poisoned: AtomicU32,
    /// The number of the copy that counts.
    current: AtomicU32,
    copies: [Plain<T>; 2],
}

impl<L, T> Kept<L, T> {
    /// Copies the bytes of the value into `bytes`, which are as many.
    pub fn load(&self, bytes: &mut [u8]) {
        let (current, _) = self.copies();
        current.load(bytes);
    }

    /// Makes `bytes` the value; all of them, or none where this process dies.
    pub fn store(&self, bytes: &[u8]) {
        let (_, next) = self.copies();
        next.store(bytes);
        crate::fault::point("kept-storing");
        // Release: whoever finds the new number finds all that was written before.
        self.current.store(self.current.load(Ordering::Relaxed) ^ 1, Ordering::Release);
    }

    fn copies(&self) -> (&Plain<T>, &Plain<T>) {
        let [zero, one] = &self.copies;
        if self.current.load(Ordering::Acquire) & 1 == 0 { (zero, one) } else { (one, zero) }
    }

    /// Whether somebody has died or failed with the lock in hand.
    pub fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed) != 0
    }

    /// Says whether somebody has.
    pub fn set_poisoned(&self, poisoned: bool) {
        self.poisoned.store(poisoned.into(), Ordering::Relaxed);
    }

    /// Notes how the lock was taken, and says whether it is poisoned.
    pub fn note(&self, taken: Taken) -> bool {
        if taken == Taken::Recovered {
            self.set_poisoned(true);
        }
        self.is_poisoned()
    }
}

/// The number of a type of place, by what it holds and how large that is.
const fn kind(lock: u32, size: usize) -> u32 {
    assert!(size < 1 << 26, "a value in a place is smaller than 64 MiB");
    lock << 26 | size as u32
}

// SAFETY: atomics, and a value of which only the bytes are looked at, by atomics; `repr(C)`
// and an alignment of 8.
unsafe impl<T> Resident for Kept<Mutex, T> {
    const KIND: u32 = kind(1, size_of::<T>());
}
// SAFETY: as above.
unsafe impl<T> Resident for Kept<RwLock, T> {
    const KIND: u32 = kind(2, size_of::<T>());
}
// SAFETY: as above, without a lock.
unsafe impl<T> Resident for Plain<T> {
    const KIND: u32 = kind(3, size_of::<T>());
}

#[cfg(test)]
mod tests {
    use super::super::slots::Slot;
    use super::*;

    #[test]
    fn a_value_is_changed_and_poisoned() {
        let kept = Slot::<Kept<Mutex, [u8; 11]>>::new().unwrap();
        let mut bytes = [1; 11];
        kept.load(&mut bytes);
        assert_eq!(bytes, [0; 11]);
        for round in 1..4 {
            kept.store(&[round; 11]);
            kept.load(&mut bytes);
            assert_eq!(bytes, [round; 11]);
        }
        assert!(!kept.note(Taken::Acquired) && kept.note(Taken::Recovered) && kept.note(Taken::Acquired));
        kept.set_poisoned(false);
        assert!(!kept.is_poisoned());
    }

    #[test]
    fn places_of_other_values_are_refused() {
        let kept = Slot::<Kept<Mutex, [u8; 11]>>::new().unwrap();
        let (slots, offset) = kept.address();
        assert!(Slot::<Kept<Mutex, [u8; 11]>>::at(slots, offset).is_ok());
        assert!(Slot::<Kept<Mutex, [u8; 12]>>::at(slots, offset).is_err());
        assert!(Slot::<Kept<RwLock, [u8; 11]>>::at(slots, offset).is_err());
    }
}
