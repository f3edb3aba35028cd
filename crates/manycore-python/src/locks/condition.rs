//! What `Condition`, `Event` and `Barrier` wait with.

use manycore_engine::shm::barrier::{self, Arrival};
use manycore_engine::shm::condition;
use manycore_engine::shm::event;
use manycore_engine::shm::lobby::Call;
use manycore_engine::shm::slots::Slot;
use pyo3::exceptions::{PyAssertionError, PyValueError};
use pyo3::prelude::*;

use super::{LockRegion, Place, SemLock, insist, place, slot, wait};
use crate::gate;

/// Those who wait for a notification.
#[pyclass(frozen, module = "manycore._engine")]
pub(crate) struct Condition(Slot<condition::Condition>);

#[pymethods]
impl Condition {
    #[new]
    #[pyo3(signature = (place=None))]
    fn new(place: Option<Place<'_>>) -> PyResult<Condition> {
        Ok(Condition(slot(place.as_ref())?.0))
    }

    /// Releases `lock`, waits for a notification, takes `lock` again as often as this
    /// thread had taken it. Whether a notification came within `timeout` seconds.
    fn wait(&self, py: Python<'_>, lock: &Bound<'_, SemLock>, timeout: Option<f64>) -> PyResult<bool> {
        let lock = lock.get();
        if !lock.is_mine() {
            return Err(PyAssertionError::new_err("must acquire() condition before using wait()"));
        }
        let deadline = gate::deadline(timeout)?;
        let depth = lock.count();
        let index = insist(py, || self.0.join())?;
        for _ in 0..depth {
            lock.give(py)?;
        }
        let waited = wait(py, || self.0.wait(index, deadline));
        let notified = match waited {
            Ok(Some(())) => true,
            // It may have come after the time was over.
            Ok(None) => insist(py, || self.0.leave(index))?,
            Err(_) => {
                // A notification for one who was interrupted goes on to another.
                if insist(py, || self.0.leave(index))? {
                    insist(py, || self.0.notify(1))?;
                }
                false
            }
        };
        for _ in 0..depth {
            lock.take(py, None)?;
        }
        waited.map(|_| notified)
    }

    /// Notifies the `count` that have waited longest.
    fn notify(&self, py: Python<'_>, lock: &Bound<'_, SemLock>, count: i64) -> PyResult<()> {
        if !lock.get().is_mine() {
            return Err(PyAssertionError::new_err("lock is not owned"));
        }
        let count = u32::try_from(count.max(0)).unwrap_or(u32::MAX);
        insist(py, || self.0.notify(count)).map(|_| ())
    }

    /// How many wait.
    fn waiting(&self) -> u32 {
        self.0.waiting()
    }

    fn _place(&self) -> (LockRegion, usize) {
        place(self.0.address())
    }
}

/// A flag to wait for.
#[pyclass(frozen, subclass, module = "manycore._engine")]
pub(crate) struct Event(Slot<event::Event>);

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (place=None))]
    fn new(place: Option<Place<'_>>) -> PyResult<Event> {
        Ok(Event(slot(place.as_ref())?.0))
    }

    /// Return whether the flag is set.
    fn is_set(&self) -> bool {
        self.0.is_set()
    }

    /// Set the flag, and wake all that wait for it.
    fn set(&self) {
        self.0.set();
    }

    /// Clear the flag.
    fn clear(&self) {
        self.0.clear();
    }

    /// Wait until the flag is set, for `timeout` seconds at most (None: as long as it takes).
    /// Returns whether it was set.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.0.is_set() {
            return Ok(true);
        }
        let deadline = gate::deadline(timeout)?;
        Ok(wait(py, || self.0.wait(deadline))?.is_some())
    }

    fn _place(&self) -> (LockRegion, usize) {
        place(self.0.address())
    }
}

/// A place where a fixed number of threads wait for each other.
#[pyclass(frozen, module = "manycore._engine")]
pub(crate) struct Barrier(Slot<barrier::Barrier>);

#[pymethods]
impl Barrier {
    #[new]
    #[pyo3(signature = (parties, place=None))]
    fn new(parties: i64, place: Option<Place<'_>>) -> PyResult<Barrier> {
        let (barrier, is_new) = slot::<barrier::Barrier>(place.as_ref())?;
        if is_new {
            let parties = u32::try_from(parties).ok().filter(|parties| *parties > 0);
            barrier.begin(parties.ok_or_else(|| PyValueError::new_err("parties must be > 0"))?);
        }
        Ok(Barrier(barrier))
    }

    /// Waits for the others. The number of this one among them, and whether it must act
    /// and then `open` or `abort`; None when the barrier is broken, also by this wait.
    fn wait(&self, py: Python<'_>, acts: bool, timeout: Option<f64>) -> PyResult<Option<(u32, bool)>> {
        let deadline = gate::deadline(timeout)?;
        let Some(arrival) = wait(py, || self.0.arrive(acts, deadline))? else {
            insist(py, || self.0.abort())?;
            return Ok(None);
        };
        let (index, number) = match arrival {
            Arrival::Passed(number) => return Ok(Some((number, false))),
            Arrival::Last(number) => return Ok(Some((number, true))),
            Arrival::Broken => return Ok(None),
            Arrival::Wait(index, number) => (index, number),
        };
        let call = match wait(py, || self.0.wait(index, deadline)) {
            Ok(Some(call)) => call,
            Ok(None) => insist(py, || self.0.give_up(index))?,
            Err(error) => {
                insist(py, || self.0.withdraw(index))?;
                return Err(error);
            }
        };
        Ok((call == Call::Come).then_some((number, false)))
    }

    /// The last one has acted.
    fn open(&self, py: Python<'_>) -> PyResult<()> {
        insist(py, || self.0.open())
    }

    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        insist(py, || self.0.abort())
    }

    fn reset(&self, py: Python<'_>) -> PyResult<()> {
        insist(py, || self.0.reset())
    }

    #[getter]
    fn parties(&self) -> u32 {
        self.0.parties()
    }

    #[getter]
    fn n_waiting(&self) -> u32 {
        self.0.waiting()
    }

    #[getter]
    fn broken(&self) -> bool {
        self.0.is_broken()
    }

    fn _place(&self) -> (LockRegion, usize) {
        place(self.0.address())
    }
}
