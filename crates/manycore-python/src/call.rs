//! One call, submitted or waiting for room.

use std::sync::{Arc, Mutex};

use manycore_engine::pool::{Answer, Job};
use manycore_engine::sync::{AtomicU32, Ordering};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::answers::value_of;
use crate::core::{Core, lock, name_of};
use crate::options::Wishes;
use crate::{gate, hooks};

/// Positional and keyword arguments.
type Arguments = (Py<PyTuple>, Option<Py<PyDict>>);

/// One call of an asynchronous result.
pub(crate) struct Call {
    pub(crate) job: Job,
    function: Py<PyAny>,
    wishes: Arc<Wishes>,
    /// The arguments, until they are in shared memory.
    waiting: Mutex<Option<Arguments>>,
    /// The arguments of a call that may be run again, until it is answered.
    again: Mutex<Option<Arguments>>,
    retried: AtomicU32,
    /// 1 once it was cancelled: it is not run again.
    cancelled: AtomicU32,
}

/// What a call's answer leads to.
pub(crate) enum Heard {
    /// It is the result.
    Result(PyResult<Py<PyAny>>),
    /// The call waits to be submitted once more.
    Again,
}

impl Call {
    pub(crate) fn new(
        core: &Core,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        wishes: Arc<Wishes>,
        kept: bool,
    ) -> Call {
        let arguments = || (args.clone().unbind(), kwargs.map(|kwargs| kwargs.clone().unbind()));
        Call {
            job: core.pool().open_job(wishes.for_engine(kept, false)),
            function: function.clone().unbind(),
            waiting: Mutex::new(Some(arguments())),
            again: Mutex::new((wishes.retries > 0).then(arguments)),
            retried: AtomicU32::new(0),
            cancelled: AtomicU32::new(0),
            wishes,
        }
    }

    /// Whether the call may be run again, so that somebody must look at its answer.
    pub(crate) fn may_be_retried(&self) -> bool {
        self.wishes.retries > 0
    }

    /// Higher first.
    pub(crate) fn priority(&self) -> i32 {
        self.wishes.priority
    }

    /// Whether the call waits for room.
    pub(crate) fn is_waiting(&self) -> bool {
        lock(&self.waiting).is_some()
    }

    /// Submits the call, if it waits. False: there is no room.
    pub(crate) fn submit(&self, py: Python<'_>, core: &Core) -> PyResult<bool> {
        let Some((args, kwargs)) = lock(&self.waiting).take() else { return Ok(true) };
        let kwargs_bound = kwargs.as_ref().map(|kwargs| kwargs.bind(py));
        let submit = || {
            core.submit_call(py, &self.job, self.wishes.priority, self.function.bind(py), args.bind(py), kwargs_bound)
        };
        let submitted = hooks::whole(py, submit);
        if matches!(submitted, Ok(false)) {
            *lock(&self.waiting) = Some((args, kwargs));
        } else if submitted.is_ok() && self.is_cancelled() {
            // Whoever cancelled it may have found nothing to take back yet.
            core.pool().cancel(self.job.key(), true).map_err(gate::raise)?;
        }
        submitted
    }

    /// The call is not to be run, or not any more. True: it had not been submitted yet, and never will be.
    pub(crate) fn cancel(&self) -> bool {
        self.cancelled.store(1, Ordering::SeqCst);
        let waiting = lock(&self.waiting).take();
        waiting.is_some()
    }

    /// The error of a call that was cancelled before it was submitted.
    pub(crate) fn cancelled_error(&self, py: Python<'_>) -> PyErr {
        hooks::cancelled(py, || name_of(self.function.bind(py)))
    }

    /// Judges an answer.
    pub(crate) fn hear(&self, py: Python<'_>, core: &Core, answer: &Answer) -> Heard {
        let value = value_of(py, answer, self.wishes.limit, || name_of(self.function.bind(py))).map(Bound::unbind);
        let again = matches!(&value, Err(error) if self.may_retry(py, core, answer, error));
        if again && !self.is_cancelled() && self.put_again(py) {
            self.retried.fetch_add(1, Ordering::Relaxed);
            // If it was cancelled meanwhile, one of the two takes the arguments, and it is not submitted.
            let taken = if self.is_cancelled() { lock(&self.waiting).take() } else { None };
            return if taken.is_some() { Heard::Result(Err(self.cancelled_error(py))) } else { Heard::Again };
        }
        if again && self.is_cancelled() {
            return Heard::Result(Err(self.cancelled_error(py)));
        }
        if self.may_be_retried() {
            let over = lock(&self.again).take();
            drop(over);
        }
        Heard::Result(match value {
            Err(error) if self.wishes.as_values && !hooks::is_cancelled(py, error.value(py)) => {
                Ok(error.into_value(py).into_any())
            }
            value => value,
        })
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst) != 0
    }

    /// The call waits to be submitted once more. False: it may not be run again.
    fn put_again(&self, py: Python<'_>) -> bool {
        let again = lock(&self.again);
        let Some((args, kwargs)) = &*again else { return false };
        *lock(&self.waiting) = Some((args.clone_ref(py), kwargs.as_ref().map(|kwargs| kwargs.clone_ref(py))));
        true
    }

    fn may_retry(&self, py: Python<'_>, core: &Core, answer: &Answer, error: &PyErr) -> bool {
        let left = self.retried.load(Ordering::Relaxed) < self.wishes.retries;
        left && match answer {
            Answer::Lost(loss) => loss.may_be_retried() && core.goes_on(),
            _ => self.wishes.may_retry(py, error).unwrap_or(false),
        }
    }

    /// Shows the collector what the call refers to.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.function)?;
        let mut places = [Some(&self.waiting), None];
        if self.may_be_retried() {
            self.wishes.traverse(visit)?;
            places[1] = Some(&self.again);
        }
        for place in places.into_iter().flatten() {
            if let Ok(place) = place.try_lock()
                && let Some((args, kwargs)) = &*place
            {
                visit.call(args)?;
                visit.call(kwargs)?;
            }
        }
        Ok(())
    }
}
