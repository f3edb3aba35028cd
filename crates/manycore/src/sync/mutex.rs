//! `Mutex`: a value that one may have at a time.

use super::held::Held;
use super::place::Place;
use super::{deadline, fail, patiently};
use crate::error::Result;
use bytemuck::Pod;
use manycore_engine::Kind;
use manycore_engine::shm::kept::Kept;
use manycore_engine::shm::mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::{Duration, Instant};

type Inside<T> = Kept<mutex::Mutex, T>;

/// A value that one thread of one process may have at a time; see [the module](super).
///
/// A thread that locks it twice waits for itself.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Pool;
/// use manycore::sync::Mutex;
///
/// let best = Mutex::new([0u64; 2])?;
/// let look = |best: Mutex<[u64; 2]>, x: u64| {
///     let score = x * (100 - x);
///     let mut best = best.lock().unwrap();
///     if score > best[1] {
///         *best = [x, score];
///     }
/// };
/// Pool::with_workers(2)?.starmap(look, (0..100).map(|x| (best.clone(), x)))?;
/// assert_eq!(*best.lock().unwrap(), [50, 2500]);
/// # Ok(())
/// # }
/// ```
#[derive(Serialize, Deserialize)]
#[serde(transparent, bound = "")]
pub struct Mutex<T: Pod>(Place<Inside<T>>);

impl<T: Pod> Mutex<T> {
    /// A mutex with `value` in it.
    ///
    /// # Errors
    /// Where there is no memory or no descriptor left for it.
    pub fn new(value: T) -> Result<Mutex<T>> {
        let place = Place::<Inside<T>>::new()?;
        place.store(bytemuck::bytes_of(&value));
        Ok(Mutex(place))
    }

    /// Takes the value, waiting as long as it takes.
    ///
    /// # Errors
    /// A guard all the same, where a process died, or a thread panicked, with the value
    /// in hand, and since then nobody has called [`Mutex::clear_poison`].
    ///
    /// # Panics
    /// Where the kernel has no memory for a wait.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        match self.lock_until(None) {
            Ok(guard) => Ok(guard),
            Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
            Err(TryLockError::WouldBlock) => unreachable!("a wait without an end has ended"),
        }
    }

    /// Takes the value, waiting for `limit` at the longest.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// use manycore::sync::Mutex;
    /// use std::sync::TryLockError;
    /// use std::time::Duration;
    ///
    /// let mutex = Mutex::new(1u8)?;
    /// let guard = mutex.lock().unwrap();
    /// assert!(matches!(mutex.lock_timeout(Duration::from_millis(1)), Err(TryLockError::WouldBlock)));
    /// # drop(guard);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Mutex::lock`]; `WouldBlock` after the time.
    ///
    /// # Panics
    /// As [`Mutex::lock`].
    pub fn lock_timeout(&self, limit: Duration) -> TryLockResult<MutexGuard<'_, T>> {
        self.lock_until(deadline(limit))
    }

    fn lock_until(&self, deadline: Option<Instant>) -> TryLockResult<MutexGuard<'_, T>> {
        match patiently(|| self.0.lock.lock(deadline)) {
            Ok(taken) => Ok(MutexGuard::new(self, taken)?),
            Err(error) if error.kind() == Kind::Timeout => Err(TryLockError::WouldBlock),
            Err(error) => fail("taking a mutex", &error),
        }
    }

    /// Takes the value if that is possible at once.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let mutex = manycore::sync::Mutex::new(1u8)?;
    /// *mutex.try_lock().unwrap() += 1;
    /// assert_eq!(*mutex.try_lock().unwrap(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Mutex::lock`]; `WouldBlock` while somebody has it.
    pub fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        let taken = self.0.lock.try_lock().ok_or(TryLockError::WouldBlock)?;
        Ok(MutexGuard::new(self, taken)?)
    }

    /// Whether somebody died or panicked with the value in hand.
    pub fn is_poisoned(&self) -> bool {
        self.0.is_poisoned()
    }

    /// The value is good, whatever happened.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// use manycore::Process;
    /// use manycore::sync::Mutex;
    ///
    /// let mutex = Mutex::new(1u8)?;
    /// let die = |mutex: Mutex<u8>| -> () {
    ///     *mutex.lock().unwrap() = 2; // this change is done
    ///     let mut guard = mutex.lock().unwrap();
    ///     *guard = 3; // this one never is
    ///     std::process::abort()
    /// };
    /// assert!(Process::spawn(die, (mutex.clone(),))?.join().is_err());
    /// let poisoned = mutex.lock().unwrap_err();
    /// assert_eq!(**poisoned.get_ref(), 2);
    /// drop(poisoned);
    /// mutex.clear_poison();
    /// assert!(mutex.lock().is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn clear_poison(&self) {
        self.0.set_poisoned(false);
    }
}

impl<T: Pod> Clone for Mutex<T> {
    fn clone(&self) -> Mutex<T> {
        Mutex(self.0.clone())
    }
}

impl<T: Pod> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Mutex");
        shown.field("locked", &self.0.lock.is_locked()).field("poisoned", &self.is_poisoned()).finish_non_exhaustive()
    }
}

/// The value of a [`Mutex`], in hand.
///
/// A copy, which is written back when this is dropped, if it was changed. Where a panic
/// drops it, it is not, and the mutex is poisoned.
#[must_use = "the mutex is given back when this is dropped"]
pub struct MutexGuard<'a, T: Pod> {
    mutex: &'a Mutex<T>,
    held: Held<T>,
}

impl<'a, T: Pod> MutexGuard<'a, T> {
    /// What it guards.
    pub(super) fn mutex(&self) -> &'a Mutex<T> {
        self.mutex
    }

    /// The mutex was taken just now.
    fn new(mutex: &'a Mutex<T>, taken: mutex::Taken) -> LockResult<MutexGuard<'a, T>> {
        let guard = MutexGuard { mutex, held: Held::of(&mutex.0) };
        if mutex.0.note(taken) { Err(PoisonError::new(guard)) } else { Ok(guard) }
    }
}

impl<T: Pod> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.get()
    }
}

impl<T: Pod> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.get_mut()
    }
}

impl<T: Pod> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.held.give_back(&self.mutex.0);
        self.mutex.0.lock.unlock();
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.get().fmt(f)
    }
}
