//! A region of locks on its way to another process.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use manycore_engine::shm::slots::{Slots, SlotsId};
use pyo3::prelude::*;

use crate::buffer::adopt;
use crate::gate;

/// The memory that many locks of one process stand in.
#[pyclass(frozen, module = "manycore._engine")]
pub(crate) struct LockRegion(Arc<Slots>);

impl LockRegion {
    pub(super) fn new(slots: Arc<Slots>) -> LockRegion {
        LockRegion(slots)
    }

    pub(super) fn slots(&self) -> &Arc<Slots> {
        &self.0
    }
}

#[pymethods]
impl LockRegion {
    /// The region `id` if this process has it.
    #[staticmethod]
    fn find(id: (u64, u64)) -> Option<LockRegion> {
        Slots::find_attached(SlotsId { creator: id.0, number: id.1 }).map(LockRegion)
    }

    /// The region `id`, whose descriptor is `fd` and is from now on this object's.
    #[staticmethod]
    fn attach(id: (u64, u64), fd: i32) -> PyResult<LockRegion> {
        Slots::attach(SlotsId { creator: id.0, number: id.1 }, adopt(fd)).map(LockRegion).map_err(gate::raise)
    }

    /// What tells it from all others.
    #[getter]
    fn id(&self) -> (u64, u64) {
        let id = self.0.id();
        (id.creator, id.number)
    }

    /// Its descriptor, which stays the region's.
    fn fileno(&self) -> i32 {
        self.0.file().as_raw_fd()
    }
}
