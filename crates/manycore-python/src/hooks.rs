//! What the compiled half asks of the written half: exceptions, and how they travel.

use crate::known::Known;
use manycore_engine::pool::{Exit, Loss, Payload};
use pyo3::exceptions::{PyBaseException, PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use std::time::Duration;

use crate::codec::{self, Incoming};

/// The module `manycore._remote`, imported when first needed.
fn remote(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static REMOTE: Known<Py<PyModule>> = Known::new();
    Ok(REMOTE.get_or_try_init(py, || py.import("manycore._remote").map(Bound::unbind))?.bind(py))
}

/// The module `manycore._awaiting`, imported when first needed.
pub(crate) fn awaiting(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static AWAITING: Known<Py<PyModule>> = Known::new();
    Ok(AWAITING.get_or_try_init(py, || py.import("manycore._awaiting").map(Bound::unbind))?.bind(py))
}

/// An exception object as the error it is.
fn error(value: Bound<'_, PyAny>) -> PyErr {
    PyErr::from_value(value)
}

/// Runs `make`. If Ctrl-C interrupts it, runs it once more, and delivers the KeyboardInterrupt
/// afterwards. Otherwise the KeyboardInterrupt would be stored as the task's result, and raised
/// only when somebody asks for that result.
pub(crate) fn whole<T>(py: Python<'_>, mut make: impl FnMut() -> PyResult<T>) -> PyResult<T> {
    let is_interrupt =
        |made: &PyResult<T>| matches!(made, Err(error) if error.is_instance_of::<PyKeyboardInterrupt>(py));
    let made = make();
    if !is_interrupt(&made) {
        return made;
    }
    let again = make();
    // An object that raises it by itself would do so for ever.
    if !is_interrupt(&again) {
        py.import("_thread")?.call_method0("interrupt_main")?;
    }
    again
}

/// The outcome of a call, if no signal's handler raises first: what Ctrl-C did to a worker
/// is no news to whom it has reached, too.
pub(crate) fn after_signals<T>(py: Python<'_>, outcome: PyResult<T>) -> PyResult<T> {
    if outcome.is_err() {
        py.check_signals()?;
    }
    outcome
}

/// `manycore.TimeoutError`.
pub(crate) fn timeout_error(message: String) -> PyErr {
    Python::attach(|py| match remote(py).and_then(|remote| remote.getattr("TimeoutError")?.call1((message,))) {
        Ok(value) => error(value),
        Err(failure) => failure,
    })
}

/// Whether `error` is what [`timeout_error`] makes.
pub(crate) fn is_timeout(py: Python<'_>, error: &PyErr) -> bool {
    remote(py)
        .and_then(|remote| remote.getattr("TimeoutError"))
        .is_ok_and(|class| error.value(py).is_instance(&class).unwrap_or(false))
}

/// `manycore.pool.MaybeEncodingError` for a `value` that `reason` kept from travelling.
pub(crate) fn encoding_error(py: Python<'_>, reason: &PyErr, value: &Bound<'_, PyAny>) -> PyErr {
    match remote(py).and_then(|remote| remote.getattr("encoding_error")?.call1((reason.value(py), value))) {
        Ok(value) => error(value),
        Err(failure) => failure,
    }
}

/// Sees to it that `original` is among the contexts of `raised`, which a callback raised that was told of it.
pub(crate) fn keep_in_context(py: Python<'_>, raised: &Py<PyBaseException>, original: &Py<PyBaseException>) {
    let kept = remote(py).and_then(|remote| remote.getattr("keep_in_context")?.call1((raised, original)));
    if let Err(error) = kept {
        // Only when the interpreter ends under the callback. The exception itself is not lost by that.
        error.write_unraisable(py, None);
    }
}

/// What a worker sends for an exception: plain data that always decodes.
pub(crate) fn describe<'py>(py: Python<'py>, exception: &PyErr) -> PyResult<Bound<'py, PyAny>> {
    let value = exception.value(py);
    if let Some(traceback) = exception.traceback(py) {
        // Before 3.12 an exception that is on its way keeps its traceback apart.
        value.setattr("__traceback__", traceback)?;
    }
    remote(py)?.getattr("describe")?.call1((value,))
}

/// The exception behind what [`describe`] made, as the caller sees it.
pub(crate) fn raised(py: Python<'_>, payload: &Payload) -> PyErr {
    match codec::decode(py, &Incoming::of(payload)) {
        Ok(parts) => rebuilt(py, &parts),
        Err(failure) => failure,
    }
}

/// As [`raised`], from what was decoded.
pub(crate) fn rebuilt(py: Python<'_>, parts: &Bound<'_, PyAny>) -> PyErr {
    match remote(py).and_then(|remote| remote.getattr("rebuild")?.call1((parts,))) {
        Ok(value) => error(value),
        Err(failure) => failure,
    }
}

/// The exception for a task that no worker will answer; `task` says which.
pub(crate) fn lost(py: Python<'_>, loss: &Loss, limit: Option<Duration>, task: impl FnOnce() -> String) -> PyErr {
    let made = match loss {
        Loss::Worker { pid, exit, words } => remote(py).and_then(|remote| {
            remote.getattr("worker_lost")?.call1((*pid, exit_code(*exit), task(), words.as_deref()))
        }),
        Loss::Expired { pid, words } => {
            let limit = limit.map(|limit| limit.as_secs_f64());
            remote(py).and_then(|remote| remote.getattr("task_timeout")?.call1((*pid, limit, task(), words.as_deref())))
        }
        Loss::Cancelled => return cancelled(py, task),
        Loss::Start { report: Some(report), .. } => return raised(py, report),
        Loss::Start { pid, exit, report: None } => {
            remote(py).and_then(|remote| remote.getattr("start_lost")?.call1((*pid, exit_code(*exit))))
        }
        Loss::Terminated => remote(py).and_then(|remote| remote.getattr("terminated")?.call1((task(),))),
    };
    match made {
        Ok(value) => error(value),
        Err(failure) => failure,
    }
}

/// `manycore.TaskCancelled` for `task`.
pub(crate) fn cancelled(py: Python<'_>, task: impl FnOnce() -> String) -> PyErr {
    match remote(py).and_then(|remote| remote.getattr("cancelled")?.call1((task(),))) {
        Ok(value) => error(value),
        Err(failure) => failure,
    }
}

/// Whether `error` is what [`cancelled`] makes.
pub(crate) fn is_cancelled(py: Python<'_>, error: &Bound<'_, PyAny>) -> bool {
    remote(py)
        .and_then(|remote| remote.getattr("TaskCancelled"))
        .is_ok_and(|class| error.is_instance(&class).unwrap_or(false))
}

/// An exit as Python counts: minus the signal's number, or None.
fn exit_code(exit: Exit) -> Option<i32> {
    match exit {
        Exit::Code(code) => Some(code),
        Exit::Signal(signal) => Some(-signal),
        Exit::Unknown => None,
    }
}

/// The other way round.
pub(crate) fn exit_of(code: Option<i32>) -> Exit {
    match code {
        None => Exit::Unknown,
        Some(code) if code < 0 => Exit::Signal(code.checked_neg().unwrap_or(0)),
        Some(code) => Exit::Code(code),
    }
}

/// An error for a state that only a bug can reach.
pub(crate) fn bug(what: &str) -> PyErr {
    PyRuntimeError::new_err(format!("this should never happen, please report it: {what}"))
}
