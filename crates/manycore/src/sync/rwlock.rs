//! `RwLock`: a value that many may read, or one may write.

use super::held::Held;
use super::place::Place;
use super::{deadline, fail, patiently};
use crate::error::Result;
use bytemuck::Pod;
use manycore_engine::Kind;
use manycore_engine::shm::kept::Kept;
use manycore_engine::shm::mutex::Taken;
use manycore_engine::shm::rwlock;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{LockResult, PoisonError, TryLockError, TryLockResult};
use std::time::{Duration, Instant};

type Inside<T> = Kept<rwlock::RwLock, T>;

/// A pause between two looks for room for one more reader.
const FULL: Duration = Duration::from_millis(1);

/// A value that many threads and processes may read, or one may write; see
/// [the module](super).
///
/// A waiting writer keeps new readers out. At most 60 processes read at the same time;
/// the next one waits. A reader that dies does no harm; a writer that does poisons it.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Process;
/// use manycore::sync::RwLock;
///
/// let limits = RwLock::new([0u32, 10])?;
/// let widen = |limits: RwLock<[u32; 2]>| limits.write().unwrap()[1] *= 2;
/// Process::spawn(widen, (limits.clone(),))?.join()?;
/// let (one, other) = (limits.read().unwrap(), limits.read().unwrap());
/// assert_eq!((*one, other[1]), ([0, 20], 20));
/// assert!(limits.try_write().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Serialize, Deserialize)]
#[serde(transparent, bound = "")]
pub struct RwLock<T: Pod>(Place<Inside<T>>);

impl<T: Pod> RwLock<T> {
    /// A lock with `value` in it.
    ///
    /// # Errors
    /// Where there is no memory or no descriptor left for it.
    pub fn new(value: T) -> Result<RwLock<T>> {
        let place = Place::<Inside<T>>::new()?;
        place.store(bytemuck::bytes_of(&value));
        Ok(RwLock(place))
    }

    /// Reads the value, waiting as long as it takes.
    ///
    /// # Errors
    /// A guard all the same, where a process died, or a thread panicked, that was to write
    /// the value, and since then nobody has called [`RwLock::clear_poison`].
    ///
    /// # Panics
    /// Where the kernel has no memory for a wait.
    pub fn read(&self) -> LockResult<RwLockReadGuard<'_, T>> {
        endless(self.read_until(None))
    }

    /// Reads the value, waiting for `limit` at the longest.
    ///
    /// # Errors
    /// As [`RwLock::read`]; `WouldBlock` after the time.
    ///
    /// # Panics
    /// As [`RwLock::read`].
    pub fn read_timeout(&self, limit: Duration) -> TryLockResult<RwLockReadGuard<'_, T>> {
        self.read_until(deadline(limit))
    }

    fn read_until(&self, deadline: Option<Instant>) -> TryLockResult<RwLockReadGuard<'_, T>> {
        loop {
            match patiently(|| self.0.lock.read(deadline)) {
                Ok((place, taken)) => return Ok(RwLockReadGuard::new(self, place, taken)?),
                Err(error) if error.kind() == Kind::Timeout => return Err(TryLockError::WouldBlock),
                Err(error) if error.kind() == Kind::TooLarge => {
                    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return Err(TryLockError::WouldBlock);
                    }
                    std::thread::sleep(FULL);
                }
                Err(error) => fail("reading under a lock", &error),
            }
        }
    }

    /// Reads the value if that is possible at once.
    ///
    /// # Errors
    /// As [`RwLock::read`]; `WouldBlock` while somebody writes or waits to.
    pub fn try_read(&self) -> TryLockResult<RwLockReadGuard<'_, T>> {
        // Too many readers: later there may be fewer.
        let (place, taken) = self.0.lock.try_read().ok().flatten().ok_or(TryLockError::WouldBlock)?;
        Ok(RwLockReadGuard::new(self, place, taken)?)
    }

    /// Takes the value to write it, waiting as long as it takes.
    ///
    /// # Errors
    /// As [`RwLock::read`].
    ///
    /// # Panics
    /// As [`RwLock::read`].
    pub fn write(&self) -> LockResult<RwLockWriteGuard<'_, T>> {
        endless(self.write_until(None))
    }

    /// Takes the value to write it, waiting for `limit` at the longest.
    ///
    /// # Errors
    /// As [`RwLock::read`]; `WouldBlock` after the time.
    ///
    /// # Panics
    /// As [`RwLock::read`].
    pub fn write_timeout(&self, limit: Duration) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        self.write_until(deadline(limit))
    }

    fn write_until(&self, deadline: Option<Instant>) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        match patiently(|| self.0.lock.write(deadline)) {
            Ok(taken) => Ok(RwLockWriteGuard::new(self, taken)?),
            Err(error) if error.kind() == Kind::Timeout => Err(TryLockError::WouldBlock),
            Err(error) => fail("writing under a lock", &error),
        }
    }

    /// Takes the value to write it if that is possible at once.
    ///
    /// # Errors
    /// As [`RwLock::read`]; `WouldBlock` while somebody has it.
    pub fn try_write(&self) -> TryLockResult<RwLockWriteGuard<'_, T>> {
        let taken = self.0.lock.try_write().ok_or(TryLockError::WouldBlock)?;
        Ok(RwLockWriteGuard::new(self, taken)?)
    }

    /// Whether somebody died or panicked who was to write the value.
    pub fn is_poisoned(&self) -> bool {
        self.0.is_poisoned()
    }

    /// The value is good, whatever happened.
    pub fn clear_poison(&self) {
        self.0.set_poisoned(false);
    }
}

/// The outcome of a wait without an end.
fn endless<G>(outcome: TryLockResult<G>) -> LockResult<G> {
    match outcome {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(poisoned)) => Err(poisoned),
        Err(TryLockError::WouldBlock) => unreachable!("a wait without an end has ended"),
    }
}

impl<T: Pod> Clone for RwLock<T> {
    fn clone(&self) -> RwLock<T> {
        RwLock(self.0.clone())
    }
}

impl<T: Pod> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (read, written) = (self.0.lock.is_read(), self.0.lock.is_written());
        let mut shown = f.debug_struct("RwLock");
        shown.field("read", &read).field("written", &written).field("poisoned", &self.is_poisoned());
        shown.finish_non_exhaustive()
    }
}

/// The value of a [`RwLock`], as it is as long as this is there.
#[must_use = "the lock is given back when this is dropped"]
pub struct RwLockReadGuard<'a, T: Pod> {
    lock: &'a RwLock<T>,
    held: Held<T>,
    place: Option<rwlock::Place>,
}

impl<'a, T: Pod> RwLockReadGuard<'a, T> {
    fn new(lock: &'a RwLock<T>, place: rwlock::Place, taken: Taken) -> LockResult<RwLockReadGuard<'a, T>> {
        let guard = RwLockReadGuard { lock, held: Held::of(&lock.0), place: Some(place) };
        // The mark of a dead writer stays until somebody writes, who notes it.
        if taken == Taken::Recovered || lock.is_poisoned() { Err(PoisonError::new(guard)) } else { Ok(guard) }
    }
}

impl<T: Pod> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.get()
    }
}

impl<T: Pod> Drop for RwLockReadGuard<'_, T> {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.lock.0.lock.leave(place);
        }
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for RwLockReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.get().fmt(f)
    }
}

/// The value of a [`RwLock`], in hand to be written.
///
/// A copy, which is written back when this is dropped, if it was changed. Where a panic
/// drops it, it is not, and the lock is poisoned.
#[must_use = "the lock is given back when this is dropped"]
pub struct RwLockWriteGuard<'a, T: Pod> {
    lock: &'a RwLock<T>,
    held: Held<T>,
}

impl<'a, T: Pod> RwLockWriteGuard<'a, T> {
    fn new(lock: &'a RwLock<T>, taken: Taken) -> LockResult<RwLockWriteGuard<'a, T>> {
        let guard = RwLockWriteGuard { lock, held: Held::of(&lock.0) };
        if lock.0.note(taken) { Err(PoisonError::new(guard)) } else { Ok(guard) }
    }
}

impl<T: Pod> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.held.get()
    }
}

impl<T: Pod> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.held.get_mut()
    }
}

impl<T: Pod> Drop for RwLockWriteGuard<'_, T> {
    fn drop(&mut self) {
        self.held.give_back(&self.lock.0);
        self.lock.0.lock.unlock();
    }
}

impl<T: Pod + fmt::Debug> fmt::Debug for RwLockWriteGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.held.get().fmt(f)
    }
}
