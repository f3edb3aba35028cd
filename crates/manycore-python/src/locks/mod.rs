//! Locks: what `manycore.synchronize` is made of.

mod condition;
mod fast;
mod region;
mod semlock;

pub(crate) use condition::{Barrier, Condition, Event};
pub(crate) use fast::install_fast_methods;
pub(crate) use region::LockRegion;
pub(crate) use semlock::SemLock;

use std::sync::Arc;

use manycore_engine::shm::slots::{Resident, Slot, Slots};
use manycore_engine::{Kind, Result};
use pyo3::exceptions::PyRuntimeWarning;
use pyo3::prelude::*;

use crate::gate;

/// Where a lock stands: its region, and the offset there.
type Place<'py> = (Bound<'py, LockRegion>, usize);

/// The lock at `place`, which another process has made; or a new one.
fn slot<T: Resident>(place: Option<&Place<'_>>) -> PyResult<(Slot<T>, bool)> {
    let slot = match place {
        Some((region, offset)) => Slot::at(region.get().slots(), *offset),
        None => Slot::new(),
    };
    Ok((slot.map_err(gate::raise)?, place.is_none()))
}

/// The other way round, to tell another process.
fn place((slots, offset): (&Arc<Slots>, usize)) -> (LockRegion, usize) {
    (LockRegion::new(Arc::clone(slots)), offset)
}

/// Waits by `call`, through the gate. `None` when its time is over.
fn wait<T: Send>(py: Python<'_>, mut call: impl FnMut() -> Result<T> + Send) -> PyResult<Option<T>> {
    gate::enter(py, || match call() {
        Err(error) if error.kind() == Kind::Timeout => Ok(None),
        other => other.map(Some),
    })
}

/// Makes a change that takes a moment. A signal that comes meanwhile waits until it is made.
fn insist<T: Send>(py: Python<'_>, mut call: impl FnMut() -> Result<T> + Send) -> PyResult<T> {
    let mut insisting = || {
        loop {
            match call() {
                Err(error) if error.kind() == Kind::Interrupted => {}
                other => return other,
            }
        }
    };
    py.detach(&mut insisting).map_err(gate::raise)
}

/// Warns that a lock came from a process that has died.
fn warn_of_death(py: Python<'_>) -> PyResult<()> {
    let category = py.get_type::<PyRuntimeWarning>();
    let text = c"the process that held this lock has ended without releasing it; \
                 what it protects may have been left half-changed";
    PyErr::warn(py, &category, text, 1)
}
