//! `ApplyResult`: the caller's half of an asynchronous call or map.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use manycore_engine::sync::{AtomicU32, Ordering};
use pyo3::exceptions::{PyAttributeError, PyBaseException, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyType;

use crate::call::{Call, Heard};
use crate::core::{Core, lock};
use crate::feed::Feed;
use crate::map::Map;
use crate::{gate, hooks};

/// A thread that waits for another to settle a result looks for signals this often.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// The value, or the exception.
type Outcome = Result<Py<PyAny>, Py<PyBaseException>>;

/// What a result is the result of.
pub(crate) enum Kindred {
    Call(Call),
    Map(Arc<Map>),
}

enum State {
    Open,
    /// A thread is turning what arrived into the value.
    Settling,
    /// It failed before anything could be submitted; the keeper will call back.
    Failed(PyErr),
    Done(Outcome),
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
    /// The state has changed.
    settled: gate::Changes,
    callback: Option<Py<PyAny>>,
    error_callback: Option<Py<PyAny>>,
    /// 1 once the keeper settles it, because somebody is called when it is done.
    kept: AtomicU32,
    /// Called, each once, when it is done.
    awaiting: Mutex<Vec<Py<PyAny>>>,
}

impl Drop for ApplyResult {
    fn drop(&mut self) {
        let Kindred::Map(map) = &self.work else { return };
        let core = self.core.get();
        core.feeds.release(map.job().key());
        // As in the standard package, all of it is run.
        if core.goes_on() && !map.is_answered() && !matches!(self.state.get_mut(), Ok(State::Done(_))) {
            core.feeds.adopt(map);
            core.pool().keep(map.job().key(), true);
            core.feeds.look_again(map.job().key());
            core.call_keeper();
        }
    }
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
        let is_kept = callback.is_some()
            || error_callback.is_some()
            || matches!(&work, Kindred::Call(call) if call.may_be_retried());
        let result = Bound::new(
            py,
            ApplyResult {
                core: core.clone().unbind(),
                owner: Mutex::new(Some(owner)),
                work,
                state: Mutex::new(State::Open),
                settled: gate::Changes::default(),
                callback,
                error_callback,
                kept: AtomicU32::new(u32::from(is_kept)),
                awaiting: Mutex::default(),
            },
        )?;
        let (this, core) = (result.get(), core.get());
        if matches!(&this.work, Kindred::Map(map) if map.is_empty()) {
            // As in the standard package: ready at once, and nobody is called back.
            *lock(&this.state) = State::Done(Ok(pyo3::types::PyList::empty(py).unbind().into_any()));
            return Ok(result.unbind());
        }
        if is_kept {
            core.feeds.keep(this.key(), &result);
            core.call_keeper();
        }
        match &this.work {
            Kindred::Call(_) => {
                if core.feeds.has_deferred() {
                    core.pump(py)?;
                }
                // Behind those that waited before, unless it is more urgent.
                if core.feeds.has_deferred_before(this.priority()) || !Self::submit(&result, core) {
                    core.feeds.defer(result.clone().unbind());
                    core.call_keeper();
                }
            }
            Kindred::Map(map) => {
                // Until it is done: a worker's death may leave something to be run again.
                core.feeds.mind(map);
                if !Self::feed(&result, core) {
                    core.feeds.add(Feed::Map(result.clone().unbind()));
                    core.call_keeper();
                }
            }
        }
        Ok(result.unbind())
    }

    /// What it is the result of.
    pub(crate) fn work(&self) -> &Kindred {
        &self.work
    }

    pub(crate) fn key(&self) -> u64 {
        match &self.work {
            Kindred::Call(call) => call.job.key(),
            Kindred::Map(map) => map.job().key(),
        }
    }

    /// Higher first.
    pub(crate) fn priority(&self) -> i32 {
        match &self.work {
            Kindred::Call(call) => call.priority(),
            Kindred::Map(map) => map.priority(),
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
        self.kept.load(Ordering::Acquire) != 0
    }

    /// Submits a call that waits for room. False: there is still none.
    pub(crate) fn submit(slf: &Bound<'_, Self>, core: &Core) -> bool {
        let this = slf.get();
        let Kindred::Call(call) = &this.work else { return true };
        match call.submit(slf.py(), core) {
            Ok(submitted) => submitted,
            Err(error) => {
                Self::fail(slf, core, error);
                true
            }
        }
    }

    /// It fails with `error`, without an answer.
    fn fail(slf: &Bound<'_, Self>, core: &Core, error: PyErr) {
        let this = slf.get();
        *lock(&this.state) = State::Failed(error);
        this.settled.announce();
        Self::tell_keeper_of_failure(slf, core);
    }

    /// Submits what a map has room for. True: there is nothing left to submit.
    pub(crate) fn feed(slf: &Bound<'_, Self>, core: &Core) -> bool {
        let this = slf.get();
        let Kindred::Map(map) = &this.work else { return true };
        if map.is_dry() {
            return true;
        }
        if this.is_kept() {
            // Settling would call back, which is the keeper's to do.
            if map.feed(slf.py(), core) {
                core.feeds.look_again(map.job().key());
                core.call_keeper();
            }
            Self::tell_keeper_of_failure(slf, core);
        } else {
            Self::advance(slf, core);
        }
        map.is_dry()
    }

    /// Nothing will arrive that would make the keeper look at a result of which
    /// everything there was to submit has failed.
    fn tell_keeper_of_failure(slf: &Bound<'_, Self>, core: &Core) {
        if slf.get().is_kept() && slf.get().owes_nothing() {
            core.feeds.fail(slf.clone().unbind());
            core.call_keeper();
        }
    }

    /// The pool has ended, and this will never be answered.
    pub(crate) fn give_up(slf: &Bound<'_, Self>, core: &Core) {
        let error = core.closed_error(slf.py(), || "it".to_owned());
        *lock(&slf.get().state) = State::Failed(error);
        Self::advance(slf, core);
    }

    /// Takes what has arrived; settles the result when that is all of it.
    pub(crate) fn advance(slf: &Bound<'_, Self>, core: &Core) -> Progress {
        let (py, this) = (slf.py(), slf.get());
        let failed = {
            let mut state = lock(&this.state);
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
        let outcome = match (failed, &this.work) {
            (Some(error), _) => Some(Err(error)),
            (None, Kindred::Map(map)) => map.advance(py, core),
            (None, Kindred::Call(call)) => {
                match call.job.take_one().map(|outcome| call.hear(py, core, &outcome.answer)) {
                    None => None,
                    Some(Heard::Result(result)) => Some(result),
                    Some(Heard::Again) => match call.submit(py, core) {
                        Ok(true) => None,
                        Ok(false) => {
                            core.feeds.defer(slf.clone().unbind());
                            None
                        }
                        Err(error) => Some(Err(error)),
                    },
                }
            }
        };
        let Some(outcome) = outcome else {
            let mut state = lock(&this.state);
            // It may have failed meanwhile: cancelled before it was submitted again.
            if matches!(*state, State::Settling) {
                *state = State::Open;
            }
            drop(state);
            this.settled.announce();
            return Progress::Open;
        };
        let outcome = this.call_back(py, outcome.map_err(|error| error.into_value(py)));
        *lock(&this.state) = State::Done(outcome);
        this.settled.announce();
        if this.is_kept() || matches!(&this.work, Kindred::Map(_)) {
            core.feeds.release(this.key());
            this.wake_awaiting(py);
        }
        let owner = lock(&this.owner).take();
        drop(owner);
        Progress::Done
    }

    /// Calls those who asked to be called when it is done.
    fn wake_awaiting(&self, py: Python<'_>) {
        let awaiting = std::mem::take(&mut *lock(&self.awaiting));
        for call in awaiting {
            if let Err(error) = call.call0(py) {
                error.write_unraisable(py, Some(call.bind(py)));
            }
        }
    }

    /// Calls back, and gives what the result is then: an exception that a callback raises takes the place of the
    /// outcome, as from CPython 3.16 on (gh-83371). Printed by the keeper it would be seen by nobody who could act on it.
    fn call_back(&self, py: Python<'_>, outcome: Outcome) -> Outcome {
        let called = match &outcome {
            Ok(value) => self.callback.as_ref().map(|callback| callback.call1(py, (value,))),
            Err(error) => self.error_callback.as_ref().map(|callback| callback.call1(py, (error,))),
        };
        let Some(Err(raised)) = called else { return outcome };
        let raised = raised.into_value(py);
        if let Err(original) = &outcome {
            hooks::keep_in_context(py, &raised, original);
        }
        Err(raised)
    }

    /// Waits until the result is settled.
    fn settle(slf: &Bound<'_, Self>, until: Option<Instant>) -> PyResult<()> {
        let (py, this) = (slf.py(), slf.get());
        let core = this.core.get();
        if !this.is_done() {
            core.check_ours()?;
        }
        loop {
            // Before the look, so that what happens after it ends the wait.
            let seen = core.pool().events();
            if this.is_kept() {
                // The keeper settles it: callbacks run before anybody sees the value.
                if matches!(*lock(&this.state), State::Done(_)) {
                    return Ok(());
                }
                this.wait_elsewhere(py, until)?;
                continue;
            }
            match Self::advance(slf, core) {
                Progress::Done => return Ok(()),
                Progress::Elsewhere => this.wait_elsewhere(py, until)?,
                Progress::Open => match &this.work {
                    Kindred::Map(map) => map.wait(py, core, seen, until)?,
                    Kindred::Call(call) => {
                        if call.is_waiting() {
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
        let seen = self.settled.seen();
        if !self.is_done() {
            self.settled.wait(py, seen, left.unwrap_or(LOOK_AROUND).min(LOOK_AROUND));
        }
        py.check_signals()
    }

    fn was_cancelled(&self, py: Python<'_>) -> bool {
        matches!(&*lock(&self.state), State::Done(Err(error)) if hooks::is_cancelled(py, error.bind(py)))
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
    fn get(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        Self::settle(slf, gate::deadline(timeout)?)?;
        // As in `hooks::after_signals`, but not with the lock in hand: a handler may ask for this very result.
        py.check_signals()?;
        match &*lock(&slf.get().state) {
            State::Done(Ok(value)) => Ok(value.clone_ref(py)),
            State::Done(Err(error)) => Err(PyErr::from_value(error.bind(py).clone().into_any())),
            _ => Err(hooks::bug("a settled result without a value")),
        }
    }

    /// Waits until the result is there, for `timeout` seconds at the longest.
    #[pyo3(signature = (timeout=None))]
    fn wait(slf: &Bound<'_, Self>, timeout: Option<f64>) -> PyResult<()> {
        match Self::settle(slf, gate::deadline(timeout)?) {
            Err(error) if hooks::is_timeout(slf.py(), &error) => Ok(()),
            other => other,
        }
    }

    /// Whether the result is there.
    fn ready(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        let core = this.core.get();
        if !this.is_done() && !this.is_kept() && core.pool().is_ours() {
            core.look_around(py)?;
            core.collect()?;
            Self::advance(slf, core);
        }
        Ok(this.is_done())
    }

    /// Cancels the task: one that waits never runs; the worker of one that runs is killed and replaced, and so with
    /// every task of a map. Says whether there was anything to cancel: not so, if the result is there.
    /// `get` then raises TaskCancelled.
    fn cancel(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let (py, this) = (slf.py(), slf.get());
        let core = this.core.get();
        if Self::ready(slf)? {
            return Ok(false);
        }
        core.check_ours()?;
        match &this.work {
            Kindred::Call(call) => {
                if call.cancel() {
                    Self::fail(slf, core, call.cancelled_error(py));
                } else {
                    core.pool().cancel(call.job.key(), true).map_err(gate::raise)?;
                }
            }
            Kindred::Map(map) => {
                map.cancel();
                while !this.is_done() && !map.has_cancelled() {
                    // The thread that has the map in hand does not look again by itself.
                    let seen = this.settled.seen();
                    if this.is_kept() {
                        core.feeds.look_again(this.key());
                        core.call_keeper();
                        this.settled.wait(py, seen, LOOK_AROUND);
                    } else if Self::advance(slf, core) == Progress::Elsewhere {
                        this.settled.wait(py, seen, LOOK_AROUND);
                    }
                    py.check_signals()?;
                }
            }
        }
        if !this.is_kept() {
            Self::advance(slf, core);
        }
        Ok(!this.is_done() || this.was_cancelled(py))
    }

    /// Whether the task was cancelled before it could finish.
    fn cancelled(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Ok(Self::ready(slf)? && slf.get().was_cancelled(slf.py()))
    }

    /// Waits for the result in an event loop of asyncio's.
    fn __await__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Ok(hooks::awaiting(slf.py())?.getattr("result_of")?.call1((slf,))?.unbind())
    }

    /// Has `call` called, without arguments, by the pool's own thread, when the result is there. False, and it is not
    /// called: the result is there already.
    fn _when_done(slf: &Bound<'_, Self>, call: Py<PyAny>) -> PyResult<bool> {
        let this = slf.get();
        let core = this.core.get();
        core.check_ours()?;
        if !this.is_kept() {
            // From here on the keeper settles it, which must know that before anything more arrives.
            core.feeds.keep(this.key(), slf);
            this.kept.store(1, Ordering::Release);
            core.pool().keep(this.key(), true);
            core.feeds.look_again(this.key());
            core.call_keeper();
        }
        lock(&this.awaiting).push(call);
        if !this.is_done() {
            return Ok(true);
        }
        // Whoever has settled it meanwhile may have called, or have come too early to see this.
        let left = std::mem::take(&mut *lock(&this.awaiting));
        core.feeds.release(this.key());
        Ok(left.is_empty())
    }

    /// Whether the task returned without raising. ValueError before it is ready.
    fn successful(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let this = slf.get();
        if !Self::ready(slf)? {
            return Err(PyValueError::new_err(format!("{} not ready", slf.repr()?)));
        }
        Ok(matches!(*lock(&this.state), State::Done(Ok(_))))
    }

    /// What programs read beside the interface, as the standard package's results have it.
    fn __getattr__<'py>(slf: &Bound<'py, Self>, name: &str) -> PyResult<Bound<'py, PyAny>> {
        if !name.starts_with('_') || name.starts_with("__") {
            return Err(PyAttributeError::new_err(format!("'ApplyResult' object has no attribute '{name}'")));
        }
        slf.py().import("manycore._pool_views")?.call_method1("attribute", (slf, name))
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
        if let Ok(awaiting) = self.awaiting.try_lock() {
            awaiting.iter().try_for_each(|call| visit.call(call))?;
        }
        if let Ok(state) = self.state.try_lock() {
            match &*state {
                State::Done(Ok(value)) => visit.call(value)?,
                State::Done(Err(error)) => visit.call(error)?,
                _ => {}
            }
        }
        match &self.work {
            Kindred::Call(call) => call.traverse(&visit),
            Kindred::Map(map) => map.traverse(&visit),
        }
    }

    fn __clear__(&self) {
        let state = std::mem::replace(&mut *lock(&self.state), State::Settling);
        let owner = lock(&self.owner).take();
        drop((state, owner));
    }
}
