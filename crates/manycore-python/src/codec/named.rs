//! Classes that `collections.namedtuple` made, whose instances are their items and nothing else.
//!
//! # Why this file is unsafe
//!
//! It looks types up as `classes.rs` does.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::collections::HashMap;

use pyo3::ffi::{self, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::types::{lookup, version};
use crate::known::{Known, name};

/// How many fields a class has whose `__new__` and `__getnewargs__` are the ones that `namedtuple` writes, and do
/// nothing but make a tuple of their arguments and give it back. None: it is not of that sort.
///
/// `__getnewargs__` is the same code in all of these classes. `__new__` is compiled for each, so its code is
/// held against that of a class of our own with as many fields.
pub(super) fn fields(py: Python<'_>, kind: *mut PyTypeObject) -> PyResult<Option<usize>> {
    thread_local! {
        /// What was found out, by the type's address and the number of its state.
        static FOUND: RefCell<HashMap<(usize, u32), Option<usize>>> = RefCell::new(HashMap::new());
    }
    // SAFETY: attached; a live type.
    let state = unsafe { (kind.addr(), version(kind)) };
    if let Some(found) = FOUND.try_with(|found| found.borrow().get(&state).copied()).ok().flatten() {
        return Ok(found);
    }
    let fields = find_out(py, kind)?;
    // SAFETY: as above. The number may be new: looking gives one to a type that had none.
    let state = unsafe { (kind.addr(), version(kind)) };
    if state.1 != 0 {
        let _ = FOUND.try_with(|found| {
            let mut found = found.borrow_mut();
            if found.len() >= MOST {
                found.clear();
            }
            found.insert(state, fields);
        });
    }
    Ok(fields)
}

/// Classes that one thread remembers.
const MOST: usize = 1024;

fn find_out(py: Python<'_>, kind: *mut PyTypeObject) -> PyResult<Option<usize>> {
    // SAFETY: attached; a live type. What a lookup gives is borrowed from it, and held at once.
    let (new, new_args, is_tuple) = unsafe {
        if (*kind).tp_base != &raw mut ffi::PyTuple_Type || (*kind).tp_dictoffset != 0 {
            return Ok(None);
        }
        if !lookup(kind, name!(py, "__getnewargs_ex__")).is_null() {
            return Ok(None);
        }
        let flags = (*kind).tp_flags;
        let find = |name| Bound::from_borrowed_ptr_or_opt(py, lookup(kind, name));
        (find(name!(py, "__new__")), find(name!(py, "__getnewargs__")), flags & ffi::Py_TPFLAGS_TUPLE_SUBCLASS != 0)
    };
    let (Some(new), Some(new_args), true) = (new, new_args, is_tuple) else { return Ok(None) };
    static MODEL: Known<Py<PyAny>> = Known::new();
    let make = MODEL.import(py, "collections", "namedtuple")?;
    // Classes keep their `__new__` as a static method, which knows the function.
    let new = new.getattr(name!(py, "__func__")).unwrap_or(new);
    let (Ok(code), Ok(globals)) = (new.getattr(name!(py, "__code__")), new.getattr(name!(py, "__globals__"))) else {
        return Ok(None);
    };
    let fields: usize = code.getattr(name!(py, "co_argcount"))?.extract::<usize>()?.saturating_sub(1);
    if fields == 0 || fields > 255 {
        return Ok(None);
    }
    let names: Vec<String> = (0..fields).map(|index| format!("f{index}")).collect();
    let model = make.call1(("Model", names))?;
    let model_code = model.getattr(name!(py, "__new__"))?.getattr(name!(py, "__code__"))?;
    for part in [
        name!(py, "co_code"),
        name!(py, "co_names"),
        name!(py, "co_consts"),
        name!(py, "co_argcount"),
        name!(py, "co_kwonlyargcount"),
        name!(py, "co_flags"),
    ] {
        if !code.getattr(part)?.eq(model_code.getattr(part)?)? {
            return Ok(None);
        }
    }
    let makes = globals.cast::<PyDict>()?.get_item(name!(py, "_tuple_new"))?;
    let tuple_new = py.get_type::<PyTuple>().getattr(name!(py, "__new__"))?;
    if !makes.is_some_and(|makes| makes.eq(tuple_new).unwrap_or(false)) {
        return Ok(None);
    }
    let Ok(code) = new_args.getattr(name!(py, "__code__")) else { return Ok(None) };
    let given = model.getattr(name!(py, "__getnewargs__"))?.getattr(name!(py, "__code__"))?;
    Ok(code.is(&given).then_some(fields))
}
