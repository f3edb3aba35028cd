//! What pickle cannot send by name, or what its receiver would not find by name.
//!
//! Pickle goes first, always: what it can send costs what it has always cost. `manycore._by_value`
//! is asked for what pickle refuses, and, in a program whose main module other processes cannot
//! import, for whatever names that module.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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

/// The functions and classes of the main module that were settled, by their addresses: weak references, which tell whether
/// an address is still theirs.
static SETTLED: Known<Py<PyDict>> = Known::new();

/// More than these are forgotten together: programs that make functions without end keep none of ours.
#[cfg(not(Py_LIMITED_API))]
const MOST: usize = 4096;

/// What the variables of the main module were when it was looked whether they are something late, and whether they are.
static LOOKED_AT: AtomicUsize = AtomicUsize::new(NEVER);
/// No variables give this.
const NEVER: usize = usize::MAX;
static LATE: AtomicBool = AtomicBool::new(false);

/// Processes are being started: whether they have what was settled is to be asked again.
#[pyfunction]
pub(crate) fn forget_settled(py: Python<'_>) {
    if let Some(settled) = SETTLED.get(py) {
        settled.bind(py).clear();
    }
    LOOKED_AT.store(NEVER, Ordering::Relaxed);
}

/// Whether there may be things in the main module that other processes do not find by name.
fn is_main_hidden(py: Python<'_>) -> PyResult<bool> {
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

/// What is to be done with a function or class that calls itself one of a main module.
#[cfg(not(Py_LIMITED_API))]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It can go by its name.
    Name,
    /// The same, and code may have run to find that out.
    NameAfterCode,
    Whole,
}

/// How a function or class that is found by its name in a main module is to go: this asks once for each of them.
#[cfg(not(Py_LIMITED_API))]
pub(super) fn way(object: &Bound<'_, PyAny>) -> PyResult<Way> {
    let py = object.py();
    // The first time, it imports a module.
    let was_asked = MAIN.get(py).is_some();
    if is_main_hidden(py)? {
        return Ok(Way::Whole);
    }
    let settled = SETTLED.get_or_init(py, || PyDict::new(py).unbind()).bind(py);
    let address = object.as_ptr().addr();
    if let Some(known) = settled.get_item(address)?
        && known.cast_into::<PyWeakrefReference>()?.upgrade().is_some_and(|known| known.is(object))
    {
        return Ok(if was_asked { Way::Name } else { Way::NameAfterCode });
    }
    let known = PyWeakrefReference::new(object)?;
    settle(object)?;
    if is_main_hidden(py)? {
        return Ok(Way::Whole);
    }
    if settled.len() >= MOST {
        settled.clear();
    }
    settled.set_item(address, known)?;
    Ok(Way::NameAfterCode)
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
    static SETTLE_LATE: Known<Py<PyAny>> = Known::new();

    let py = chunk.py();
    // Both names of a main module end so. Where that is only the text of something, writing by value does no harm.
    let names_main = match chunk.cast::<PyBytes>() {
        Ok(bytes) => bytes.contains(PyBytes::new(py, b"_main__"))?,
        Err(_) => false,
    };
    if !names_main || is_main_hidden(py)? {
        return Ok(names_main);
    }
    if !holds_late(py)? {
        return Ok(false);
    }
    SETTLE_LATE.import(py, "manycore._main_module", "settle_late")?.call0()?;
    Ok(true)
}

/// Whether the main module holds something that other processes may lack. Found out when one of its variables is another
/// one than before: to ask all of them for each pickle would cost more than the pickle.
fn holds_late(py: Python<'_>) -> PyResult<bool> {
    static HAS_LATE: Known<Py<PyAny>> = Known::new();

    let Some((main, _)) = MAIN.get(py) else { return Ok(false) };
    let Some(main) = main.bind(py).upgrade_as::<PyModule>()? else { return Ok(false) };
    let addresses =
        main.dict().iter().map(|(name, value)| name.as_ptr().addr() ^ value.as_ptr().addr().rotate_left(32));
    let names = addresses.fold(0usize, |sum, next| sum.rotate_left(7).wrapping_add(next)).min(NEVER - 1);
    if LOOKED_AT.load(Ordering::Relaxed) != names {
        let late = HAS_LATE.import(py, "manycore._main_module", "has_late")?.call0()?.is_truthy()?;
        LATE.store(late, Ordering::Relaxed);
        LOOKED_AT.store(names, Ordering::Relaxed);
    }
    Ok(LATE.load(Ordering::Relaxed))
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
    /// What a function has returned for several items.
    Results,
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
        What::Results => "results".to_owned(),
    };
    let pickled = dumps.call1((value, protocol, callback, reducers, refused, what))?;
    pickled.cast_into::<PyBytes>().map_err(|error| PyErr::from_value(error.into_inner()))
}
