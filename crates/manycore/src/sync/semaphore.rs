//! `Semaphore`: so many at a time.

use super::place::Place;
use super::{deadline, fail, patiently};
use crate::error::{Error, Kind, Result};
use manycore_engine::Kind as Engine;
use manycore_engine::shm::semaphore::{self, MOST};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::{Duration, Instant};

/// A number of permits that threads of any processes take and give back.
///
/// Those of a process that dies come back by themselves, within a tenth of a second after
/// somebody waits for one. That ends, for good, with the first [`Semaphore::release`] by a
/// process that had no permit, and where more than 60 processes have some: from then on
/// it counts, and permits belong to nobody.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Pool;
/// use manycore::sync::Semaphore;
///
/// let two = Semaphore::new(2)?;
/// let download = |two: Semaphore, page: u32| {
///     let _permit = two.acquire();
///     page * 10
/// };
/// let pages = Pool::with_workers(4)?.starmap(download, (0..8).map(|page| (two.clone(), page)))?;
/// assert_eq!(pages[7], 70);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Semaphore(Place<semaphore::Semaphore>);

impl Semaphore {
    /// A semaphore with so many permits, at most 2³¹ - 1.
    ///
    /// # Errors
    /// Where there are too many, or no memory or descriptor is left for it.
    pub fn new(permits: usize) -> Result<Semaphore> {
        let Some(value) = u32::try_from(permits).ok().filter(|value| *value <= MOST) else {
            return Err(Error::new(Kind::Usage, format!("a semaphore has at most {MOST} permits, not {permits}")));
        };
        let place = Place::<semaphore::Semaphore>::new()?;
        place.begin(value, MOST);
        Ok(Semaphore(place))
    }

    /// Takes a permit, waiting as long as it takes.
    ///
    /// # Panics
    /// Where the kernel has no memory for a wait.
    pub fn acquire(&self) -> Permit<'_> {
        loop {
            // Without a deadline nothing else ends the wait.
            if let Some(permit) = self.acquire_until(None) {
                return permit;
            }
        }
    }

    /// Takes a permit, waiting for `limit` at the longest.
    ///
    /// # Panics
    /// As [`Semaphore::acquire`].
    pub fn acquire_timeout(&self, limit: Duration) -> Option<Permit<'_>> {
        self.acquire_until(deadline(limit))
    }

    fn acquire_until(&self, deadline: Option<Instant>) -> Option<Permit<'_>> {
        match patiently(|| self.0.acquire(deadline)) {
            Ok(()) => Some(Permit(self)),
            Err(error) if error.kind() == Engine::Timeout => None,
            Err(error) => fail("taking a permit of a semaphore", &error),
        }
    }

    /// Takes a permit if that is possible at once.
    ///
    /// # Panics
    /// As [`Semaphore::acquire`].
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        match patiently(|| self.0.try_acquire()) {
            Ok(taken) => taken.then(|| Permit(self)),
            Err(error) => fail("taking a permit of a semaphore", &error),
        }
    }

    /// Gives a permit back that was [forgotten](Permit::forget), or one more than there were.
    /// One more than 2³¹ - 1 is none.
    ///
    /// # Panics
    /// As [`Semaphore::acquire`].
    pub fn release(&self) {
        if let Err(error) = patiently(|| self.0.release()) {
            fail("giving a permit of a semaphore back", &error);
        }
    }

    /// How many permits are free.
    pub fn available(&self) -> usize {
        self.0.value() as usize
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore").field("available", &self.available()).finish_non_exhaustive()
    }
}

/// A permit of a [`Semaphore`], given back when this is dropped.
#[must_use = "the permit is given back when this is dropped"]
#[derive(Debug)]
pub struct Permit<'a>(&'a Semaphore);

impl Permit<'_> {
    /// Does not give it back; [`Semaphore::release`] does, later.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.release();
    }
}
