//! What a job wants beyond the standard package.

use std::sync::Arc;
use std::time::Duration;

use manycore_engine::pool;
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

/// The options of one job, or of every job of a pool. `manycore._options` checks them.
#[pyclass(frozen, module = "manycore._engine")]
pub(crate) struct JobOptions(Arc<Wishes>);

/// What stands in [`JobOptions`].
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// How long each call may take.
    pub(crate) limit: Option<Duration>,
    /// How often a call may be run again.
    pub(crate) retries: u32,
    /// The classes of exceptions after which a call is run again, as `isinstance` takes them. A lost worker always counts.
    retry_on: Option<Py<PyAny>>,
    /// Higher first.
    pub(crate) priority: i32,
    /// What a call raises is its result.
    pub(crate) as_values: bool,
}

#[pymethods]
impl JobOptions {
    #[new]
    fn new(
        task_timeout: Option<f64>,
        retries: u32,
        retry_on: Option<Py<PyAny>>,
        priority: i32,
        return_exceptions: bool,
    ) -> PyResult<JobOptions> {
        // A limit that no clock can tell is none.
        let limit = task_timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        if limit.is_some_and(|limit| limit.is_zero()) {
            return Err(PyValueError::new_err("task_timeout must be more than a nanosecond"));
        }
        Ok(JobOptions(Arc::new(Wishes { limit, retries, retry_on, priority, as_values: return_exceptions })))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0.retry_on)
    }
}

impl Wishes {
    /// What `options` say; without them, what is `usual`.
    pub(crate) fn of(options: Option<&Bound<'_, JobOptions>>, usual: &Arc<Wishes>) -> Arc<Wishes> {
        Arc::clone(options.map_or(usual, |options| &options.get().0))
    }

    /// Whether each call of a chunk has an answer of its own, a value or an exception.
    pub(crate) fn is_each(&self) -> bool {
        self.as_values || (self.retries > 0 && self.retry_on.is_some())
    }

    /// Whether a call that raised `error` may be run again.
    pub(crate) fn may_retry(&self, py: Python<'_>, error: &PyErr) -> PyResult<bool> {
        match &self.retry_on {
            Some(classes) if self.retries > 0 => error.value(py).is_instance(classes.bind(py)),
            _ => Ok(false),
        }
    }

    /// What the engine must know of a job with these options.
    pub(crate) fn for_engine(&self, kept: bool, minds_losses: bool) -> pool::JobOptions {
        pool::JobOptions { kept, minds_losses, priority: self.priority, limit: self.limit }
    }

    /// Shows the collector what this refers to.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.retry_on)
    }
}
