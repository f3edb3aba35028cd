//! What pickle cannot send by name, or what its receiver would not find by name.
//!
//! Pickle goes first, always: what it can send costs what it has always cost. `manycore._by_value`
//! is asked for what pickle refuses, and, in a program whose main module other processes cannot
//! import, for whatever names that module.

use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyWeakrefMethods, PyWeakrefReference};

use crate::journey;
use crate::known::{Known, name};

/// Whether Python has found that other processes do not have the whole main module.
static HIDDEN: AtomicBool = AtomicBool::new(false);

/// From now on what names the main module goes by value where its receiver has it not.
#[pyfunction]
pub(crate) fn set_main_hidden(hidden: bool) {
    HIDDEN.store(hidden, Ordering::Relaxed);
}

/// The main module, and whether it was one that others cannot import when this was first asked. Nothing here refers to
/// it or its names strongly: what they stand for would not be finalized at the interpreter's end.
static MAIN: Known<(Py<PyWeakrefReference>, bool)> = Known::new();

/// Whether `is_main_hidden` runs no code any more.
#[cfg(not(Py_LIMITED_API))]
pub(super) fn is_settled(py: Python<'_>) -> bool {
    MAIN.get(py).is_some()
}

/// Whether there may be things in the main module that other processes do not find by name.
pub(super) fn is_main_hidden(py: Python<'_>) -> PyResult<bool> {
    if HIDDEN.load(Ordering::Relaxed) {
        return Ok(true);
    }
    let (main, was_hidden) = MAIN.get_or_try_init(py, || {
        let was_hidden = py.import("manycore._main_module")?.call_method0("is_hidden")?.is_truthy()?;
        let main = PyWeakrefReference::new(py.import("__main__")?.as_any())?;
        Ok::<_, PyErr>((main.unbind(), was_hidden))
    })?;
    if *was_hidden {
        return Ok(true);
    }
    // The interpreter forgets the file when the program is over and its prompt follows (`-i`).
    match main.bind(py).upgrade_as::<PyModule>()? {
        Some(main) => Ok(!main.dict().contains(name!(py, "__file__"))?),
        None => Ok(false),
    }
}

/// To be called with a function that is about to be sent: it may show that other processes have less of the main module
/// than was known.
pub(crate) fn settle(function: &Bound<'_, PyAny>) -> PyResult<()> {
    static SETTLE: Known<Py<PyAny>> = Known::new();

    let py = function.py();
    let of_main = |name: Bound<'_, PyAny>| name.cast::<PyString>().is_ok_and(|name| name == "__main__");
    if function.getattr(name!(py, "__module__")).is_ok_and(of_main) && !HIDDEN.load(Ordering::Relaxed) {
        SETTLE.import(py, "manycore._main_module", "settle")?.call1((function,))?;
    }
    Ok(())
}

/// Whether what pickle has written, one of several chunks, has to be written by value instead.
pub(crate) fn is_wanted(chunk: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = chunk.py();
    // Both names of a main module end so. Where that is only the text of something, writing by value does no harm.
    if !is_main_hidden(py)? {
        return Ok(false);
    }
    match chunk.cast::<PyBytes>() {
        Ok(bytes) => bytes.contains(PyBytes::new(py, b"_main__")),
        Err(_) => Ok(false),
    }
}

/// Whether `error` is what pickle raises for what it cannot write.
pub(crate) fn may_help(py: Python<'_>, error: &PyErr) -> bool {
    static REFUSAL: Known<Py<PyAny>> = Known::new();

    error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyAttributeError>(py)
        || REFUSAL.import(py, "_pickle", "PicklingError").is_ok_and(|kind| error.is_instance(py, kind))
}

/// What a message is, for the words that say which part of it cannot be sent.
#[derive(Clone, Copy)]
pub(crate) enum What {
    Value,
    /// Positional and named arguments.
    Call,
    /// Items of a list, the first of which has this number.
    Items(usize),
}

/// Pickles `value`, by value what cannot go by name, with `reducers` as `merged_reducers` gives them. `refused` is why pickle did not.
pub(crate) fn dumps<'py>(
    value: &Bound<'py, PyAny>,
    protocol: u8,
    callback: Option<&Bound<'py, PyAny>>,
    reducers: Option<Bound<'py, PyDict>>,
    refused: Option<PyErr>,
    what: What,
) -> PyResult<Bound<'py, PyBytes>> {
    static DUMPS: Known<Py<PyAny>> = Known::new();

    let py = value.py();
    // What pickle has done already is undone.
    journey::lost(py);
    let dumps = DUMPS.import(py, "manycore._by_value", "dumps_instead")?;
    let what = match what {
        What::Value => "value".to_owned(),
        What::Call => "call".to_owned(),
        What::Items(first) => first.to_string(),
    };
    let pickled = dumps.call1((value, protocol, callback, reducers, refused, what))?;
    pickled.cast_into::<PyBytes>().map_err(|error| PyErr::from_value(error.into_inner()))
}
