//! What is being pickled to be sent, and through what it goes.
//!
//! An object that must know may ask while it is pickled: a manager's proxy lends a
//! reference to its message. It asks `carrier()`, and leaves with `if_lost` what is
//! to be called should the message not be sent after all.

use std::cell::RefCell;

use pyo3::prelude::*;

/// A message on its way out of this thread.
struct Journey {
    /// The memory file that the message will lie in; -1 if it goes another way.
    file: i32,
    /// Whether more than one process may unpickle it.
    many: bool,
    if_lost: Vec<Py<PyAny>>,
}

/// The carrier of a message that is in no memory file of ours.
pub(crate) const NO_FILE: i32 = -1;

thread_local! {
    static JOURNEY: RefCell<Option<Journey>> = const { RefCell::new(None) };
}

/// Puts the journey before it back, also if the work panics.
struct Restore(Option<Journey>);

impl Drop for Restore {
    fn drop(&mut self) {
        swap(self.0.take());
    }
}

fn swap(next: Option<Journey>) -> Option<Journey> {
    JOURNEY.try_with(|journey| journey.replace(next)).ok().flatten()
}

/// Runs `work`, which pickles a message and sends it through `file`. If it fails,
/// the message is lost.
pub(crate) fn sending<T>(py: Python<'_>, file: i32, work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    travelling(py, file, false, work)
}

/// As `sending`; `work` gives False when there was no room, and then the message is lost, too.
pub(crate) fn submitting(py: Python<'_>, file: i32, work: impl FnOnce() -> PyResult<bool>) -> PyResult<bool> {
    sending(py, file, || {
        let sent = work()?;
        if !sent {
            lost(py);
        }
        Ok(sent)
    })
}

/// As `sending`, for a message that many processes may receive.
pub(crate) fn placing<T>(py: Python<'_>, file: i32, work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    travelling(py, file, true, work)
}

fn travelling<T>(py: Python<'_>, file: i32, many: bool, work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    let before = Restore(swap(Some(Journey { file, many, if_lost: Vec::new() })));
    let outcome = work();
    let journey = swap(None);
    drop(before);
    if outcome.is_err() {
        call_all(py, journey);
    }
    outcome
}

/// The message that is being pickled will not be sent, though what pickles it does not fail.
pub(crate) fn lost(py: Python<'_>) {
    let carrier = carrier();
    let journey = swap(None);
    call_all(py, journey);
    swap(carrier.map(|(file, many)| Journey { file, many, if_lost: Vec::new() }));
}

fn call_all(py: Python<'_>, journey: Option<Journey>) {
    for callback in journey.into_iter().flat_map(|journey| journey.if_lost) {
        if let Err(error) = callback.call0(py) {
            error.write_unraisable(py, Some(callback.bind(py)));
        }
    }
}

/// Runs `work`, which pickles: for the message that is being sent, or for one that
/// is sent later in a way that is not known.
pub(crate) fn pickling<T>(py: Python<'_>, work: impl FnOnce() -> PyResult<T>) -> PyResult<T> {
    if carrier().is_some() { work() } else { sending(py, NO_FILE, work) }
}

/// The descriptor of the memory file that what is being pickled will lie in, -1 if it is sent another way, and whether
/// many processes may unpickle it; None if it is not known to be sent.
#[pyfunction]
pub(crate) fn carrier() -> Option<(i32, bool)> {
    JOURNEY.try_with(|journey| journey.borrow().as_ref().map(|journey| (journey.file, journey.many))).ok().flatten()
}

/// Have `callback()` called if what is being pickled is not sent.
#[pyfunction]
pub(crate) fn if_lost(callback: Py<PyAny>) {
    let _ = JOURNEY.try_with(|journey| {
        if let Some(journey) = journey.borrow_mut().as_mut() {
            journey.if_lost.push(callback);
        }
    });
}

/// Call `work(*args)`, which pickles something that is to be sent.
#[pyfunction]
#[pyo3(signature = (work, *args))]
pub(crate) fn for_sending<'py>(
    py: Python<'py>,
    work: &Bound<'py, PyAny>,
    args: &Bound<'py, pyo3::types::PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    pickling(py, || work.call1(args))
}
