//! Decimals: written as their digits, which say everything, and made of them by the class.
//!
//! A `Decimal` says the same of itself, as a class and its arguments; to ask it takes twice as long as to read it.
//!
//! # Why this file is unsafe
//!
//! As `encode.rs` and `decode.rs`.
#![allow(unsafe_code)]

use std::ffi::CStr;

use pyo3::ffi::{self, Py_ssize_t, PyObject, PyTypeObject};
use pyo3::prelude::*;

use super::access::{self, Owned};
use super::classes::Special;
use super::decode::{Decoder, Fault, new};
use super::encode::{Encoder, Stop};
use super::format::tag;
use crate::known::Known;

fn class(py: Python<'_>) -> PyResult<&Bound<'_, PyAny>> {
    static CLASS: Known<Py<PyAny>> = Known::new();
    CLASS.import(py, "decimal", "Decimal")
}

/// Whether this is the class of decimals in C, which nobody can change.
pub(super) fn special(py: Python<'_>, kind: *mut PyTypeObject) -> Option<Special> {
    // SAFETY: a live type, whose name ends in a zero.
    let name = unsafe { CStr::from_ptr((*kind).tp_name) };
    let is_known = name == c"decimal.Decimal" && class(py).is_ok_and(|class| class.as_ptr() == kind.cast());
    is_known.then_some(Special::Decimal)
}

impl Encoder {
    pub(super) unsafe fn decimal(&mut self, object: *mut PyObject) -> Result<(), Stop> {
        // SAFETY: attached; a live object, exactly of the class, whose text nobody else has.
        unsafe {
            if self.met(object)? {
                return Ok(());
            }
            let digits = Owned::new(ffi::PyObject_Str(object)).ok_or(Stop::Raised)?;
            let text = access::text(digits.as_ptr()).filter(|text| text.tag == tag::ASCII).ok_or(Stop::Foreign)?;
            self.head.push(tag::DECIMAL);
            self.varint(text.len);
            self.raw(text.data, text.len);
        }
        Ok(())
    }
}

impl Decoder {
    /// What follows a DECIMAL.
    pub(super) fn decimal(&mut self, py: Python<'_>, owed: usize) -> Result<Owned, Fault> {
        let len = self.count(owed, 1)?;
        let digits = self.take(len)?;
        let class = class(py).map_err(|error| Fault::raise(py, error))?;
        // SAFETY: attached; so many bytes of the head, which are looked at as UTF-8, and a live class.
        unsafe {
            let digits = new(ffi::PyUnicode_FromStringAndSize(digits.cast(), len as Py_ssize_t))?;
            new(ffi::PyObject_CallOneArg(class.as_ptr(), digits.as_ptr()))
        }
    }
}
