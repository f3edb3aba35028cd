//! From an object to a message.
//!
//! What is pickled is what `ForkingPickler` would write. Large byte strings and
//! arrays are not copied into the pickle: the pickler hands them to its file as
//! they are, and they go from where they lie.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::known::{Known, name};
use manycore_engine::connection::{Piece, Short};
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

use super::{ConnectionEnd, scalar};
use crate::codec::{Exported, by_value, merged_reducers};
use crate::journey;

/// What pickles for connections, and what it was when the package was loaded.
struct Pickling {
    /// The names of `manycore.connection`, whose `_ForkingPickler` a program may replace.
    module: Py<PyDict>,
    class: Py<PyAny>,
    /// `pickle`'s own functions.
    plain_dumps: Py<PyAny>,
    plain_loads: Py<PyAny>,
    register_late: Py<PyAny>,
    protocol: u8,
}

impl Pickling {
    fn get(py: Python<'_>) -> PyResult<&Pickling> {
        static PICKLING: Known<Pickling> = Known::new();
        PICKLING.get_or_try_init(py, || {
            let module = py.import("manycore.connection")?;
            let reduction = py.import("manycore.reduction")?;
            let pickle = py.import("_pickle")?;
            let class = reduction.getattr("_OwnPickler")?;
            let default = pickle.getattr("dumps")?.call1((py.None(),))?;
            let protocol = default.cast::<PyBytes>()?.as_bytes().get(1).copied().unwrap_or(0);
            Ok(Pickling {
                class: class.unbind(),
                module: module.dict().unbind(),
                plain_dumps: pickle.getattr("dumps")?.unbind(),
                plain_loads: pickle.getattr("loads")?.unbind(),
                register_late: reduction.getattr("register_late")?.unbind(),
                protocol,
            })
        })
    }

    /// The pickler class to use, if it is not ours as we made it.
    fn replaced<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let class = self.module.bind(py).get_item(name!(py, "_ForkingPickler"))?;
        let class = class.ok_or_else(|| PyAttributeError::new_err("manycore.connection._ForkingPickler"))?;
        let same = class.is(&self.class) && !PATCHED.load(Ordering::Relaxed);
        Ok((!same).then_some(class))
    }
}

/// Whether a program has given `ForkingPickler` other methods.
static PATCHED: AtomicBool = AtomicBool::new(false);

/// `ForkingPickler` has other methods than it was made with: from now on they are asked for each message.
#[pyfunction]
pub(crate) fn pickler_patched() {
    PATCHED.store(true, Ordering::Relaxed);
}

/// `value` as a queue is to send it: pickled, if a program has a pickler of its own.
pub(crate) fn for_queue<'py>(value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static FOR_QUEUE: Known<Py<PyAny>> = Known::new();
    if !PATCHED.load(Ordering::Relaxed) {
        return Ok(value.clone());
    }
    FOR_QUEUE.import(value.py(), "manycore.reduction", "_for_queue")?.call1((value,))
}

/// `value` that a queue has received, as its taker is to have it: unpickled by the program's own pickler, if it has one.
pub(crate) fn from_queue(value: Bound<'_, PyAny>) -> PyResult<Bound<'_, PyAny>> {
    static FROM_QUEUE: Known<Py<PyAny>> = Known::new();
    if !PATCHED.load(Ordering::Relaxed) {
        return Ok(value);
    }
    FROM_QUEUE.import(value.py(), "manycore.reduction", "_from_queue")?.call1((value,))
}

/// Unpickles `message`, a bytes object; its byte strings that were received apart are `buffers`.
pub(super) fn loads<'py>(
    py: Python<'py>,
    message: &Bound<'py, PyAny>,
    buffers: Option<Bound<'py, PyList>>,
) -> PyResult<Bound<'py, PyAny>> {
    let loads = Pickling::get(py)?.plain_loads.bind(py);
    let Some(buffers) = buffers else { return loads.call1((message,)) };
    let named = PyDict::new(py);
    named.set_item(name!(py, "buffers"), buffers)?;
    loads.call((message,), Some(&named))
}

/// What unpickles for connections, if a program has replaced it.
pub(super) fn replaced_loads(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let class = Pickling::get(py)?.replaced(py)?;
    class.map(|class| class.getattr(name!(py, "loads"))).transpose()
}

/// Sends `value` as one message. Pickling may run code that closes the connection, so what it is sent through is
/// asked for afterwards.
pub(super) fn send(py: Python<'_>, end: &ConnectionEnd, value: &Bound<'_, PyAny>) -> PyResult<()> {
    journey::sending(py, journey::NO_FILE, || send_pickled(py, end, value))
}

fn send_pickled(py: Python<'_>, end: &ConnectionEnd, value: &Bound<'_, PyAny>) -> PyResult<()> {
    let pickling = Pickling::get(py)?;
    if let Some(class) = pickling.replaced(py)? {
        let message = class.call_method1(name!(py, "dumps"), (value,))?;
        return end.send_piece(py, end.to_write()?, Exported::bytes_of(&message)?.piece());
    }
    // The other end of a pipe understands what we understand; a client may be any version of Python.
    let fd = end.to_write()?;
    let protocol = if end.link.is_near(fd) { 5 } else { pickling.protocol };
    let mut short = Short::new();
    if protocol >= 4 && scalar::encode(value, protocol, &mut short) {
        return end.send_short(py, fd, short);
    }
    let mut budget = Budget { objects: 64, bytes: 32 << 10 };
    if budget.covers(value) {
        let message = pickling.plain_dumps.bind(py).call1((value, protocol))?;
        return end.send_slice(py, fd, message.cast::<PyBytes>()?.as_bytes());
    }
    let chunks = pickle(py, pickling, value, protocol)?;
    let exported = chunks.iter().map(|chunk| Exported::memory_of(chunk.bind(py))).collect::<PyResult<Vec<_>>>()?;
    let pieces: Vec<Piece<'_>> = exported.iter().map(Exported::piece).collect();
    end.send_pieces(py, end.to_write()?, &pieces)
}

fn pickle(py: Python<'_>, pickling: &Pickling, value: &Bound<'_, PyAny>, protocol: u8) -> PyResult<Vec<Py<PyAny>>> {
    static PICKLER: Known<Py<PyAny>> = Known::new();
    pickling.register_late.bind(py).call0()?;
    let sink = Bound::new(py, Sink::default())?;
    let pickler = PICKLER.import(py, "_pickle", "Pickler")?.call1((&sink, protocol))?;
    if let Some(table) = merged_reducers(py)? {
        pickler.setattr(name!(py, "dispatch_table"), table)?;
    }
    let outcome = pickler.call_method1(name!(py, "dump"), (value,));
    let chunks = std::mem::take(&mut *sink.get().lock());
    let refused = match outcome {
        Ok(_) => {
            let mut named = false;
            for chunk in &chunks {
                named = named || by_value::is_wanted(chunk.bind(py))?;
            }
            if !named {
                return Ok(chunks);
            }
            None
        }
        Err(error) if by_value::may_help(py, &error) => Some(error),
        Err(error) => return Err(error),
    };
    Ok(vec![
        by_value::dumps(value, protocol, None, merged_reducers(py)?, refused, by_value::What::Value)?
            .into_any()
            .unbind(),
    ])
}

/// The file a pickler writes to: a list of what it wrote, not copied.
#[pyclass(frozen, module = "manycore._engine")]
#[derive(Default)]
pub(crate) struct Sink(Mutex<Vec<Py<PyAny>>>);

impl Sink {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Py<PyAny>>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[pymethods]
impl Sink {
    fn write(&self, chunk: Py<PyAny>) {
        self.lock().push(chunk);
    }
}

/// How much a value may hold to be looked through for what only a pickler of ours knows how to send.
struct Budget {
    objects: usize,
    bytes: usize,
}

impl Budget {
    /// Whether `value` is made of a few built-in objects and nothing else, so that any pickler does the same with it.
    fn covers(&mut self, value: &Bound<'_, PyAny>) -> bool {
        let Some(objects) = self.objects.checked_sub(1) else { return false };
        self.objects = objects;
        if value.is_none() || value.is_exact_instance_of::<PyInt>() || value.is_exact_instance_of::<PyFloat>() {
            return true;
        }
        if let Ok(text) = value.cast_exact::<PyString>() {
            return self.spend(text.len().unwrap_or(usize::MAX));
        }
        if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            return self.spend(bytes.as_bytes().len());
        }
        if let Ok(bytes) = value.cast_exact::<PyByteArray>() {
            return self.spend(bytes.len());
        }
        if let Ok(tuple) = value.cast_exact::<PyTuple>() {
            return tuple.iter_borrowed().all(|item| self.covers(&item));
        }
        if let Ok(list) = value.cast_exact::<PyList>() {
            return list.len() <= self.objects && list.iter().all(|item| self.covers(&item));
        }
        if let Ok(dict) = value.cast_exact::<PyDict>() {
            return dict.len() <= self.objects
                && dict.iter().all(|(key, item)| self.covers(&key) && self.covers(&item));
        }
        value.is_exact_instance_of::<pyo3::types::PyBool>()
    }

    fn spend(&mut self, bytes: usize) -> bool {
        let left = self.bytes.checked_sub(bytes);
        self.bytes = left.unwrap_or(0);
        left.is_some()
    }
}
