//! `Condvar`: to wait, without a mutex, for what somebody does with it.

use super::mutex::MutexGuard;
use super::place::Place;
use super::{deadline, fail, patiently};
use crate::error::Result;
use bytemuck::Pod;
use manycore_engine::Kind;
use manycore_engine::shm::condition;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{LockResult, PoisonError};
use std::time::{Duration, Instant};

/// A pause where more wait than there are places to.
const FULL: Duration = Duration::from_millis(1);

/// A queue of those who wait for a [`Mutex`](super::Mutex)'s value to change.
///
/// As `std::sync::Condvar`, between processes: waiting gives the mutex back and takes it
/// again, and may end for nothing. The notification of one who dies goes to another.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Process;
/// use manycore::sync::{Condvar, Mutex};
///
/// let (ready, changed) = (Mutex::new(0u32)?, Condvar::new()?);
/// let work = |ready: Mutex<u32>, changed: Condvar| {
///     *ready.lock().unwrap() = 42;
///     changed.notify_all();
/// };
/// let mut process = Process::spawn(work, (ready.clone(), changed.clone()))?;
/// let value = changed.wait_while(ready.lock().unwrap(), |value| *value == 0).unwrap();
/// assert_eq!(*value, 42);
/// process.join()
/// # }
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Condvar(Place<condition::Condition>);

impl Condvar {
    /// One for which nobody waits.
    ///
    /// # Errors
    /// Where there is no memory or no descriptor left for it.
    pub fn new() -> Result<Condvar> {
        Ok(Condvar(Place::new()?))
    }

    /// Gives the mutex back, waits until it is notified, and takes the mutex again.
    ///
    /// # Errors
    /// As [`Mutex::lock`](super::Mutex::lock).
    ///
    /// # Panics
    /// Where the kernel has no memory for a wait.
    pub fn wait<'a, T: Pod>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
        let mutex = guard.mutex();
        self.wait_until(guard, None);
        mutex.lock()
    }

    /// As [`Condvar::wait`], for `limit` at the longest; also whether the time was over.
    ///
    /// # Errors
    /// As [`Condvar::wait`].
    ///
    /// # Panics
    /// As [`Condvar::wait`].
    pub fn wait_timeout<'a, T: Pod>(
        &self,
        guard: MutexGuard<'a, T>,
        limit: Duration,
    ) -> LockResult<(MutexGuard<'a, T>, bool)> {
        let mutex = guard.mutex();
        let is_late = !self.wait_until(guard, deadline(limit));
        match mutex.lock() {
            Ok(guard) => Ok((guard, is_late)),
            Err(poisoned) => Err(PoisonError::new((poisoned.into_inner(), is_late))),
        }
    }

    /// Waits, as [`Condvar::wait`] does, as long as `condition` is true.
    ///
    /// # Errors
    /// As [`Condvar::wait`].
    ///
    /// # Panics
    /// As [`Condvar::wait`].
    pub fn wait_while<'a, T: Pod>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut condition: impl FnMut(&T) -> bool,
    ) -> LockResult<MutexGuard<'a, T>> {
        while condition(&guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    /// False: the time was over first.
    fn wait_until<T: Pod>(&self, guard: MutexGuard<'_, T>, deadline: Option<Instant>) -> bool {
        let joined = patiently(|| self.0.join());
        drop(guard);
        let index = match joined {
            Ok(index) => index,
            Err(error) if error.kind() == Kind::TooLarge => {
                // A wait that ends for nothing.
                std::thread::sleep(FULL);
                return deadline.is_none_or(|deadline| deadline > Instant::now());
            }
            Err(error) => fail("waiting for a condition", &error),
        };
        let waited = patiently(|| self.0.wait(index, deadline)).or_else(|error| match error.kind() {
            // It may have been notified just before it left.
            Kind::Timeout => patiently(|| self.0.leave(index)).and_then(|told| if told { Ok(()) } else { Err(error) }),
            _ => Err(error),
        });
        match waited {
            Ok(()) => true,
            Err(error) if error.kind() == Kind::Timeout => false,
            Err(error) => fail("waiting for a condition", &error),
        }
    }

    /// Wakes one of those who wait.
    ///
    /// # Panics
    /// As [`Condvar::wait`].
    pub fn notify_one(&self) {
        self.notify(1);
    }

    /// Wakes all who wait.
    ///
    /// # Panics
    /// As [`Condvar::wait`].
    pub fn notify_all(&self) {
        self.notify(u32::MAX);
    }

    fn notify(&self, count: u32) {
        if let Err(error) = patiently(|| self.0.notify(count)) {
            fail("notifying of a condition", &error);
        }
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").field("waiting", &self.0.waiting()).finish_non_exhaustive()
    }
}
