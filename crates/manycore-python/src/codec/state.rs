//! What pickle does with an object that was made: items, pairs and a state are put into it.
//!
//! # Why this file is unsafe
//!
//! As `decode.rs`; every object here is held by whoever calls.
#![allow(unsafe_code)]

use pyo3::exceptions::PyAttributeError;
use pyo3::ffi::{self, Py_ssize_t, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::access::{self, Owned};
use super::decode::{Fault, new};
use super::types::{finds_as_object, is_uuid, lookup, sets_as_object};
use crate::known::{Known, name};

/// Whether setting a class's attributes one by one is the same as what `set` would do with their state.
pub(super) fn is_direct(py: Python<'_>, class: &Owned, names: &[Owned], in_dict: usize) -> bool {
    let class = class.as_ptr().cast::<PyTypeObject>();
    // SAFETY: attached; a live class and live names.
    unsafe {
        if in_dict == 0 && is_uuid(py, class) {
            return true;
        }
        let plain = finds_as_object(class) && lookup(class, name!(py, "__setstate__")).is_null();
        if !plain {
            return false;
        }
        let of_type = |object: *mut PyObject, kind| !object.is_null() && ffi::Py_TYPE(object) == kind;
        if in_dict > 0 && !of_type(lookup(class, name!(py, "__dict__")), &raw mut ffi::PyGetSetDescr_Type) {
            return false;
        }
        // A property would be called, where pickle writes to the dict beside it.
        let sets_nothing = |name: &Owned| {
            let found = lookup(class, &Bound::from_borrowed_ptr(py, name.as_ptr()));
            found.is_null() || (*ffi::Py_TYPE(found)).tp_descr_set.is_none()
        };
        names[..in_dict].iter().all(sets_nothing) && (in_dict == names.len() || sets_as_object(class))
    }
}

/// The state that `object.__getstate__` would have given for attributes in a dict and in slots.
pub(super) fn of(names: &[Owned], in_dict: usize, values: &[Owned]) -> Result<Owned, Fault> {
    let dict = |range: std::ops::Range<usize>| -> Result<Owned, Fault> {
        // SAFETY: attached; live objects into a new dict.
        unsafe {
            let dict = new(ffi::PyDict_New())?;
            for index in range {
                if ffi::PyDict_SetItem(dict.as_ptr(), names[index].as_ptr(), values[index].as_ptr()) != 0 {
                    return Err(Fault::Raised);
                }
            }
            Ok(dict)
        }
    };
    if in_dict == names.len() {
        return dict(0..in_dict);
    }
    // SAFETY: attached; a new tuple of two places.
    unsafe {
        let first = if in_dict == 0 { Owned::borrow(ffi::Py_None()) } else { dict(0..in_dict)? };
        let second = dict(in_dict..names.len())?;
        let both = new(ffi::PyTuple_New(2))?;
        access::tuple_fill(both.as_ptr(), 0, first);
        access::tuple_fill(both.as_ptr(), 1, second);
        Ok(both)
    }
}

/// Gives an object its state, as the unpickler does.
pub(super) fn set(py: Python<'_>, object: *mut PyObject, state: &Owned) -> Result<(), Fault> {
    // SAFETY: attached; live objects.
    let (object, state): (Bound<'_, PyAny>, Bound<'_, PyAny>) =
        unsafe { (Bound::from_borrowed_ptr(py, object), Bound::from_borrowed_ptr(py, state.as_ptr())) };
    set_safely(&object, state).map_err(|error| Fault::raise(py, error))
}

fn set_safely(object: &Bound<'_, PyAny>, state: Bound<'_, PyAny>) -> PyResult<()> {
    let py = object.py();
    match object.getattr(name!(py, "__setstate__")) {
        Ok(set) => return set.call1((state,)).map(drop),
        Err(error) if error.is_instance_of::<PyAttributeError>(py) => {}
        Err(error) => return Err(error),
    }
    let mut parts = (state, None);
    if let Ok(both) = parts.0.cast::<PyTuple>()
        && both.len() == 2
    {
        parts = (both.get_item(0)?, Some(both.get_item(1)?));
    }
    let (state, slots) = parts;
    if !state.is_none() {
        let Ok(state) = state.cast::<PyDict>() else { return Err(unpickling(py, "state is not a dictionary")) };
        let dict = object.getattr(name!(py, "__dict__"))?;
        each_pair(state, |name, value| dict.set_item(interned(name), value))?;
    }
    if let Some(slots) = slots.filter(|slots| !slots.is_none()) {
        let Ok(slots) = slots.cast::<PyDict>() else {
            return Err(unpickling(py, "slot state is not a dictionary"));
        };
        each_pair(slots, |name, value| {
            // SAFETY: attached; live objects.
            let status = unsafe { ffi::PyObject_SetAttr(object.as_ptr(), name.as_ptr(), value.as_ptr()) };
            if status == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
        })?;
    }
    Ok(())
}

/// Calls `put` with every key and value of a dict, though it may change meanwhile.
fn each_pair<'py>(
    dict: &Bound<'py, PyDict>,
    mut put: impl FnMut(Bound<'py, PyAny>, Bound<'py, PyAny>) -> PyResult<()>,
) -> PyResult<()> {
    let py = dict.py();
    let (mut position, mut key, mut value) = (0, std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: attached; a live dict, in which a position that it no longer has ends the walk. What it gives is
    // counted at once.
    while unsafe { ffi::PyDict_Next(dict.as_ptr(), &raw mut position, &raw mut key, &raw mut value) } != 0 {
        // SAFETY: as above.
        let (key, value) = unsafe { (Bound::from_borrowed_ptr(py, key), Bound::from_borrowed_ptr(py, value)) };
        put(key, value)?;
    }
    Ok(())
}

/// A name as the interpreter keeps names of attributes.
fn interned(name: Bound<'_, PyAny>) -> Bound<'_, PyAny> {
    let py = name.py();
    // SAFETY: attached; an exact string, of which we hold a reference and get one back.
    unsafe {
        if ffi::Py_TYPE(name.as_ptr()) != &raw mut ffi::PyUnicode_Type {
            return name;
        }
        let mut name = name.into_ptr();
        ffi::PyUnicode_InternInPlace(&raw mut name);
        Bound::from_owned_ptr(py, name)
    }
}

fn unpickling(py: Python<'_>, what: &'static str) -> PyErr {
    static ERROR: Known<Py<PyAny>> = Known::new();
    let error = ERROR.import(py, "_pickle", "UnpicklingError").and_then(|class| class.call1((what,)));
    error.map_or_else(|error| error, PyErr::from_value)
}

/// Gives an object its state by a function that came with it.
pub(super) fn set_by(setter: &Owned, object: *mut PyObject, state: &Owned) -> Result<(), Fault> {
    let mut args = [object, state.as_ptr()];
    // SAFETY: attached; live objects.
    unsafe {
        let done = ffi::PyObject_Vectorcall(setter.as_ptr(), args.as_mut_ptr(), 2, std::ptr::null_mut());
        new(done).map(drop)
    }
}

/// Appends items to an object, as the unpickler does.
pub(super) fn extend(py: Python<'_>, object: *mut PyObject, items: &[Owned]) -> Result<(), Fault> {
    // SAFETY: attached; live objects. The list is new, and as long as there are items.
    unsafe {
        if ffi::Py_TYPE(object) == &raw mut ffi::PyList_Type {
            for item in items {
                if ffi::PyList_Append(object, item.as_ptr()) != 0 {
                    return Err(Fault::Raised);
                }
            }
            return Ok(());
        }
        let object: Bound<'_, PyAny> = Bound::from_borrowed_ptr(py, object);
        let raise = |error: PyErr| Fault::raise(py, error);
        match object.getattr(name!(py, "extend")) {
            Ok(extend) => {
                let list = new(ffi::PyList_New(items.len() as Py_ssize_t))?;
                for (index, item) in items.iter().enumerate() {
                    access::list_fill(list.as_ptr(), index, Owned::borrow(item.as_ptr()));
                }
                extend.call1((list.into_bound(py),)).map(drop).map_err(raise)
            }
            Err(error) if error.is_instance_of::<PyAttributeError>(py) => {
                let append = object.getattr(name!(py, "append")).map_err(raise)?;
                for item in items {
                    let item: Bound<'_, PyAny> = Bound::from_borrowed_ptr(py, item.as_ptr());
                    append.call1((item,)).map_err(raise)?;
                }
                Ok(())
            }
            Err(error) => Err(raise(error)),
        }
    }
}

/// Sets keys, each followed by its value.
pub(super) fn update(object: *mut PyObject, pairs: &[Owned]) -> Result<(), Fault> {
    for pair in pairs.chunks_exact(2) {
        // SAFETY: attached; live objects.
        let status = unsafe {
            if ffi::Py_TYPE(object) == &raw mut ffi::PyDict_Type {
                ffi::PyDict_SetItem(object, pair[0].as_ptr(), pair[1].as_ptr())
            } else {
                ffi::PyObject_SetItem(object, pair[0].as_ptr(), pair[1].as_ptr())
            }
        };
        if status != 0 {
            return Err(Fault::Raised);
        }
    }
    Ok(())
}
