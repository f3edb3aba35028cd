//! Classes and functions, written and read in one place.
//!
//! One that its module has under its own name travels as that: what pickle writes of it, without a pickler. Every
//! other one is embedded as the pickler makes it. Either is written once a message. Which of the two it is, `names`
//! decides; nothing else in the codec knows. What goes by value (`by_value.rs`) shares variables with all that goes
//! by value in the same message, so it sends the whole message to the pickler.
//!
//! # Why this file is unsafe
//!
//! As `encode.rs` and `decode.rs`. Modules and classes are looked into where they lie.
#![allow(unsafe_code)]

use std::os::raw::{c_char, c_int};

use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use super::access::Owned;
use super::by_value::{self, Way};
use super::decode::{Decoder, Fault};
use super::encode::{Encoder, Stop};
use super::format::tag;
use super::pickle;
use super::types::lookup;
use crate::known::name;

unsafe extern "C" {
    /// Tells who listens that something happens. Negative: somebody objects, by an exception.
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

impl Encoder {
    /// A reference to a class or function.
    pub(super) unsafe fn reference(&mut self, object: *mut PyObject) -> Result<(), Stop> {
        // SAFETY: attached; a live object.
        let object: Bound<'_, PyAny> = unsafe { Bound::from_borrowed_ptr(Python::assume_attached(), object) };
        // SAFETY: as above.
        if unsafe { self.met(object.as_ptr())? } {
            return Ok(());
        }
        let Some((module, name)) = names(&object) else { return self.embed(&object) };
        if module.to_str().is_ok_and(|module| module.ends_with("_main__")) {
            match by_value::way(&object).map_err(|error| raised(object.py(), error))? {
                Way::Name => {}
                Way::NameAfterCode if self.careful => {}
                Way::NameAfterCode => return Err(Stop::Again),
                Way::Whole => return Err(Stop::Foreign),
            }
        }
        let (Ok(module), Ok(name)) = (module.to_str(), name.to_str()) else { return self.embed(&object) };
        self.head.push(tag::GLOBAL);
        for text in [module, name] {
            self.varint(text.len());
            self.head.extend_from_slice(text.as_bytes());
        }
        Ok(())
    }

    /// A class or function as the pickler makes it.
    fn embed(&mut self, object: &Bound<'_, PyAny>) -> Result<(), Stop> {
        if !self.careful {
            return Err(Stop::Careful);
        }
        self.code_ran = true;
        let py = object.py();
        let buffers = PyList::empty(py);
        let stream = pickle::dump(object, &buffers).map_err(|error| raised(py, error))?;
        if by_value::is_wanted(&stream).map_err(|error| raised(py, error))? {
            return Err(Stop::Foreign);
        }
        let stream = stream.cast::<PyBytes>().map_err(|_| Stop::Foreign)?.as_bytes();
        self.head.push(tag::EMBEDDED);
        self.varint(buffers.len());
        for buffer in &buffers {
            // SAFETY: attached; the list holds it, and the segment what it is of.
            unsafe { self.buffer(buffer.as_ptr())? };
        }
        self.varint(stream.len());
        self.head.extend_from_slice(stream);
        Ok(())
    }
}

fn raised(py: Python<'_>, error: PyErr) -> Stop {
    error.restore(py);
    Stop::Raised
}

/// The names of an object's module and of the object in it, if that is what pickle writes. No code runs.
fn names<'py>(object: &Bound<'py, PyAny>) -> Option<(Bound<'py, PyString>, Bound<'py, PyString>)> {
    let py = object.py();
    // SAFETY: attached; live objects, borrowed from what holds them and counted at once. Only types and
    // functions are asked for attributes, and only if no metaclass has a say in that.
    unsafe {
        let kind = ffi::Py_TYPE(object.as_ptr());
        let asks = name!(py, "__getattribute__");
        let is_type = ffi::PyType_IsSubtype(kind, &raw mut ffi::PyType_Type) != 0
            && lookup(kind, asks) == lookup(&raw mut ffi::PyType_Type, asks);
        let is_function = kind == &raw mut ffi::PyFunction_Type || kind == &raw mut ffi::PyCFunction_Type;
        if !is_type && !is_function {
            return None;
        }
        let text = |name| object.getattr(name).ok()?.cast_into_exact::<PyString>().ok();
        let (module, qualified) = (text(name!(py, "__module__"))?, text(name!(py, "__qualname__"))?);
        let found = ffi::PyDict_GetItemWithError(ffi::PyImport_GetModuleDict(), module.as_ptr());
        if found.is_null() || ffi::Py_TYPE(found) != &raw mut ffi::PyModule_Type {
            ffi::PyErr_Clear();
            return None;
        }
        let names = ffi::PyModule_GetDict(found);
        let find = |name: &Bound<'_, PyAny>| {
            let found = ffi::PyDict_GetItemWithError(names, name.as_ptr());
            if found.is_null() {
                ffi::PyErr_Clear();
            }
            found
        };
        let whole = qualified.to_str().ok()?;
        let found = if whole.contains('.') {
            let mut parts = whole.split('.').map(|part| PyString::intern(py, part).into_any());
            let mut found = find(&parts.next()?);
            for part in parts {
                let is_class = !found.is_null() && ffi::Py_TYPE(found) == &raw mut ffi::PyType_Type;
                found = if is_class { lookup(found.cast::<PyTypeObject>(), &part) } else { return None };
            }
            found
        } else {
            find(qualified.as_any())
        };
        (found == object.as_ptr()).then_some((module, qualified))
    }
}

impl Decoder {
    /// What the names of a GLOBAL stand for.
    pub(super) fn global(&mut self, py: Python<'_>) -> Result<Owned, Fault> {
        let module = self.name(py)?;
        let name = self.name(py)?;
        // Under the fuzzer nothing is imported or called that a message names.
        if !cfg!(fuzzing)
            && let Some(found) = find(&module, &name)
        {
            return Ok(found);
        }
        // The rest, and the error if there is none, are pickle's.
        let mut stream = vec![0x80, 4];
        for text in [&module, &name] {
            let text = text.to_str().map_err(|_| Fault::Text)?;
            let len = u32::try_from(text.len()).map_err(|_| Fault::Length)?;
            stream.push(b'X');
            stream.extend_from_slice(&len.to_le_bytes());
            stream.extend_from_slice(text.as_bytes());
        }
        stream.extend_from_slice(b"\x93.");
        // SAFETY: the bytes are ours.
        let found = unsafe { pickle::load(py, stream.as_mut_ptr(), stream.len(), None) };
        found.map(Owned::from).map_err(|error| Fault::raise(py, error))
    }

    fn name<'py>(&mut self, py: Python<'py>) -> Result<Bound<'py, PyString>, Fault> {
        let len = self.varint()?;
        let data = self.take(len)?;
        let mut copy = vec![0; len];
        // SAFETY: `len` readable bytes into as many of ours.
        unsafe { std::ptr::copy_nonoverlapping(data, copy.as_mut_ptr(), len) };
        // Interned: attributes and modules are looked up by such names.
        std::str::from_utf8(&copy).map(|text| PyString::intern(py, text)).map_err(|_| Fault::Text)
    }

    /// What the pickle of an EMBEDDED makes.
    pub(super) fn embedded(&mut self, py: Python<'_>) -> Result<Owned, Fault> {
        let count = self.count(0, 1)?;
        let mut buffers = Vec::with_capacity(count);
        for _ in 0..count {
            let tag = self.byte()?;
            buffers.push(self.buffer(py, tag)?.into_bound(py));
        }
        let buffers = if count == 0 { None } else { Some(PyList::new(py, buffers).map_err(|e| Fault::raise(py, e))?) };
        let len = self.varint()?;
        let data = self.take(len)?;
        // SAFETY: `len` readable bytes within the message, which outlives this call.
        let made = unsafe { pickle::load(py, data.cast_mut(), len, buffers) };
        made.map(Owned::from).map_err(|error| Fault::raise(py, error))
    }
}

/// What a loaded module has under a name, if that is simple; as pickle's `find_class` finds it.
fn find(module: &Bound<'_, PyString>, name: &Bound<'_, PyString>) -> Option<Owned> {
    // SAFETY: attached; live objects. What is found is borrowed, and counted at once.
    unsafe {
        let loaded = ffi::PyDict_GetItemWithError(ffi::PyImport_GetModuleDict(), module.as_ptr());
        if loaded.is_null() || ffi::Py_TYPE(loaded) != &raw mut ffi::PyModule_Type {
            ffi::PyErr_Clear();
            return None;
        }
        if PySys_Audit(c"pickle.find_class".as_ptr(), c"OO".as_ptr(), module.as_ptr(), name.as_ptr()) < 0 {
            ffi::PyErr_Clear();
            return None;
        }
        let found = ffi::PyDict_GetItemWithError(ffi::PyModule_GetDict(loaded), name.as_ptr());
        if found.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        Some(Owned::borrow(found))
    }
}
