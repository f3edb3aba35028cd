//! Objects that are not plain data: where each goes, and how instances of ordinary classes are written.
//!
//! Instances of one class mostly have the same attributes. The first of them in a message names them: that is a
//! *shape*, and the others give the number of their shape and their values.
//!
//! # Why this file is unsafe
//!
//! It reads instances where they lie, as `classes.rs` has found out that they may be read. While a message is
//! written quickly, dicts and slots hold what is read; else it is held here.
#![allow(unsafe_code)]

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;

use super::access::{self, Owned};
use super::classes::{How, Layout, Special};
use super::decode::CollectorPaused;
use super::encode::{Encoder, SHARED_BY_THREADS, Stop};
use super::format::{MAX_DEPTH, NATIVE, NATIVE_CALL, OBJECT_DEPTH, OPEN, OPEN_CALL, tag};

/// A class's attributes in this message, in their order.
pub(super) struct Shape {
    names: Vec<Owned>,
    in_dict: usize,
}

/// Instances of one class with more kinds of attributes than this are written one by one, by what they say themselves.
const MOST_SHAPES: usize = 16;
/// As many attributes have a shape.
const MOST_NAMES: usize = 256;

impl Encoder {
    /// An object that is not plain data.
    pub(super) unsafe fn foreign(&mut self, object: *mut PyObject, depth: u32) -> Result<(), Stop> {
        if SHARED_BY_THREADS {
            return Err(Stop::Foreign);
        }
        // Most members of an enumeration, say, were met before: then nobody has to look at their type.
        if self.careful && self.known(object)? {
            return Ok(());
        }
        // SAFETY: attached; a live object, which the caller holds. Its type says how it may be read.
        unsafe {
            let class = self.classes.of(object, self.careful, &mut self.keep)?;
            let how = class.how.clone();
            let reducer = class.reducer;
            self.open();
            if let How::Reference = how {
                return self.reference(object);
            }
            let depth = depth + OBJECT_DEPTH;
            if depth > MAX_DEPTH {
                return Err(Stop::Foreign);
            }
            if !reducer.is_null() {
                return self.reduce(object, reducer, depth);
            }
            match how {
                How::Reference | How::Class => self.reference(object),
                How::Plain(layout) => self.plain(object, &layout, depth),
                How::Named(fields) => self.named(object, fields, depth),
                How::Buffer => self.buffer(object),
                How::Special(Special::Array) => self.array(object, depth),
                How::Special(Special::Scalar(place)) => self.scalar(object, place, depth),
                How::Special(Special::Decimal) => self.decimal(object),
                How::Special(special) => self.date(object, special, depth),
                How::Reduced => self.reduce(object, std::ptr::null_mut(), depth),
            }
        }
    }

    /// Marks the message as one whose reading may run code.
    fn open(&mut self) {
        match self.head[0] {
            NATIVE => self.head[0] = OPEN,
            NATIVE_CALL => self.head[0] = OPEN_CALL,
            _ => return,
        }
        // Reading an instance may make its dict, and with that start the collector.
        // SAFETY: attached, as all of the codec is.
        self.paused = CollectorPaused::while_native(unsafe { Python::assume_attached() });
    }

    /// An instance of an ordinary class.
    unsafe fn plain(&mut self, object: *mut PyObject, layout: &Layout, depth: u32) -> Result<(), Stop> {
        // SAFETY: as above, and the layout is that of the object's type.
        unsafe {
            if (self.careful || ffi::Py_REFCNT(object) != 1) && self.known(object)? {
                return Ok(());
            }
            let first = self.fields.len();
            let Some(in_dict) = self.gather(object, layout)? else {
                self.fields.truncate(first);
                return self.reduce(object, std::ptr::null_mut(), depth);
            };
            let Some(shape) = self.shape_of(object, first, in_dict)? else {
                return self.plain_of_new_shape(object, first, in_dict, depth);
            };
            let met = self.met(object)?;
            debug_assert!(!met);
            self.head.push(tag::OBJECT);
            self.varint(shape as usize);
            self.values_from(first, depth)
        }
    }

    /// Puts names and values of an instance into `fields`; how many of them are in its dict. None: it has
    /// something that only it can explain.
    unsafe fn gather(&mut self, object: *mut PyObject, layout: &Layout) -> Result<Option<usize>, Stop> {
        // SAFETY: as above. A name or value is borrowed from a dict or slot of the object, or held by `keep`.
        unsafe {
            let (first, mut in_dict) = (self.fields.len(), 0);
            if layout.has_dict {
                let dict =
                    Owned::new(ffi::PyObject_GenericGetDict(object, std::ptr::null_mut())).ok_or(Stop::Raised)?;
                // A dict that somebody else has, too, is an object of its own that can be met again.
                if ffi::Py_TYPE(dict.as_ptr()) != &raw mut ffi::PyDict_Type || ffi::Py_REFCNT(dict.as_ptr()) > 2 {
                    return Ok(None);
                }
                let mut position = 0;
                let mut name = std::ptr::null_mut();
                let mut value = std::ptr::null_mut();
                while ffi::PyDict_Next(dict.as_ptr(), &raw mut position, &raw mut name, &raw mut value) != 0 {
                    self.fields.push((name, value));
                    in_dict += 1;
                }
            }
            for (name, offset) in &layout.slots {
                let value = object.byte_add(*offset).cast::<*mut PyObject>().read();
                if !value.is_null() {
                    self.fields.push((name.as_ptr(), value));
                } else if layout.needs_all {
                    return Ok(None);
                }
            }
            if self.careful {
                let held = self.fields[first..].iter().map(|field| Owned::borrow(field.1));
                self.keep.extend(held);
            }
            Ok(Some(in_dict))
        }
    }

    /// The shape that this message has for the fields from `first` on.
    unsafe fn shape_of(&mut self, object: *mut PyObject, first: usize, in_dict: usize) -> Result<Option<u32>, Stop> {
        let fields = &self.fields[first..];
        let shapes = &self.shapes;
        let alike = |shape: &&u32| {
            let shape = &shapes[**shape as usize];
            shape.in_dict == in_dict
                && shape.names.len() == fields.len()
                && shape.names.iter().zip(fields).all(|(name, field)| name.as_ptr() == field.0)
        };
        // SAFETY: a live object.
        let class = unsafe { self.classes.of(object, self.careful, &mut self.keep)? };
        Ok(class.shapes.iter().rev().find(alike).copied())
    }

    #[cold]
    unsafe fn plain_of_new_shape(
        &mut self,
        object: *mut PyObject,
        first: usize,
        in_dict: usize,
        depth: u32,
    ) -> Result<(), Stop> {
        // SAFETY: as above.
        unsafe {
            let py = Python::assume_attached();
            let number = self.shapes.len() as u32;
            let class = self.classes.of(object, self.careful, &mut self.keep)?;
            let fields = &self.fields[first..];
            let named = fields.iter().all(|field| is_plain_name(py, field.0));
            if !named || fields.len() > MOST_NAMES || class.shapes.len() >= MOST_SHAPES {
                self.fields.truncate(first);
                return self.reduce(object, std::ptr::null_mut(), depth);
            }
            class.shapes.push(number);
            let names: Vec<Owned> = fields.iter().map(|field| Owned::borrow(field.0)).collect();
            let written: Vec<*mut PyObject> = names.iter().map(Owned::as_ptr).collect();
            self.shapes.push(Shape { names, in_dict });
            let met = self.met(object)?;
            debug_assert!(!met);
            self.head.push(tag::OBJECT_NEW);
            self.reference(ffi::Py_TYPE(object).cast())?;
            self.varint(in_dict);
            self.varint(written.len() - in_dict);
            for name in written {
                self.text(name)?;
            }
            self.values_from(first, depth)
        }
    }

    /// Writes the values of the fields from `first` on, and forgets the fields.
    unsafe fn values_from(&mut self, first: usize, depth: u32) -> Result<(), Stop> {
        for index in first..self.fields.len() {
            // SAFETY: attached; a live value, which its object or `keep` holds.
            unsafe { self.value(self.fields[index].1, depth)? };
        }
        self.fields.truncate(first);
        Ok(())
    }

    /// A tuple of a class that `namedtuple` made.
    unsafe fn named(&mut self, object: *mut PyObject, fields: usize, depth: u32) -> Result<(), Stop> {
        // SAFETY: as above; a tuple by its class's layout, and tuples do not change.
        unsafe {
            let len = access::tuple_len(object);
            if len != fields {
                return self.reduce(object, std::ptr::null_mut(), depth);
            }
            if (self.careful || ffi::Py_REFCNT(object) != 1) && self.known(object)? {
                return Ok(());
            }
            let here = self.here()?;
            let number = self.shapes.len() as u32;
            let class = self.classes.of(object, self.careful, &mut self.keep)?;
            let known = class.shapes.first().copied();
            let whole = if known.is_some() { tag::NAMED } else { tag::NAMED_NEW };
            if known.is_none() {
                class.shapes.push(number);
                self.shapes.push(Shape { names: Vec::new(), in_dict: 0 });
            }
            if !self.careful && self.met(object)? {
                return Err(Stop::Careful);
            }
            // Not referred to before it is whole, as any tuple.
            self.head.push(tag::OPEN_TUPLE);
            match known {
                Some(shape) => self.varint(shape as usize),
                None => {
                    self.reference(ffi::Py_TYPE(object).cast())?;
                    self.varint(len);
                }
            }
            if self.careful {
                self.each_carefully(object, 0, len, depth)?
            } else {
                self.tuple_items(object, 0, len, depth)?
            }
            self.head[here as usize] = whole;
            if self.careful && self.complete(object, here)? {
                return Err(Stop::Foreign);
            }
            Ok(())
        }
    }
}

/// Whether a name can be in a shape: an exact string, and none that pickle would ask the instance for.
unsafe fn is_plain_name(py: Python<'_>, name: *mut PyObject) -> bool {
    // SAFETY: attached; a live object.
    let name = unsafe { Bound::from_borrowed_ptr(py, name) };
    let Ok(name) = name.cast_exact::<pyo3::types::PyString>() else { return false };
    match name.to_str() {
        Ok(name) => !["__reduce_ex__", "__reduce__", "__getstate__"].contains(&name),
        Err(_) => false,
    }
}
