//! The class behind `Lock`, `RLock`, `Semaphore` and `BoundedSemaphore`.

use std::time::Instant;

use manycore_engine::Result;
use manycore_engine::shm::lock::{Lock, RecursiveLock};
use manycore_engine::shm::mutex::Taken;
use manycore_engine::shm::semaphore::{MOST, Semaphore};
use manycore_engine::shm::slots::Slot;
use pyo3::exceptions::{PyAssertionError, PyOSError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::{LockRegion, Place, insist, place, slot, wait, warn_of_death};
use crate::gate;

/// What a `SemLock` can be; the numbers are those of `kind` but for the last.
mod style {
    pub(super) const RECURSIVE: u32 = 0;
    pub(super) const SEMAPHORE: u32 = 1;
    pub(super) const LOCK: u32 = 2;
}

enum Body {
    Recursive(Slot<RecursiveLock>),
    Semaphore(Slot<Semaphore>),
    Lock(Slot<Lock>),
}

/// A lock or semaphore in shared memory.
#[pyclass(frozen, subclass, module = "manycore._engine")]
pub(crate) struct SemLock(Body);

impl SemLock {
    /// Takes it if that needs no waiting and nothing is to be said about it.
    #[inline]
    pub(super) fn take_free(&self) -> bool {
        match &self.0 {
            Body::Lock(lock) => lock.take_free(),
            Body::Recursive(lock) => matches!(lock.take_free(), Ok(true)),
            Body::Semaphore(semaphore) => semaphore.take_free(),
        }
    }

    /// Releases it if that needs no waiting and is allowed.
    #[inline]
    pub(super) fn give_free(&self) -> bool {
        match &self.0 {
            Body::Lock(lock) => lock.release(),
            Body::Recursive(lock) => lock.release(),
            Body::Semaphore(semaphore) => semaphore.give_free(),
        }
    }

    fn lock(&self, deadline: Option<Instant>) -> Result<Taken> {
        match &self.0 {
            Body::Lock(lock) => lock.lock(deadline),
            Body::Recursive(lock) => lock.lock(deadline),
            Body::Semaphore(semaphore) => semaphore.acquire(deadline).map(|()| Taken::Acquired),
        }
    }

    fn try_lock(&self) -> Result<Option<Taken>> {
        match &self.0 {
            Body::Lock(lock) => Ok(lock.try_lock()),
            Body::Recursive(lock) => lock.try_lock(),
            Body::Semaphore(semaphore) => Ok(semaphore.try_acquire()?.then_some(Taken::Acquired)),
        }
    }

    /// Takes it, waiting until `deadline` at the latest; whether that went well.
    pub(super) fn take(&self, py: Python<'_>, deadline: Option<Instant>) -> PyResult<bool> {
        let taken = if self.take_free() { Some(Taken::Acquired) } else { wait(py, || self.lock(deadline))? };
        self.taken(py, taken)
    }

    fn taken(&self, py: Python<'_>, taken: Option<Taken>) -> PyResult<bool> {
        if taken == Some(Taken::Recovered)
            && let Err(error) = warn_of_death(py)
        {
            // Whoever turns warnings into errors has not got the lock.
            self.give_free();
            return Err(error);
        }
        Ok(taken.is_some())
    }

    /// Whether this thread may release it as its owner.
    pub(super) fn is_mine(&self) -> bool {
        match &self.0 {
            Body::Lock(lock) => lock.is_mine(),
            Body::Recursive(lock) => lock.is_mine(),
            Body::Semaphore(semaphore) => semaphore.held() > 0,
        }
    }

    /// How often this process has taken it and not released it.
    pub(super) fn count(&self) -> u32 {
        match &self.0 {
            Body::Lock(lock) => lock.is_ours().into(),
            Body::Recursive(lock) => lock.depth(),
            Body::Semaphore(semaphore) => semaphore.held(),
        }
    }

    pub(super) fn give(&self, py: Python<'_>) -> PyResult<()> {
        let too_often = || PyValueError::new_err("semaphore or lock released too many times");
        match &self.0 {
            Body::Lock(lock) => lock.release().then_some(()).ok_or_else(too_often),
            Body::Recursive(lock) => lock
                .release()
                .then_some(())
                .ok_or_else(|| PyAssertionError::new_err("attempt to release recursive lock not owned by thread")),
            Body::Semaphore(semaphore) => insist(py, || semaphore.release())?.then_some(()).ok_or_else(too_often),
        }
    }
}

#[pymethods]
impl SemLock {
    /// The largest value of a semaphore.
    #[classattr]
    #[pyo3(name = "SEM_VALUE_MAX")]
    const SEM_VALUE_MAX: u32 = MOST;

    /// A new one, or that at `place`.
    #[new]
    #[pyo3(signature = (style, value, maxvalue, place=None))]
    fn new(style: u32, value: i64, maxvalue: i64, place: Option<Place<'_>>) -> PyResult<SemLock> {
        let number = |number: i64| {
            let wanted = || format!("a semaphore's value must be from 0 to {MOST}, not {number}");
            match u32::try_from(number) {
                Ok(number) if number <= MOST => Ok(number),
                Err(_) if number < 0 => Err(PyOSError::new_err((rustix::io::Errno::INVAL.raw_os_error(), wanted()))),
                _ => Err(PyOverflowError::new_err(wanted())),
            }
        };
        let (value, maxvalue) = (number(value)?, number(maxvalue)?);
        let place = place.as_ref();
        Ok(SemLock(match style {
            style::RECURSIVE => Body::Recursive(slot(place)?.0),
            style::LOCK => Body::Lock(slot(place)?.0),
            style::SEMAPHORE => {
                let (semaphore, is_new) = slot::<Semaphore>(place)?;
                if is_new {
                    semaphore.begin(value, maxvalue);
                }
                Body::Semaphore(semaphore)
            }
            _ => return Err(PyValueError::new_err("unrecognized kind")),
        }))
    }

    /// Acquire it. With `block` false, only if that is possible at once; otherwise wait, for
    /// `timeout` seconds at most (None: as long as it takes). Returns whether it was acquired.
    #[pyo3(signature = (block=None, timeout=None))]
    fn acquire(
        &self,
        py: Python<'_>,
        block: Option<&Bound<'_, PyAny>>,
        timeout: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<bool> {
        let block = block.map_or(Ok(true), |block| block.is_truthy())?;
        if !block {
            let taken = match self.take_free() {
                true => Some(Taken::Acquired),
                false => insist(py, || self.try_lock())?,
            };
            return self.taken(py, taken);
        }
        let seconds = match timeout {
            None => None,
            Some(timeout) => Some(
                timeout
                    .extract::<f64>()
                    .map_err(|_| PyTypeError::new_err("timeout must be a number of seconds or None"))?,
            ),
        };
        self.take(py, gate::deadline(seconds)?)
    }

    /// Release it. ValueError, or AssertionError for a recursive lock, if it is not acquired.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        self.give(py)
    }

    fn __enter__(&self, py: Python<'_>) -> PyResult<bool> {
        self.take(py, None)
    }

    #[pyo3(signature = (*args))]
    fn __exit__(&self, py: Python<'_>, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let _ = args; // An exception, or none: it goes on.
        self.give(py)
    }

    /// Return whether it is not to be had at once, by another thread at least.
    fn locked(&self) -> bool {
        self._is_zero()
    }

    fn _count(&self) -> u32 {
        self.count()
    }

    fn _is_mine(&self) -> bool {
        self.is_mine()
    }

    fn _get_value(&self) -> u32 {
        match &self.0 {
            Body::Lock(lock) => (!lock.is_locked()).into(),
            Body::Recursive(lock) => (!lock.is_locked()).into(),
            Body::Semaphore(semaphore) => semaphore.value(),
        }
    }

    fn _is_zero(&self) -> bool {
        self._get_value() == 0
    }

    /// Do nothing: what a fork changes, the lock knows.
    fn _after_fork(&self) {}

    /// 0 for a recursive lock, else 1.
    #[getter]
    fn kind(&self) -> u32 {
        if matches!(self.0, Body::Recursive(_)) { style::RECURSIVE } else { style::SEMAPHORE }
    }

    #[getter]
    fn maxvalue(&self) -> u32 {
        match &self.0 {
            Body::Lock(_) | Body::Recursive(_) => 1,
            Body::Semaphore(semaphore) => semaphore.most(),
        }
    }

    /// A number that no other lock of its region has.
    #[getter]
    fn handle(&self) -> usize {
        match &self.0 {
            Body::Lock(lock) => lock.offset(),
            Body::Recursive(lock) => lock.offset(),
            Body::Semaphore(semaphore) => semaphore.offset(),
        }
    }

    /// None: there is no name by which anybody could find it.
    #[getter]
    fn name(&self) -> Option<&str> {
        None
    }

    /// Where it stands, to tell another process.
    fn _place(&self) -> (LockRegion, usize) {
        place(match &self.0 {
            Body::Lock(lock) => lock.address(),
            Body::Recursive(lock) => lock.address(),
            Body::Semaphore(semaphore) => semaphore.address(),
        })
    }
}
