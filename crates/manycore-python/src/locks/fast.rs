//! The short way into a lock that is free.
//!
//! An uncontended acquire is a dozen nanoseconds; what PyO3 does around a method (count
//! attachments, catch panics, parse arguments) is as many. And CPython calls a method
//! by its shortest way only if it was defined for exactly the object's type. So each
//! public class gets methods of its own, which do the likely case and leave all others to
//! those of [`SemLock`].
//!
//! Measured on CPython 3.11, nanoseconds for acquire + release and for `with`: by
//! inheritance 46 and 78, with these methods 26 and 56, the standard package 41 and 140.
//!
//! # Why this file is unsafe
//!
//! Such methods are C functions: they get addresses from the interpreter, and what they
//! return has its count of references.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::iter;
use std::mem::ManuallyDrop;
use std::ptr;

use crate::known::Known;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::SemLock;

/// The methods of [`SemLock`], in the order of [`NAMES`].
static GENERAL: Known<[Py<PyAny>; 4]> = Known::new();
const NAMES: [(&str, &CStr); 4] =
    [("acquire", c"acquire"), ("release", c"release"), ("__enter__", c"__enter__"), ("__exit__", c"__exit__")];

/// Gives `class`, made of `SemLock`, methods of its own.
#[pyfunction]
pub(crate) fn install_fast_methods(class: &Bound<'_, PyType>) -> PyResult<()> {
    let py = class.py();
    let base = py.get_type::<SemLock>();
    if !class.is_subclass(&base)? || class.is(&base) {
        return Err(PyTypeError::new_err("only a class made of SemLock can have its methods"));
    }
    GENERAL.get_or_try_init(py, || {
        let mut found = NAMES.iter().map(|(name, _)| base.getattr(name).map(Bound::unbind));
        let mut next = || found.next().unwrap_or_else(|| Err(crate::hooks::bug("four names are four methods")));
        Ok::<_, PyErr>([next()?, next()?, next()?, next()?])
    })?;
    let methods = [
        (ffi::PyMethodDefPointer { PyCFunctionFastWithKeywords: acquire }, ffi::METH_FASTCALL | ffi::METH_KEYWORDS),
        (ffi::PyMethodDefPointer { PyCFunction: release }, ffi::METH_NOARGS),
        (ffi::PyMethodDefPointer { PyCFunction: enter }, ffi::METH_NOARGS),
        (ffi::PyMethodDefPointer { PyCFunctionFast: exit }, ffi::METH_FASTCALL),
    ];
    for (index, (method, flags)) in methods.into_iter().enumerate() {
        let (name, c_name) = NAMES[index];
        // The signature in the first line is what `inspect` reads.
        let text = [
            c"acquire($self, /, block=True, timeout=None)\n--\n\nAcquire the lock: see the class.",
            c"release($self, /)\n--\n\nRelease the lock: see the class.",
            c"__enter__($self, /)\n--\n\n",
            c"__exit__($self, /, *args)\n--\n\n",
        ][index];
        // The descriptor refers to the definition as long as it lives, and a class
        // lives as long as the interpreter.
        let definition = Box::leak(Box::new(ffi::PyMethodDef {
            ml_name: c_name.as_ptr(),
            ml_meth: method,
            ml_flags: flags,
            ml_doc: text.as_ptr(),
        }));
        // SAFETY: a type, and a definition that is never freed; the result is a new
        // reference or null with an exception set.
        let descriptor =
            unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), definition))? };
        class.setattr(name, descriptor)?;
    }
    Ok(())
}

/// Runs `call` on the lock that `slf` is.
///
/// # Safety
/// `slf` is a borrowed reference to an object of a class that [`install_fast_methods`]
/// was called for, and the interpreter is attached. (The descriptor checks the type.)
#[inline(always)]
unsafe fn on(slf: *mut ffi::PyObject, call: impl FnOnce(&SemLock) -> bool) -> bool {
    // SAFETY: the caller's promise. The reference is not given up at the end, since it
    // was only borrowed.
    let lock = unsafe { ManuallyDrop::new(Bound::from_owned_ptr(Python::assume_attached(), slf)) };
    // SAFETY: the caller's promise: of this class, or made of it.
    call(unsafe { lock.cast_unchecked::<SemLock>() }.get())
}

#[inline(always)]
fn new_true() -> *mut ffi::PyObject {
    // SAFETY: a constant of the interpreter, to which this makes a new reference.
    unsafe { ffi::Py_NewRef(ffi::Py_True()) }
}

#[inline(always)]
fn new_none() -> *mut ffi::PyObject {
    // SAFETY: as above.
    unsafe { ffi::Py_NewRef(ffi::Py_None()) }
}

/// Calls method `index` of [`SemLock`] with `slf` and the arguments as they came.
///
/// # Safety
/// As [`on`]; `args` are `count` borrowed references, and as many as `names` has names.
#[cold]
unsafe fn general(
    index: usize,
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the caller's promise.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the caller's promise: a borrowed reference each.
    let borrowed = |object: *mut ffi::PyObject| unsafe { Bound::from_borrowed_ptr(py, object) };
    // SAFETY: the caller's promise: so many references stand there.
    let argument = |place: usize| borrowed(unsafe { *args.add(place) });
    let call = || {
        let positional = iter::once(borrowed(slf)).chain((0..count as usize).map(argument));
        let positional = PyTuple::new(py, positional.collect::<Vec<_>>())?;
        let mut named = None;
        if !names.is_null() {
            let given = named.insert(PyDict::new(py));
            for (place, name) in borrowed(names).cast::<PyTuple>()?.iter().enumerate() {
                given.set_item(name, argument(count as usize + place))?;
            }
        }
        let methods = GENERAL.get(py).ok_or_else(|| crate::hooks::bug("a method before its class"))?;
        methods[index].bind(py).call(positional, named.as_ref())
    };
    match call() {
        Ok(value) => value.into_ptr(),
        Err(error) => {
            error.restore(py);
            ptr::null_mut()
        }
    }
}

// SAFETY of the four: the interpreter calls them as their definitions say.

unsafe extern "C" fn acquire(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    if count == 0 && names.is_null() && unsafe { on(slf, SemLock::take_free) } {
        return new_true();
    }
    // SAFETY: as above.
    unsafe { general(0, slf, args, count, names) }
}

unsafe extern "C" fn release(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as above.
    if unsafe { on(slf, SemLock::give_free) } {
        return new_none();
    }
    // SAFETY: as above; no arguments.
    unsafe { general(1, slf, ptr::null(), 0, ptr::null_mut()) }
}

unsafe extern "C" fn enter(slf: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: as above.
    if unsafe { on(slf, SemLock::take_free) } {
        return new_true();
    }
    // SAFETY: as above; no arguments.
    unsafe { general(2, slf, ptr::null(), 0, ptr::null_mut()) }
}

unsafe extern "C" fn exit(
    slf: *mut ffi::PyObject,
    args: *mut *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
) -> *mut ffi::PyObject {
    // SAFETY: as above.
    if unsafe { on(slf, SemLock::give_free) } {
        return new_none();
    }
    // SAFETY: as above.
    unsafe { general(3, slf, args, count, ptr::null_mut()) }
}
