//! `ApplyResult`: the caller's half of an asynchronous call or map.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use manycore_engine::pool::{Answer, Job};
use pyo3::exceptions::{PyBaseException, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::codec::{self, Incoming};
use crate::core::{Core, lock, name_of};
use crate::feed::Feed;
use crate::map::Map;
use crate::{gate, hooks};

/// A thread that waits for another to settle a result looks for signals this often.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// The value of an answer, or the exception it stands for.
pub(crate) fn value_of<'py>(py: Python<'py>, answer: Answer, task: impl Fn() -> String) -> PyResult<Bound<'py, PyAny>> {
    hooks::whole(py, || match &answer {
        Answer::Returned(payload) => codec::decode(py, &Incoming::of(payload)),
        Answer::Raised(payload) => Err(hooks::raised(py, payload)),
        Answer::Lost(loss) => Err(hooks::lost(py, loss, &task)),
    })
}

/// Positional and keyword arguments.
type Arguments = (Py<PyTuple>, Option<Py<PyDict>>);

/// One call, submitted or waiting for room.
pub(crate) struct Call {
    job: Job,
    function: Py<PyAny>,
    /// The arguments, until they are in shared memory.
    waiting: Mutex<Option<Arguments>>,
}

impl Call {
    pub(crate) fn new(
        core: &Core,
        function: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
        kept: bool,
    ) -> Call {
        Call {
            job: core.pool().open_job(kept),
            function: function.clone().unbind(),
            waiting: Mutex::new(Some((args.clone().unbind(), kwargs.map(|kwargs| kwargs.clone().unbind())))),
        }
    }
}

/// What a result is the result of.
pub(crate) enum Kindred {
    Call(Call),
    Map(Box<Map>),
}

enum State {
    Open,
    /// A thread is turning what arrived into the value.
    Settling,
    /// It failed before anything could be submitted; the keeper will call back.
    Failed(PyErr),
    /// The value, or the exception.
    Done(Result<Py<PyAny>, Py<PyBaseException>>),
}

/// What an attempt to settle a result found.
#[derive(PartialEq, Eq)]
pub(crate) enum Progress {
    Done,
    /// Another thread is at it.
    Elsewhere,
    Open,
}

/// The result of an asynchronous call or map: see `multiprocessing.pool.AsyncResult`.
#[pyclass(frozen, weakref, module = "manycore.pool")]
pub(crate) struct ApplyResult {
    core: Py<Core>,
    /// The pool, which must live until the answer is there.
    owner: Mutex<Option<Py<PyAny>>>,
    work: Kindred,
    state: Mutex<State>,
    settled: Condvar,
    callback: Option<Py<PyAny>>,
    error_callback: Option<Py<PyAny>>,
}

impl ApplyResult {
    pub(crate) fn start(
        core: &Bound<'_, Core>,
        owner: Py<PyAny>,
        work: Kindred,
        callback: Option<Py<PyAny>>,
        error_callback: Option<Py<PyAny>>,
    ) -> PyResult<Py<ApplyResult>> {
        let py = core.py();
        let result = Py::new(
            py,
            ApplyResult {
                core: core.clone().unbind(),
                owner: Mutex::new(Some(owner)),
                work,
                state: Mutex::new(State::Open),
                settled: Condvar::new(),
                callback,
                error_callback,
            },
        )?;
        let (this, core) = (result.get(), core.get());
        if matches!(&this.work, Kindred::Map(map) if map.is_empty()) {
            // As in the standard package: ready at once, and nobody is called back.
            *lock(&this.state) = State::Done(Ok(pyo3::types::PyList::empty(py).unbind().into_any()));
            return Ok(result);
        }
        if this.is_kept() {
            core.feeds.keep(this.key(), result.clone_ref(py));
            core.call_keeper();
        }
        match &this.work {
            Kindred::Call(_) => {
                if core.feeds.has_deferred() {
                    core.pump(py)?;
                }
                if core.feeds.has_deferred() || !Self::submit(&result, py, core) {
                    core.feeds.defer(result.clone_ref(py));
                    core.call_keeper();
                }
            }
            Kindred::Map(_) => {
                if !Self::feed(&result, py, core) {
                    core.feeds.add(Feed::Map(result.clone_ref(py)));
                    core.call_keeper();
                }
            }
        }
        Ok(result)
    }

    fn key(&self) -> u64 {
        match &self.work {
            Kindred::Call(call) => call.job.key(),
            Kindred::Map(map) => map.job().key(),
        }
    }

    /// Whether everything there was to submit has failed.
    fn owes_nothing(&self) -> bool {
        match &self.work {
            Kindred::Call(_) => matches!(*lock(&self.state), State::Failed(_)),
            Kindred::Map(map) => map.is_dry() && map.job().owed() == 0,
        }
    }

    fn is_kept(&self) -> bool {
        self.callback.is_some() || self.error_callback.is_some()
    }

    /// Submits a call that waited for room. False: there is still none.
    pub(crate) fn submit(this: &Py<Self>, py: Python<'_>, core: &Core) -> bool {
        let Kindred::Call(call) = &this.get().work else { return true };
        let Some((args, kwargs)) = lock(&call.waiting).take() else { return true };
        let kwargs_bound = kwargs.as_ref().map(|kwargs| kwargs.bind(py));
        let submit = || core.submit_call(py, &call.job, call.function.bind(py), args.bind(py), kwargs_bound);
        match hooks::whole(py, submit) {
            Ok(true) => true,
            Ok(false) => {
                *lock(&call.waiting) = Some((args, kwargs));
                false
            }
            Err(error) => {
                *lock(&this.get().state) = State::Failed(error);
                this.get().settled.notify_all();
                Self::tell_keeper_of_failure(this, py, core);
                true
            }
        }
    }

    /// Submits what a map has room for. True: there is nothing left to submit.
    pub(crate) fn feed(this: &Py<Self>, py: Python<'_>, core: &Core) -> bool {
        let Kindred::Map(map) = &this.get().work else { return true };
        if map.is_dry() {
            return true;
        }
        if this.get().is_kept() {
            // Settling would call back, which is the keeper's to do.
            if map.feed(py, core) {
                core.feeds.look_again(map.job().key());
                core.call_keeper();
            }
            Self::tell_keeper_of_failure(this, py, core);
        } else {
            this.get().advance(py, core);
        }
        map.is_dry()
    }

    /// Nothing will arrive that would make the keeper look at a result of which
    /// everything there was to submit has failed.
    fn tell_keeper_of_failure(this: &Py<Self>, py: Python<'_>, core: &Core) {
        if this.get().is_kept() && this.get().owes_nothing() {
            core.feeds.fail(this.clone_ref(py));
            core.call_keeper();
        }
    }

    /// The pool has ended, and this will never be answered.
    pub(crate) fn give_up(&self, py: Python<'_>, core: &Core) {
        let error = core.closed_error(py, || "it".to_owned());
        *lock(&self.state) = State::Failed(error);
        self.advance(py, core);
    }

    /// Takes what has arrived; settles the result when that is all of it.
    pub(crate) fn advance(&self, py: Python<'_>, core: &Core) -> Progress {
        let failed = {
            let mut state = lock(&self.state);
            match std::mem::replace(&mut *state, State::Settling) {
                State::Open => None,
                State::Settling => return Progress::Elsewhere,
                State::Failed(error) => Some(error),
                done @ State::Done(_) => {
                    *state = done;
                    return Progress::Done;
                }
            }
        };
        let outcome = match (failed, &self.work) {
            (Some(error), _) => Some(Err(error)),
            (None, Kindred::Map(map)) => map.advance(py, core),
            (None, Kindred::Call(call)) => {
                let mut outcomes = VecDeque::new();
                call.job.take(&mut outcomes);
                outcomes
                    .pop_front()
                    .map(|outcome| value_of(py, outcome.answer, || name_of(call.function.bind(py))).map(Bound::unbind))
            }
        };
        let Some(outcome) = outcome else {
            *lock(&self.state) = State::Open;
            self.settled.notify_all();
            return Progress::Open;
        };
        let outcome = outcome.map_err(|error| error.into_value(py));
        self.call_back(py, &outcome);
        *lock(&self.state) = State::Done(outcome);
        self.settled.notify_all();
        if self.is_kept() {
            core.feeds.release(self.key());
        }
        let owner = lock(&self.owner).take();
        drop(owner);
        Progress::Done
    }

    fn call_back(&self, py: Python<'_>, outcome: &Result<Py<PyAny>, Py<PyBaseException>>) {
        let called = match outcome {
            Ok(value) => self.callback.as_ref().map(|callback| callback.call1(py, (value,))),
            Err(error) => self.error_callback.as_ref().map(|callback| callback.call1(py, (error,))),
        };
        if let Some(Err(error)) = called {
            // Nobody waits for the keeper, so the exception can only be shown.
            error.write_unraisable(py, None);
        }
    }

    /// Waits until the result is settled.
    fn settle(&self, py: Python<'_>, until: Option<Instant>) -> PyResult<()> {
        let core = self.core.get();
        if !self.is_done() {
            core.check_ours()?;
        }
        loop {
            // Before the look, so that what happens after it ends the wait.
            let seen = core.pool().events();
            if self.is_kept() {
                // The keeper settles it: callbacks run before anybody sees the value.
                if matches!(*lock(&self.state), State::Done(_)) {
                    return Ok(());
                }
                self.wait_elsewhere(py, until)?;
                continue;
            }
            match self.advance(py, core) {
                Progress::Done => return Ok(()),
                Progress::Elsewhere => self.wait_elsewhere(py, until)?,
                Progress::Open => match &self.work {
                    Kindred::Map(map) => map.wait(py, core, seen, until)?,
                    Kindred::Call(call) => {
                        let deferred = lock(&call.waiting).is_some();
                        if deferred {
                            core.pump(py)?;
                            core.wait(py, || core.pool().wait_for_event(seen, until))?;
                        } else {
                            core.wait(py, || core.pool().wait_for(call.job.key(), until))?;
                        }
                    }
                },
            }
        }
    }

    fn wait_elsewhere(&self, py: Python<'_>, until: Option<Instant>) -> PyResult<()> {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(hooks::timeout_error(String::new()));
        }
        py.detach(|| {
            let state = lock(&self.state);
            if !matches!(*state, State::Done(_)) {
                let limit = left.unwrap_or(LOOK_AROUND).min(LOOK_AROUND);
                let waited = self.settled.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner);
                drop(waited);
            }
        });
        py.check_signals()
    }

    fn is_done(&self) -> bool {
        matches!(*lock(&self.state), State::Done(_))
    }
}

#[pymethods]
impl ApplyResult {
    /// Returns the value, or raises what the task raised; waits for it, for
    /// `timeout` seconds at the longest (then: TimeoutError).
    #[pyo3(signature = (timeout=None))]
    fn get(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        self.settle(py, gate::deadline(timeout)?)?;
        // As in `hooks::after_signals`, but not with the lock in hand: a handler may ask for this very result.
        py.check_signals()?;
        match &*lock(&self.state) {
            State::Done(Ok(value)) => Ok(value.clone_ref(py)),
            State::Done(Err(error)) => Err(PyErr::from_value(error.bind(py).clone().into_any())),
            _ => Err(hooks::bug("a settled result without a value")),
        }
    }

    /// Waits until the result is there, for `timeout` seconds at the longest.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<()> {
        match self.settle(py, gate::deadline(timeout)?) {
            Err(error) if hooks::is_timeout(py, &error) => Ok(()),
            other => other,
        }
    }

    /// Whether the result is there.
    fn ready(&self, py: Python<'_>) -> PyResult<bool> {
        let core = self.core.get();
        if !self.is_done() && !self.is_kept() && core.pool().is_ours() {
            core.look_around(py)?;
            core.collect()?;
            self.advance(py, core);
        }
        Ok(self.is_done())
    }

    /// Whether the task returned without raising. ValueError before it is ready.
    fn successful(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        if !this.ready(slf.py())? {
            return Err(PyValueError::new_err(format!("{} not ready", slf.repr()?)));
        }
        Ok(matches!(*lock(&this.state), State::Done(Ok(_))))
    }

    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        cls.py().import("types")?.getattr("GenericAlias")?.call1((cls, item))
    }

    // An exception leads, by its traceback, to the frames it passed, and those
    // often to this very result.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.core)?;
        visit.call(&self.callback)?;
        visit.call(&self.error_callback)?;
        if let Ok(owner) = self.owner.try_lock() {
            visit.call(&*owner)?;
        }
        if let Ok(state) = self.state.try_lock() {
            match &*state {
                State::Done(Ok(value)) => visit.call(value)?,
                State::Done(Err(error)) => visit.call(error)?,
                _ => {}
            }
        }
        match &self.work {
            Kindred::Call(call) => visit.call(&call.function),
            Kindred::Map(map) => map.traverse(&visit),
        }
    }

    fn __clear__(&self) {
        let state = std::mem::replace(&mut *lock(&self.state), State::Settling);
        let owner = lock(&self.owner).take();
        drop((state, owner));
    }
}
