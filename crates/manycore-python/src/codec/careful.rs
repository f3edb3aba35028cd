//! Containers that may change while they are walked, because code of anybody's runs for what is in them.
//!
//! Every object is remembered and kept, and the length of a container is compared with the length at its start after
//! each item. A container that has changed sends the whole message by pickle, which knows what to say of it.
//!
//! # Why this file is unsafe
//!
//! As `encode.rs`; an item is held while it is written, for its container may let go of it.
#![allow(unsafe_code)]
// The limited build never begins to write carefully.
#![cfg_attr(Py_LIMITED_API, allow(unused_variables))]

use pyo3::ffi::{self, PyObject};

use super::access::{self, Owned};
use super::encode::{Encoder, Stop};
use super::format::tag;

impl Encoder {
    /// Remembers an object as the one whose tag is at `here`, though its parts may have been written since. True if it
    /// was met among its own parts: it is that, then.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) unsafe fn complete(&mut self, object: *mut PyObject, here: u32) -> Result<bool, Stop> {
        if let Some(offset) = self.memo.get(object.addr()) {
            return self.refer(offset);
        }
        self.memo.set(object.addr(), here);
        // SAFETY: a live object, and attached.
        self.keep.push(unsafe { Owned::borrow(object) });
        Ok(false)
    }

    /// Whether the object was met before; a reference to it is written then. Nothing is remembered.
    #[cfg(not(Py_LIMITED_API))]
    pub(super) fn known(&mut self, object: *mut PyObject) -> Result<bool, Stop> {
        match self.memo.get(object.addr()) {
            Some(offset) => self.refer(offset),
            None => Ok(false),
        }
    }

    pub(super) unsafe fn list_carefully(&mut self, list: *mut PyObject, len: usize, depth: u32) -> Result<(), Stop> {
        // SAFETY: an exact list, which the memo holds.
        unsafe {
            self.each_carefully(list, 0, len, depth)?;
            if access::list_len(list) == len { Ok(()) } else { Err(Stop::Foreign) }
        }
    }

    /// The items from `start` to `end` of an exact list or tuple.
    pub(super) unsafe fn each_carefully(
        &mut self,
        container: *mut PyObject,
        start: usize,
        end: usize,
        depth: u32,
    ) -> Result<(), Stop> {
        // SAFETY: the exact type decides what is asked; the caller holds the container, each item is held here.
        unsafe {
            let is_list = ffi::Py_TYPE(container) == &raw mut ffi::PyList_Type;
            for index in start..end {
                let item = if !is_list {
                    access::tuple_item(container, index)
                } else if index < access::list_len(container) {
                    access::list_item(container, index)
                } else {
                    return Err(Stop::Foreign);
                };
                let item = Owned::borrow(item);
                self.value(item.as_ptr(), depth)?;
            }
        }
        Ok(())
    }

    /// A tuple is remembered when it is whole. If it was met among its own items, it was written there.
    pub(super) unsafe fn tuple_carefully(&mut self, tuple: *mut PyObject, len: usize, depth: u32) -> Result<(), Stop> {
        #[cfg(Py_LIMITED_API)]
        return Err(Stop::Foreign);
        // SAFETY: an exact tuple; tuples do not change, and the caller holds this one.
        #[cfg(not(Py_LIMITED_API))]
        unsafe {
            if self.known(tuple)? {
                return Ok(());
            }
            let here = self.here()?;
            self.head.push(tag::TUPLE);
            self.varint(len);
            self.each_carefully(tuple, 0, len, depth)?;
            if self.complete(tuple, here)? {
                self.head[here as usize] = tag::ECHO_TUPLE;
            }
            Ok(())
        }
    }

    pub(super) unsafe fn dict_carefully(&mut self, dict: *mut PyObject, depth: u32) -> Result<(), Stop> {
        // SAFETY: an exact dict, which the memo holds. Its entries are held while they are written; a
        // position that it no longer has ends the walk.
        unsafe {
            if self.met(dict)? {
                return Ok(());
            }
            let len = ffi::PyDict_Size(dict);
            self.head.push(tag::DICT);
            self.varint(len as usize);
            let mut left = len;
            let mut position = 0;
            let mut key = std::ptr::null_mut();
            let mut value = std::ptr::null_mut();
            while ffi::PyDict_Next(dict, &raw mut position, &raw mut key, &raw mut value) != 0 {
                let (key, value) = (Owned::borrow(key), Owned::borrow(value));
                left -= 1;
                self.value(key.as_ptr(), depth)?;
                self.value(value.as_ptr(), depth)?;
                if left < 0 || ffi::PyDict_Size(dict) != len {
                    return Err(Stop::Foreign);
                }
            }
            if left == 0 { Ok(()) } else { Err(Stop::Foreign) }
        }
    }

    pub(super) unsafe fn set_carefully(&mut self, set: *mut PyObject, depth: u32, tag: u8) -> Result<(), Stop> {
        #[cfg(Py_LIMITED_API)]
        return Err(Stop::Foreign);
        // SAFETY: an exact set or frozenset, which the memo or the caller holds; so are its items.
        #[cfg(not(Py_LIMITED_API))]
        unsafe {
            let is_frozen = tag == tag::FROZENSET;
            if if is_frozen { self.known(set)? } else { self.met(set)? } {
                return Ok(());
            }
            let here = self.here()?;
            let len = ffi::PySet_Size(set) as usize;
            self.head.push(tag);
            self.varint(len);
            let iterator = Owned::new(ffi::PyObject_GetIter(set)).ok_or(Stop::Raised)?;
            let mut left = len;
            while let Some(item) = Owned::new(ffi::PyIter_Next(iterator.as_ptr())) {
                left = left.checked_sub(1).ok_or(Stop::Foreign)?;
                self.value(item.as_ptr(), depth)?;
            }
            if !ffi::PyErr_Occurred().is_null() {
                return Err(Stop::Raised);
            }
            if left != 0 {
                return Err(Stop::Foreign);
            }
            if is_frozen && self.complete(set, here)? {
                self.head[here as usize] = tag::ECHO_FROZENSET;
            }
            Ok(())
        }
    }
}
