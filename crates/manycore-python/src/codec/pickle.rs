//! Messages that are a pickle, and the pickles of classes and functions inside of others.
//!
//! Protocol 5, with large buffers left where they are. The pickler is the
//! interpreter's own function, not a Python-level pickler object, unless extra
//! reducers are registered: an object for each message costs more than a
//! small message itself. What pickle refuses is written by value, see `by_value.rs`.

use std::sync::Mutex;

use crate::known::{Known, name};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{
    PyBytes, PyCFunction, PyDict, PyFunction, PyList, PyMemoryView, PyModule, PyType, PyWeakrefMethods,
    PyWeakrefReference,
};

use super::by_value;
use super::encode::Encoder;
use super::format::{self, PICKLED, PICKLED_APART};
use super::segment::Segment;
use crate::journey;

/// Reducers by type, as `ForkingPickler.register` collects them. A weak reference: a program's reducers refer to the
/// variables of their module, which would not be finalized at the interpreter's end.
static REDUCERS: Mutex<Option<Py<PyWeakrefReference>>> = Mutex::new(None);

/// Loads what every function needs on its way, before workers are forked: in the first
/// call, caller and workers would load it one after the other, 3 ms in all.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    py.import("_pickle").map(drop)
}

/// Names the dict of reducers. It stays the caller's: later entries count.
pub(crate) fn set_extra_reducers(reducers: &Bound<'_, PyDict>) -> PyResult<()> {
    let reducers = PyWeakrefReference::new(reducers.as_any())?.unbind();
    let old = REDUCERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).replace(reducers);
    // Only after the lock is free: dropping it may run anything.
    drop(old);
    Ok(())
}

/// Whether types are pickled otherwise than pickle itself would.
fn has_extra_reducers(py: Python<'_>) -> bool {
    extra_reducers(py).is_some()
}

/// Whether pickle writes `function` as a name that never changes.
pub(crate) fn is_lasting(function: &Bound<'_, PyAny>) -> bool {
    if has_extra_reducers(function.py()) {
        return false;
    }
    if function.is_exact_instance_of::<PyFunction>() {
        return true;
    }
    if function.is_exact_instance_of::<PyCFunction>() {
        let owner = function.getattr("__self__");
        return owner.is_ok_and(|owner| owner.is_none() || owner.is_instance_of::<PyModule>());
    }
    function.is_instance_of::<PyType>() && function.get_type().is(function.py().get_type::<PyType>())
}

pub(super) fn extra_reducers(py: Python<'_>) -> Option<Bound<'_, PyDict>> {
    let reducers = REDUCERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let reducers = reducers.as_ref()?.bind(py).upgrade_as::<PyDict>().ok()??;
    (!reducers.is_empty()).then_some(reducers)
}

/// The reducers a pickler is to use, if they are not just those of `copyreg`.
///
/// A merged copy, not a chain: the pickler asks it for every object of a class.
pub(crate) fn merged_reducers(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    static COPYREG: Known<Py<PyDict>> = Known::new();
    let Some(reducers) = extra_reducers(py) else { return Ok(None) };
    let table = COPYREG.import(py, "copyreg", "dispatch_table")?.copy()?;
    table.update(reducers.as_mapping())?;
    Ok(Some(table))
}

/// Writes `value` into an empty encoder. The value's own code may run, and may
/// use other encoders.
pub(super) fn encode(encoder: &mut Encoder, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = value.py();
    let buffers = PyList::empty(py);
    let stream = journey::pickling(py, || match dump(value, &buffers) {
        Ok(stream) if !by_value::is_wanted(&stream)? => Ok(stream.cast_into::<PyBytes>()?),
        Err(error) if !by_value::may_help(py, &error) => Err(error),
        other => {
            encoder.by_value = true;
            buffers.call_method0(name!(py, "clear"))?;
            let callback = buffers.getattr(name!(py, "append"))?;
            by_value::dumps(value, 5, Some(&callback), merged_reducers(py)?, other.err(), encoder.what)
        }
    })?;
    let bytes = stream.as_bytes();
    let apart = bytes.len() >= format::APART;
    if apart {
        encoder.segments.push(Segment::of_bytes(&stream));
    }
    for buffer in &buffers {
        encoder.segments.push(Segment::of_buffer(&buffer)?);
    }
    encoder.head.push(if apart { PICKLED_APART } else { PICKLED });
    encoder.varint(encoder.segments.len());
    for index in 0..encoder.segments.len() {
        encoder.varint(encoder.segments[index].len);
    }
    if !apart {
        encoder.head.extend_from_slice(bytes);
    }
    Ok(())
}

pub(super) fn dump<'py>(value: &Bound<'py, PyAny>, buffers: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyAny>> {
    static DUMPS: Known<Py<PyAny>> = Known::new();
    static PICKLER: Known<Py<PyAny>> = Known::new();
    static BYTES_IO: Known<Py<PyAny>> = Known::new();

    let py = value.py();
    // The callback is the list's own `append`: it returns None, which means "out
    // of band". Keeping small buffers in band would take a callback of ours and
    // saves nothing: the receiver copies small segments out either way.
    let callback = buffers.getattr(name!(py, "append"))?;
    let named = PyDict::new(py);
    named.set_item(name!(py, "buffer_callback"), callback)?;
    let Some(table) = merged_reducers(py)? else {
        let dumps = DUMPS.import(py, "_pickle", "dumps")?;
        return dumps.call((value, 5), Some(&named));
    };
    let file = BYTES_IO.import(py, "io", "BytesIO")?.call0()?;
    let pickler = PICKLER.import(py, "_pickle", "Pickler")?.call((&file, 5), Some(&named))?;
    pickler.setattr(name!(py, "dispatch_table"), table)?;
    pickler.call_method1(name!(py, "dump"), (value,))?;
    file.call_method0(name!(py, "getvalue"))
}

/// A pickle of this size or more is read where it lies.
const IN_PLACE: usize = 16 * 1024;

/// The object in a pickle of `len` bytes at `data`.
///
/// # Safety
///
/// The bytes can be read until this returns. Another process may write to them:
/// the unpickler checks what it reads against the length, and whoever can write
/// a pickle can run code here anyway.
#[allow(unsafe_code)]
pub(super) unsafe fn load<'py>(
    py: Python<'py>,
    data: *mut u8,
    len: usize,
    buffers: Option<Bound<'py, PyList>>,
) -> PyResult<Bound<'py, PyAny>> {
    static LOADS: Known<Py<PyAny>> = Known::new();

    let loads = LOADS.import(py, "_pickle", "loads")?;
    // SAFETY: the caller's promise. The view lives as long as this call: the
    // unpickler lets go of it before it returns and shows it to nobody.
    let stream = unsafe {
        let size = len as ffi::Py_ssize_t;
        let object = if len < IN_PLACE {
            ffi::PyBytes_FromStringAndSize(data.cast(), size)
        } else {
            ffi::PyMemoryView_FromMemory(data.cast(), size, ffi::PyBUF_READ)
        };
        Bound::from_owned_ptr_or_err(py, object)?
    };
    debug_assert!(len < IN_PLACE || stream.is_instance_of::<PyMemoryView>());
    match buffers {
        None => loads.call1((stream,)),
        Some(buffers) => {
            let named = PyDict::new(py);
            named.set_item(name!(py, "buffers"), buffers)?;
            loads.call((stream,), Some(&named))
        }
    }
}
