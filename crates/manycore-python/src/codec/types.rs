//! Types, looked at as the interpreter does it for itself: no code of anybody's runs for that, not even a metaclass's.
//!
//! # Why this file is unsafe
//!
//! Types are read where they lie.
#![allow(unsafe_code)]

use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;

use crate::known::name;

unsafe extern "C" {
    /// What the type's instances find under this name in the type and its bases. Borrowed; no exception is set.
    fn _PyType_Lookup(class: *mut PyTypeObject, name: *mut PyObject) -> *mut PyObject;
}

/// The number of the type's state; 0 if it has none at present.
#[inline]
pub(super) unsafe fn version(kind: *mut PyTypeObject) -> u32 {
    // SAFETY: a live type.
    unsafe {
        #[cfg(not(Py_3_12))]
        if (*kind).tp_flags & ffi::Py_TPFLAGS_VALID_VERSION_TAG == 0 {
            return 0;
        }
        (*kind).tp_version_tag
    }
}

/// What the type and its bases have under a name; null if nothing. No code runs.
#[inline]
pub(super) unsafe fn lookup(kind: *mut PyTypeObject, name: &Bound<'_, PyAny>) -> *mut PyObject {
    // SAFETY: attached; a live type and an interned name.
    unsafe { _PyType_Lookup(kind, name.as_ptr()) }
}

/// Whether a type's instances find attributes as `object` does.
pub(super) unsafe fn finds_as_object(kind: *mut PyTypeObject) -> bool {
    let generic: ffi::getattrofunc = ffi::PyObject_GenericGetAttr;
    // SAFETY: a live type.
    unsafe { (*kind).tp_getattro }.is_some_and(|find| std::ptr::fn_addr_eq(find, generic))
}

/// Whether a type's instances set attributes as `object` does.
pub(super) unsafe fn sets_as_object(kind: *mut PyTypeObject) -> bool {
    let generic: ffi::setattrofunc = ffi::PyObject_GenericSetAttr;
    // SAFETY: a live type.
    unsafe { (*kind).tp_setattro }.is_some_and(|set| std::ptr::fn_addr_eq(set, generic))
}

/// Whether this is the class of UUIDs, with the state that its module gives it: two slots, which its `__getstate__` and
/// `__setstate__` read and set. Those are functions in Python, and take several times as long as we do.
pub(super) fn is_uuid(py: Python<'_>, kind: *mut PyTypeObject) -> bool {
    // SAFETY: attached; a live type, whose name ends in a zero. What is found is borrowed, and looked at at once.
    unsafe {
        if std::ffi::CStr::from_ptr((*kind).tp_name).to_bytes() != b"UUID" {
            return false;
        }
        let module = ffi::PyDict_GetItemWithError(ffi::PyImport_GetModuleDict(), name!(py, "uuid").as_ptr());
        if module.is_null() || ffi::Py_TYPE(module) != &raw mut ffi::PyModule_Type {
            ffi::PyErr_Clear();
            return false;
        }
        let names = ffi::PyModule_GetDict(module);
        if ffi::PyDict_GetItemWithError(names, name!(py, "UUID").as_ptr()) != kind.cast() {
            ffi::PyErr_Clear();
            return false;
        }
        [name!(py, "__getstate__"), name!(py, "__setstate__")].into_iter().all(|name| {
            let found = lookup(kind, name);
            !found.is_null()
                && ffi::Py_TYPE(found) == &raw mut ffi::PyFunction_Type
                && ffi::PyFunction_GetGlobals(found) == names
        })
    }
}
