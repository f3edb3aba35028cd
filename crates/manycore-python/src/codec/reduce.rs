//! Objects that say themselves what they consist of, by `__reduce_ex__` or a registered reducer.
//!
//! What they say is written by us, as pickle would write it: function, arguments, items, state, in this order, and
//! remembered after the arguments. Whatever pickle has a complaint about is pickle's.
//!
//! # Why this file is unsafe
//!
//! As `encode.rs`. The tuple that a reducer returns is held while it is written; the parts of the tuple that the memo
//! remembers are held until the message is done.
#![allow(unsafe_code)]

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::access::{self, Owned};
use super::encode::{Encoder, Stop};
use super::format::{BATCH, reduced, tag};
use super::segment::Segment;
use crate::known::{Known, name};

/// What a reducer returned, taken apart. Borrowed from it; null where there is nothing.
struct Parts {
    function: *mut PyObject,
    args: *mut PyObject,
    state: *mut PyObject,
    items: *mut PyObject,
    pairs: *mut PyObject,
    setter: *mut PyObject,
    /// Nobody else has the answer.
    is_fresh: bool,
}

/// A buffer of fewer bytes is in the head.
pub(super) const INLINE: usize = 2048;

impl Encoder {
    /// An object as its reducer says, which is held by `keep`; `__reduce_ex__` if it is null.
    pub(super) unsafe fn reduce(
        &mut self,
        object: *mut PyObject,
        reducer: *mut PyObject,
        depth: u32,
    ) -> Result<(), Stop> {
        if !self.careful {
            return Err(Stop::Careful);
        }
        if self.known(object)? {
            return Ok(());
        }
        self.code_ran = true;
        // SAFETY: attached; the caller holds the object, and `keep` what is made of it.
        unsafe {
            let py = Python::assume_attached();
            let said = if reducer.is_null() {
                static PROTOCOL: Known<Py<PyAny>> = Known::new();
                let protocol = PROTOCOL.get_or_init(py, || pyo3::types::PyInt::new(py, 5).into_any().unbind());
                ffi::PyObject_CallMethodOneArg(object, name!(py, "__reduce_ex__").as_ptr(), protocol.as_ptr())
            } else {
                ffi::PyObject_CallOneArg(reducer, object)
            };
            let said = Owned::new(said).ok_or(Stop::Raised)?;
            if ffi::PyUnicode_Check(said.as_ptr()) != 0 {
                return self.reference(object);
            }
            let parts = Parts::of(said.as_ptr())?;
            self.parts(py, object, &parts, depth)
        }
    }

    unsafe fn parts(&mut self, py: Python<'_>, object: *mut PyObject, parts: &Parts, depth: u32) -> Result<(), Stop> {
        static NEW: Known<Py<PyAny>> = Known::new();
        static NEW_WITH_NAMES: Known<Py<PyAny>> = Known::new();
        // SAFETY: as above.
        unsafe {
            let here = self.here()?;
            self.head.push(tag::REDUCE);
            let mut flags = 0;
            for (part, flag) in [
                (parts.items, reduced::ITEMS),
                (parts.pairs, reduced::PAIRS),
                (parts.state, reduced::STATE),
                (parts.setter, reduced::SETTER),
            ] {
                flags |= if part.is_null() { 0 } else { flag };
            }
            let (Ok(new), Ok(new_with_names)) =
                (NEW.import(py, "copyreg", "__newobj__"), NEW_WITH_NAMES.import(py, "copyreg", "__newobj_ex__"))
            else {
                return Err(Stop::Foreign);
            };
            let count = access::tuple_len(parts.args);
            if parts.function == new.as_ptr() {
                self.head.push(flags | reduced::NEW);
                let class = class_of(py, parts.args, count, object)?;
                self.value(class, depth)?;
                self.varint(count - 1);
                self.each_carefully(parts.args, 1, count, depth)?;
            } else if parts.function == new_with_names.as_ptr() {
                self.head.push(flags | reduced::NEW_WITH_NAMES);
                let class = class_of(py, parts.args, count, object)?;
                if count != 3 {
                    return Err(Stop::Foreign);
                }
                self.value(class, depth)?;
                self.value(access::tuple_item(parts.args, 1), depth)?;
                self.value(access::tuple_item(parts.args, 2), depth)?;
            } else {
                // Pickle goes by the name of the function; one of another module may have it.
                let called: Bound<'_, PyAny> = Bound::from_borrowed_ptr(py, parts.function);
                if let Ok(called) = called.getattr(name!(py, "__name__"))
                    && (called.eq("__newobj__").unwrap_or(true) || called.eq("__newobj_ex__").unwrap_or(true))
                {
                    return Err(Stop::Foreign);
                }
                self.head.push(flags);
                self.value(parts.function, depth)?;
                self.args(parts, count, depth)?;
            }
            if self.complete(object, here)? {
                self.head[here as usize] = tag::ECHO_REDUCE;
                return Ok(());
            }
            if !parts.items.is_null() {
                self.batches(parts.items, |this, item| this.value(item, depth))?;
            }
            if !parts.pairs.is_null() {
                self.batches(parts.pairs, |this, pair| {
                    if ffi::Py_TYPE(pair) != &raw mut ffi::PyTuple_Type || access::tuple_len(pair) != 2 {
                        return Err(Stop::Foreign);
                    }
                    this.value(access::tuple_item(pair, 0), depth)?;
                    this.value(access::tuple_item(pair, 1), depth)
                })?;
            }
            if !parts.setter.is_null() {
                self.value(parts.setter, depth)?;
            }
            if parts.state.is_null() { Ok(()) } else { self.value(parts.state, depth) }
        }
    }

    /// The arguments of a call. A tuple that was made for the answer is nobody else's, and neither is a string in it:
    /// they cannot be met again, and go with the answer.
    unsafe fn args(&mut self, parts: &Parts, count: usize, depth: u32) -> Result<(), Stop> {
        // SAFETY: a live tuple that the answer holds, of so many items.
        unsafe {
            let is_fresh = parts.is_fresh
                && count > 0
                && ffi::Py_REFCNT(parts.args) == 1
                && ffi::Py_TYPE(parts.args) == &raw mut ffi::PyTuple_Type;
            if !is_fresh {
                return self.value(parts.args, depth);
            }
            self.head.push(tag::TUPLE);
            self.varint(count);
            for index in 0..count {
                let item = access::tuple_item(parts.args, index);
                let kind = ffi::Py_TYPE(item);
                let is_text = kind == &raw mut ffi::PyUnicode_Type;
                if ffi::Py_REFCNT(item) == 1 && (is_text || kind == &raw mut ffi::PyBytes_Type) {
                    // Written as where no code runs: one reference, so no second meeting.
                    self.careful = false;
                    let written = if is_text { self.text(item) } else { self.bytes(item) };
                    self.careful = true;
                    written?;
                } else {
                    self.value(item, depth)?;
                }
            }
        }
        Ok(())
    }

    /// What an iterator gives, in batches of which each has its count in front.
    unsafe fn batches(
        &mut self,
        iterator: *mut PyObject,
        mut write: impl FnMut(&mut Self, *mut PyObject) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        // SAFETY: attached; the answer holds the iterator, and `keep` what it gave until the message is done.
        unsafe {
            loop {
                let start = self.keep.len();
                while self.keep.len() - start < BATCH {
                    let Some(item) = Owned::new(ffi::PyIter_Next(iterator)) else { break };
                    self.keep.push(item);
                }
                if !ffi::PyErr_Occurred().is_null() {
                    return Err(Stop::Raised);
                }
                let count = self.keep.len() - start;
                self.varint(count);
                for index in start..start + count {
                    write(self, self.keep[index].as_ptr())?;
                }
                if count == 0 {
                    return Ok(());
                }
            }
        }
    }

    /// A `PickleBuffer`: what it is a view of, left where it is if that is large. Never the same object twice.
    pub(super) unsafe fn buffer(&mut self, object: *mut PyObject) -> Result<(), Stop> {
        // SAFETY: attached; a live object. The segment keeps its bytes in place.
        unsafe {
            let py = Python::assume_attached();
            let object: Bound<'_, PyAny> = Bound::from_borrowed_ptr(py, object);
            // One that is not in one piece is an error, for which pickle has its own words.
            let Ok(segment) = Segment::of_buffer(&object) else { return Err(Stop::Foreign) };
            let is_inline = segment.len < INLINE;
            self.head.push(if is_inline { tag::BUFFER } else { tag::BUFFER_APART });
            self.head.push(u8::from(segment.is_read_only()));
            self.varint(segment.len);
            if is_inline {
                self.raw(segment.ptr, segment.len);
            } else {
                self.segments.push(segment);
            }
        }
        Ok(())
    }
}

impl Parts {
    /// What pickle accepts of a reducer.
    unsafe fn of(said: *mut PyObject) -> Result<Parts, Stop> {
        // SAFETY: attached; a live object, and a tuple where its items are asked for.
        unsafe {
            if ffi::PyTuple_Check(said) == 0 {
                return Err(Stop::Foreign);
            }
            let count = access::tuple_len(said);
            if !(2..=6).contains(&count) {
                return Err(Stop::Foreign);
            }
            let part = |index| {
                let part = if index < count { access::tuple_item(said, index) } else { ffi::Py_None() };
                if part == ffi::Py_None() { std::ptr::null_mut() } else { part }
            };
            let parts = Parts {
                function: access::tuple_item(said, 0),
                args: access::tuple_item(said, 1),
                state: part(2),
                items: part(3),
                pairs: part(4),
                setter: part(5),
                is_fresh: ffi::Py_REFCNT(said) == 1,
            };
            let iterates = |part: *mut PyObject| part.is_null() || ffi::PyIter_Check(part) != 0;
            let accepted = ffi::PyCallable_Check(parts.function) != 0
                && ffi::PyTuple_Check(parts.args) != 0
                && iterates(parts.items)
                && iterates(parts.pairs)
                && (parts.setter.is_null() || (ffi::PyCallable_Check(parts.setter) != 0 && !parts.state.is_null()));
            if accepted { Ok(parts) } else { Err(Stop::Foreign) }
        }
    }
}

/// The class whose `__new__` is to be called: the first of the arguments, and the object's own.
unsafe fn class_of(
    py: Python<'_>,
    args: *mut PyObject,
    count: usize,
    object: *mut PyObject,
) -> Result<*mut PyObject, Stop> {
    // SAFETY: a tuple of so many items, and a live object.
    unsafe {
        if count == 0 {
            return Err(Stop::Foreign);
        }
        let class = access::tuple_item(args, 0);
        let object: Bound<'_, PyAny> = Bound::from_borrowed_ptr(py, object);
        let its_own = object.getattr(name!(py, "__class__")).map_err(|_| Stop::Foreign)?;
        if ffi::PyType_Check(class) != 0 && its_own.as_ptr() == class { Ok(class) } else { Err(Stop::Foreign) }
    }
}
