//! Types, looked at as the interpreter does it for itself: no code of anybody's runs for that, not even a metaclass's.
//!
//! # Why this file is unsafe
//!
//! Types are read where they lie.
#![allow(unsafe_code)]

use std::ffi::CStr;

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

/// The names in a loaded module, borrowed; null if there is no such module.
fn names_in(module: &CStr) -> *mut PyObject {
    // SAFETY: attached. What is found is borrowed, and looked at at once.
    unsafe {
        let module = ffi::PyDict_GetItemString(ffi::PyImport_GetModuleDict(), module.as_ptr());
        let is_module = !module.is_null() && ffi::Py_TYPE(module) == &raw mut ffi::PyModule_Type;
        if is_module { ffi::PyModule_GetDict(module) } else { std::ptr::null_mut() }
    }
}

/// Whether a module has this type under the type's own name, which is one of these.
fn is_in_module(kind: *mut PyTypeObject, module: &CStr, names: &[&CStr]) -> bool {
    // SAFETY: attached; a live type, whose name ends in a zero. What is found is borrowed, and looked at at once.
    unsafe {
        let Some(name) = names.iter().find(|name| CStr::from_ptr((*kind).tp_name) == **name) else { return false };
        let found = names_in(module);
        !found.is_null() && ffi::PyDict_GetItemString(found, name.as_ptr()) == kind.cast()
    }
}

/// Whether what a type has under a name is a function that one of these modules defines, or a static method of one.
fn is_function_of(py: Python<'_>, kind: *mut PyTypeObject, name: &Bound<'_, PyAny>, modules: &[&CStr]) -> bool {
    // SAFETY: attached; a live type.
    let found = unsafe { lookup(kind, name) };
    // SAFETY: as above; what is found is counted at once.
    let Some(found) = (unsafe { Bound::from_borrowed_ptr_or_opt(py, found) }) else { return false };
    let is_static = found.get_type().as_ptr() == (&raw mut ffi::PyStaticMethod_Type).cast();
    let function = if is_static { found.getattr(name!(py, "__func__")).ok() } else { Some(found) };
    let Some(function) = function else { return false };
    let Ok(function) = function.cast_exact::<pyo3::types::PyFunction>() else { return false };
    // SAFETY: attached; a function has a dict of globals, which is only compared.
    let globals = unsafe { ffi::PyFunction_GetGlobals(function.as_ptr()) };
    modules.iter().any(|module| names_in(module) == globals)
}

/// Whether this is the class of UUIDs, with the state that its module gives it: two slots, which its `__getstate__` and
/// `__setstate__` read and set. Those are functions in Python, and take several times as long as we do.
pub(super) fn is_uuid(py: Python<'_>, kind: *mut PyTypeObject) -> bool {
    is_in_module(kind, c"uuid", &[c"UUID"])
        && [name!(py, "__getstate__"), name!(py, "__setstate__")]
            .into_iter()
            .all(|name| is_function_of(py, kind, name, &[c"uuid"]))
}

/// What a path consists of. Its other slots keep what was made of these.
#[cfg(not(Py_3_12))]
pub(super) const PATH_SLOTS: &[&str] = &["_drv", "_root", "_parts"];
#[cfg(Py_3_12)]
pub(super) const PATH_SLOTS: &[&str] = &["_raw_paths"];

/// Whether this is a class of paths as `pathlib` has made it, whose instances can be written as their slots. By its own
/// `__reduce__` a path is written as its parts, and the receiver has to parse them again: that takes ten times as long.
pub(super) fn is_path(py: Python<'_>, kind: *mut PyTypeObject) -> bool {
    const MODULES: &[&CStr] = &[c"pathlib", c"pathlib._local"];
    let its_own = |name| is_function_of(py, kind, name, MODULES);
    // SAFETY: attached; live types.
    let as_object = |name| unsafe { lookup(kind, name) == lookup(&raw mut ffi::PyBaseObject_Type, name) };
    // SAFETY: as above.
    let is_missing = |name| unsafe { lookup(kind, name) }.is_null();
    is_in_module(kind, c"pathlib", &[c"PurePosixPath", c"PosixPath", c"PureWindowsPath", c"WindowsPath"])
        && its_own(name!(py, "__reduce__"))
        && its_own(name!(py, "__new__"))
        && (as_object(name!(py, "__init__")) || its_own(name!(py, "__init__")))
        && as_object(name!(py, "__reduce_ex__"))
        && as_object(name!(py, "__getstate__"))
        && is_missing(name!(py, "__setstate__"))
}
