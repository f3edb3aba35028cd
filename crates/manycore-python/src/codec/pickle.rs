//! Whatever is not plain data goes by pickle, whole.
//!
//! Protocol 5, with large buffers left where they are. The pickler is the
//! interpreter's own function, not a Python-level pickler object, unless extra
//! reducers are registered: an object for each message costs more than a
//! small message itself.

use std::sync::Mutex;

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyMemoryView};
use pyo3::{ffi, intern};

use super::encode::Encoder;
use super::format::{self, PICKLED, PICKLED_APART};
use super::segment::Segment;

/// Reducers by type, as `ForkingPickler.register` collects them.
static REDUCERS: Mutex<Option<Py<PyDict>>> = Mutex::new(None);

/// Loads what every function needs on its way, before workers are forked: in the first
/// call, caller and workers would load it one after the other, 3 ms in all.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    py.import("_pickle").map(drop)
}

/// Names the dict of reducers. It stays the caller's: later entries count.
pub(crate) fn set_extra_reducers(reducers: &Bound<'_, PyDict>) {
    let old = REDUCERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).replace(reducers.clone().unbind());
    // Only after the lock is free: dropping it may run anything.
    drop(old);
}

/// Whether types are pickled otherwise than pickle itself would.
pub(crate) fn has_extra_reducers(py: Python<'_>) -> bool {
    extra_reducers(py).is_some()
}

fn extra_reducers(py: Python<'_>) -> Option<Bound<'_, PyDict>> {
    let reducers = REDUCERS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let reducers = reducers.as_ref()?.bind(py);
    (!reducers.is_empty()).then(|| reducers.clone())
}

/// The reducers a pickler is to use, if they are not just those of `copyreg`.
///
/// A merged copy, not a chain: the pickler asks it for every object of a class.
pub(crate) fn merged_reducers(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    static COPYREG: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
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
    let stream = dump(value, &buffers)?;
    let stream = stream.cast::<PyBytes>()?;
    let bytes = stream.as_bytes();
    let apart = bytes.len() >= format::APART;
    if apart {
        encoder.segments.push(Segment::of_bytes(stream));
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

fn dump<'py>(value: &Bound<'py, PyAny>, buffers: &Bound<'py, PyList>) -> PyResult<Bound<'py, PyAny>> {
    static DUMPS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static PICKLER: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    static BYTES_IO: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

    let py = value.py();
    // The callback is the list's own `append`: it returns None, which means "out
    // of band". Keeping small buffers in band would take a callback of ours and
    // saves nothing: the receiver copies small segments out either way.
    let callback = buffers.getattr(intern!(py, "append"))?;
    let named = PyDict::new(py);
    named.set_item(intern!(py, "buffer_callback"), callback)?;
    let Some(table) = merged_reducers(py)? else {
        let dumps = DUMPS.import(py, "_pickle", "dumps")?;
        return dumps.call((value, 5), Some(&named));
    };
    let file = BYTES_IO.import(py, "io", "BytesIO")?.call0()?;
    let pickler = PICKLER.import(py, "_pickle", "Pickler")?.call((&file, 5), Some(&named))?;
    pickler.setattr(intern!(py, "dispatch_table"), table)?;
    pickler.call_method1(intern!(py, "dump"), (value,))?;
    file.call_method0(intern!(py, "getvalue"))
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
    static LOADS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

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
            named.set_item(intern!(py, "buffers"), buffers)?;
            loads.call((stream,), Some(&named))
        }
    }
}
