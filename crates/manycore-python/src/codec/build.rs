//! Objects made from the parts that a message has of them, while code of anybody's may run.
//!
//! The order is pickle's: what an object consists of is read first and put in afterwards, items in batches of as many
//! as pickle takes, so that whoever looks on in between (through a cycle) sees what pickle would have let
//! them see. Containers that nobody can refer to yet are filled in place, unseen by the collector, through which they
//! could be found half empty.
//!
//! # Why this file is unsafe
//!
//! As `decode.rs`. Classes come from the message, and so are asked what they are before they are used as such.
#![allow(unsafe_code)]

use pyo3::exceptions::PyTypeError;
use pyo3::ffi::{self, Py_ssize_t, PyObject, PyTypeObject};
use pyo3::prelude::*;

use super::access::{self, Owned};
use super::decode::{Decoder, Fault, deeper, new};
use super::format::{BATCH, MAX_DEPTH, OBJECT_DEPTH, SHARED, reduced, tag};
use super::incoming::COPY_ONE;
use super::types::{PATH_SLOTS, is_path};
use super::{named, state};
use crate::buffer::View;
use crate::known::name;

/// What instances with the same attributes have in common.
pub(super) struct Shape {
    class: Owned,
    names: Vec<Owned>,
    in_dict: usize,
    /// Whether attributes may be set one by one, as if the instance's dict were written to.
    direct: bool,
    /// Whether instances are made by `object`, past a `__new__` that would only take arguments apart.
    bare: bool,
}

impl Decoder {
    /// The value whose tag was just read, if it is no int, float or singleton.
    pub(super) fn tagged_open(&mut self, tag: u8, offset: usize, depth: u32, owed: usize) -> Result<Owned, Fault> {
        // SAFETY: attached, as all of the codec is.
        let py = unsafe { Python::assume_attached() };
        match tag {
            tag::BUFFER | tag::BUFFER_APART => return self.buffer(py, tag),
            tag::ECHO_TUPLE | tag::ECHO_FROZENSET => {
                let len = self.count(owed, 1)?;
                self.skip(len, depth, owed + 1)?;
                return self.echo();
            }
            tag::ECHO_REDUCE => {
                self.reduced(py, None, true, depth, owed + 1)?;
                return self.echo();
            }
            _ => {}
        }
        match tag & !SHARED {
            tag::OBJECT => {
                let shape = self.shape()?;
                let place = self.announce(tag, offset);
                self.object(py, shape, place, depth, owed)
            }
            tag::LIST => self.list_open(tag, offset, depth, owed),
            tag::TUPLE => {
                let len = self.count(owed, 1)?;
                if len == 0 {
                    return Err(Fault::Length);
                }
                let place = self.announce(tag, offset);
                // SAFETY: attached; the length is bounded by the message.
                let tuple = new(unsafe { ffi::PyTuple_New(len as Py_ssize_t) })?;
                self.fill_tuple(&tuple, len, depth, owed)?;
                self.fulfil(place, &tuple);
                Ok(tuple)
            }
            tag::DICT => {
                let len = self.count(owed, 2)?;
                // SAFETY: attached.
                let dict = new(unsafe { ffi::PyDict_New() })?;
                self.remember(tag, offset, &dict);
                self.pairs_into(&dict, len, deeper(depth)?, owed)?;
                Ok(dict)
            }
            tag::SET => {
                let len = self.count(owed, 1)?;
                // SAFETY: attached.
                let set = new(unsafe { ffi::PySet_New(std::ptr::null_mut()) })?;
                self.remember(tag, offset, &set);
                self.elements_into(&set, len, depth, owed)?;
                Ok(set)
            }
            tag::FROZENSET => {
                let len = self.count(owed, 1)?;
                let place = self.announce(tag, offset);
                // SAFETY: attached.
                let set = new(unsafe { ffi::PyFrozenSet_New(std::ptr::null_mut()) })?;
                self.elements_into(&set, len, depth, owed)?;
                self.fulfil(place, &set);
                Ok(set)
            }
            tag::OBJECT_NEW => self.object_new(py, tag, offset, depth, owed),
            tag::NAMED => {
                let shape = self.shape()?;
                let place = self.announce(tag, offset);
                self.named(py, shape, place, depth, owed)
            }
            tag::NAMED_NEW => self.named_new(py, tag, offset, depth, owed),
            tag::REDUCE => {
                let place = self.announce(tag, offset);
                self.reduced(py, place, false, depth, owed)
            }
            tag::GLOBAL => {
                let found = self.global(py)?;
                self.remember(tag, offset, &found);
                Ok(found)
            }
            tag::EMBEDDED => {
                let place = self.announce(tag, offset);
                let made = self.embedded(py)?;
                self.fulfil(place, &made);
                Ok(made)
            }
            tag::DATE => {
                let date = self.date(py)?;
                self.remember(tag, offset, &date);
                Ok(date)
            }
            tag::DECIMAL => {
                let decimal = self.decimal(py, owed)?;
                self.remember(tag, offset, &decimal);
                Ok(decimal)
            }
            tag::ARRAY => {
                let place = self.announce(tag, offset);
                let array = self.array_of(py)?;
                self.fulfil(place, &array);
                Ok(array)
            }
            tag::SCALAR => {
                let scalar = self.scalar(py)?;
                self.remember(tag, offset, &scalar);
                Ok(scalar)
            }
            _ => self.leaf(tag, offset),
        }
    }

    /// The object that was met again among its own parts.
    fn echo(&mut self) -> Result<Owned, Fault> {
        if self.byte()? != tag::REF {
            return Err(Fault::Tag);
        }
        let offset = self.varint()?;
        self.referred(offset)
    }

    /// Reads values that nobody needs, for what is referred to in them.
    fn skip(&mut self, count: usize, depth: u32, owed: usize) -> Result<(), Fault> {
        let depth = deeper(depth)?;
        for index in 0..count {
            drop(self.value(depth, owed + (count - index - 1))?);
        }
        Ok(())
    }

    /// Reads values onto the stack; what was there before stays below.
    fn push_values(&mut self, count: usize, depth: u32, owed: usize) -> Result<(), Fault> {
        for index in 0..count {
            let value = self.value(depth, owed + (count - index - 1))?;
            self.stack.push(value);
        }
        Ok(())
    }

    fn list_open(&mut self, tag: u8, offset: usize, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let len = self.count(owed, 1)?;
        let depth = deeper(depth)?;
        // SAFETY: attached; a new list, which is filled unseen or appended to. Its length is bounded by the message.
        unsafe {
            if tag & SHARED == 0 {
                let list = new(ffi::PyList_New(len as Py_ssize_t))?;
                ffi::PyObject_GC_UnTrack(list.as_ptr().cast());
                for index in 0..len {
                    let item = self.value(depth, owed + (len - index - 1))?;
                    access::list_fill(list.as_ptr(), index, item);
                }
                ffi::PyObject_GC_Track(list.as_ptr().cast());
                return Ok(list);
            }
            let list = new(ffi::PyList_New(0))?;
            self.remember(tag, offset, &list);
            let mut left = len;
            while left > 0 {
                let (base, count) = (self.stack.len(), left.min(BATCH));
                left -= count;
                self.push_values(count, depth, owed + left)?;
                for item in &self.stack[base..] {
                    if ffi::PyList_Append(list.as_ptr(), item.as_ptr()) != 0 {
                        return Err(Fault::Raised);
                    }
                }
                self.stack.truncate(base);
            }
            Ok(list)
        }
    }

    /// Fills a new tuple that nobody has seen.
    fn fill_tuple(&mut self, tuple: &Owned, len: usize, depth: u32, owed: usize) -> Result<(), Fault> {
        let depth = deeper(depth)?;
        // SAFETY: attached; a new tuple of `len` places that nobody else has, and that the collector does not see.
        unsafe {
            if ffi::PyObject_GC_IsTracked(tuple.as_ptr()) != 0 {
                ffi::PyObject_GC_UnTrack(tuple.as_ptr().cast());
            }
            for index in 0..len {
                let item = self.value(depth, owed + (len - index - 1))?;
                access::tuple_fill(tuple.as_ptr(), index, item);
            }
            ffi::PyObject_GC_Track(tuple.as_ptr().cast());
        }
        Ok(())
    }

    /// Reads pairs and puts them into an exact dict.
    fn pairs_into(&mut self, dict: &Owned, len: usize, depth: u32, owed: usize) -> Result<(), Fault> {
        let mut left = len;
        while left > 0 {
            let (base, count) = (self.stack.len(), left.min(BATCH));
            left -= count;
            self.push_values(2 * count, depth, owed + 2 * left)?;
            for index in (base..self.stack.len()).step_by(2) {
                let (key, value) = (self.stack[index].as_ptr(), self.stack[index + 1].as_ptr());
                // SAFETY: attached; live objects, which the stack holds.
                if unsafe { ffi::PyDict_SetItem(dict.as_ptr(), key, value) } != 0 {
                    return Err(Fault::Raised);
                }
            }
            self.stack.truncate(base);
        }
        Ok(())
    }

    fn elements_into(&mut self, set: &Owned, len: usize, depth: u32, owed: usize) -> Result<(), Fault> {
        let depth = deeper(depth)?;
        let base = self.stack.len();
        self.push_values(len, depth, owed)?;
        for item in &self.stack[base..] {
            // SAFETY: attached; live objects. A frozenset here is still ours alone.
            if unsafe { ffi::PySet_Add(set.as_ptr(), item.as_ptr()) } != 0 {
                return Err(Fault::Raised);
            }
        }
        self.stack.truncate(base);
        Ok(())
    }

    /// The number of a shape that the message has brought.
    fn shape(&mut self) -> Result<usize, Fault> {
        let shape = self.varint()?;
        if shape < self.shapes.len() { Ok(shape) } else { Err(Fault::Reference) }
    }

    fn class(&mut self, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let class = self.value(depth, owed)?;
        // SAFETY: attached; a live object.
        if unsafe { ffi::PyType_Check(class.as_ptr()) } == 0 {
            // SAFETY: as above.
            let py = unsafe { Python::assume_attached() };
            return Err(Fault::raise(py, PyTypeError::new_err("corrupt message: an instance of what is no class")));
        }
        Ok(class)
    }

    fn object_new(&mut self, py: Python<'_>, tag: u8, offset: usize, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let place = self.announce(tag, offset);
        let depth_of_class = deeper_object(depth)?;
        let class = self.class(depth_of_class, owed)?;
        let in_dict = self.count(owed, 1)?;
        let in_slots = self.count(owed, 1)?;
        let count = in_dict + in_slots;
        let mut names = Vec::with_capacity(count.min(256));
        for _ in 0..count {
            let text = self.value(depth_of_class, owed)?;
            // SAFETY: attached; a live object, and an exact string where it is interned.
            unsafe {
                if ffi::Py_TYPE(text.as_ptr()) != &raw mut ffi::PyUnicode_Type {
                    return Err(Fault::Tag);
                }
                let mut text = text.into_ptr();
                ffi::PyUnicode_InternInPlace(&raw mut text);
                names.push(new(text)?);
            }
        }
        let direct = state::is_direct(py, &class, &names, in_dict);
        let bare = direct && in_dict == 0 && names.len() == PATH_SLOTS.len() && is_path(py, class.as_ptr().cast());
        self.shapes.push(Shape { class, names, in_dict, direct, bare });
        let shape = self.shapes.len() - 1;
        self.object(py, shape, place, depth, owed)
    }

    /// An instance with a shape: made, then its values read, then they are put in.
    fn object(
        &mut self,
        py: Python<'_>,
        shape: usize,
        place: Option<usize>,
        depth: u32,
        owed: usize,
    ) -> Result<Owned, Fault> {
        let depth = deeper_object(depth)?;
        let Shape { class, bare, .. } = &self.shapes[shape];
        // SAFETY: attached; the shape's class is a class, and makes an instance of itself or raises.
        let object = unsafe { make(class.as_ptr().cast(), *bare, py)? };
        self.fulfil(place, &object);
        let (base, count) = (self.stack.len(), self.shapes[shape].names.len());
        self.push_values(count, depth, owed)?;
        let Shape { names, in_dict, direct, .. } = &self.shapes[shape];
        if *direct {
            for (name, value) in names.iter().zip(&self.stack[base..]) {
                // SAFETY: attached; live objects. Of a class that sets attributes as `object` does, by `is_direct`.
                let status = unsafe { ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value.as_ptr()) };
                if status != 0 {
                    return Err(Fault::Raised);
                }
            }
        } else if count > 0 {
            let state = state::of(names, *in_dict, &self.stack[base..])?;
            state::set(py, object.as_ptr(), &state)?;
        }
        self.stack.truncate(base);
        Ok(object)
    }

    fn named_new(&mut self, py: Python<'_>, tag: u8, offset: usize, depth: u32, owed: usize) -> Result<Owned, Fault> {
        let place = self.announce(tag, offset);
        let class = self.class(deeper_object(depth)?, owed)?;
        let count = self.count(owed, 1)?;
        // SAFETY: attached; a class.
        let fields = named::fields(py, class.as_ptr().cast()).map_err(|error| Fault::raise(py, error))?;
        self.shapes.push(Shape {
            class,
            names: Vec::new(),
            in_dict: count,
            direct: fields == Some(count),
            bare: false,
        });
        self.named(py, self.shapes.len() - 1, place, depth, owed)
    }

    fn named(
        &mut self,
        py: Python<'_>,
        shape: usize,
        place: Option<usize>,
        depth: u32,
        owed: usize,
    ) -> Result<Owned, Fault> {
        let depth = deeper_object(depth)? - 1;
        let Shape { class, names, in_dict: len, direct, .. } = &self.shapes[shape];
        let (class, len, direct) = (class.as_ptr().cast::<PyTypeObject>(), *len, *direct && names.is_empty());
        if len > self.left().saturating_sub(owed) {
            return Err(Fault::Length);
        }
        // SAFETY: attached; a class that the shape holds. Of a pristine one an instance is a tuple and
        // nothing else; of any other one its own `__new__` makes it.
        let object = unsafe {
            if direct && len > 0 {
                let alloc = (*class).tp_alloc.ok_or(Fault::Tag)?;
                let object = new(alloc(class, len as Py_ssize_t))?;
                #[cfg(Py_3_14)]
                {
                    (*object.as_ptr().cast::<ffi::PyTupleObject>()).ob_hash = -1;
                }
                self.fill_tuple(&object, len, depth, owed)?;
                object
            } else {
                let args = new(ffi::PyTuple_New(len as Py_ssize_t))?;
                self.fill_tuple(&args, len, depth, owed)?;
                make_with(class, args.as_ptr(), std::ptr::null_mut(), py)?
            }
        };
        self.fulfil(place, &object);
        Ok(object)
    }

    /// What a reducer said, made into the object. An echo ends behind the arguments, and nothing is made.
    #[inline(never)]
    fn reduced(
        &mut self,
        py: Python<'_>,
        place: Option<usize>,
        is_echo: bool,
        depth: u32,
        owed: usize,
    ) -> Result<Owned, Fault> {
        let depth = deeper_object(depth)?;
        let flags = self.byte()?;
        if flags & !reduced::ALL != 0 {
            return Err(Fault::Tag);
        }
        // SAFETY: attached; live objects, and tuples and dicts where they are used as such.
        let object = unsafe {
            if flags & reduced::NEW != 0 {
                let class = self.class(depth, owed)?;
                let count = self.count(owed, 1)?;
                let args = new(ffi::PyTuple_New(count as Py_ssize_t))?;
                if count > 0 {
                    self.fill_tuple(&args, count, depth, owed)?;
                }
                if is_echo { args } else { make_with(class.as_ptr().cast(), args.as_ptr(), std::ptr::null_mut(), py)? }
            } else if flags & reduced::NEW_WITH_NAMES != 0 {
                let class = self.class(depth, owed)?;
                let args = self.value(depth, owed)?;
                let names = self.value(depth, owed)?;
                if ffi::PyTuple_Check(args.as_ptr()) == 0 || ffi::PyDict_Check(names.as_ptr()) == 0 {
                    return Err(Fault::Tag);
                }
                if is_echo { args } else { make_with(class.as_ptr().cast(), args.as_ptr(), names.as_ptr(), py)? }
            } else {
                let function = self.value(depth, owed)?;
                let args = self.value(depth, owed)?;
                if ffi::PyTuple_Check(args.as_ptr()) == 0 {
                    return Err(Fault::Tag);
                }
                if is_echo {
                    args
                } else {
                    new(ffi::PyObject_Call(function.as_ptr(), args.as_ptr(), std::ptr::null_mut()))?
                }
            }
        };
        if is_echo {
            return Ok(object);
        }
        self.fulfil(place, &object);
        if flags & reduced::ITEMS != 0 {
            self.batches(1, depth, owed, |items| state::extend(py, object.as_ptr(), items))?;
        }
        if flags & reduced::PAIRS != 0 {
            self.batches(2, depth, owed, |pairs| state::update(object.as_ptr(), pairs))?;
        }
        let setter = if flags & reduced::SETTER != 0 { Some(self.value(depth, owed)?) } else { None };
        if flags & reduced::STATE != 0 {
            let value = self.value(depth, owed)?;
            match setter {
                None => state::set(py, object.as_ptr(), &value)?,
                Some(setter) => state::set_by(&setter, object.as_ptr(), &value)?,
            }
        }
        Ok(object)
    }

    /// Batches up to an empty one, each read before it is used.
    fn batches(
        &mut self,
        values_each: usize,
        depth: u32,
        owed: usize,
        mut put: impl FnMut(&[Owned]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        loop {
            let count = self.count(owed, values_each)?;
            if count == 0 {
                return Ok(());
            }
            let base = self.stack.len();
            self.push_values(values_each * count, depth, owed)?;
            put(&self.stack[base..])?;
            self.stack.truncate(base);
        }
    }

    /// A buffer as pickle's `buffers` would have it: a view of the message, or a copy of a small one.
    pub(super) fn buffer(&mut self, py: Python<'_>, tag: u8) -> Result<Owned, Fault> {
        let is_read_only = match self.byte()? {
            flag @ (0 | 1) => flag == 1,
            _ => return Err(Fault::Tag),
        };
        let len = self.varint()?;
        let data = match tag {
            tag::BUFFER => self.take(len)?.cast_mut(),
            tag::BUFFER_APART => self.segment(len)?,
            _ => return Err(Fault::Tag),
        };
        let owner = self.owner.as_ref().filter(|_| tag == tag::BUFFER_APART && len >= COPY_ONE);
        // SAFETY: the bytes lie within the message, which is readable, and writable and ours alone as long as the
        // owner lives. The view of them is new, and nobody else's.
        unsafe {
            let buffer = match owner {
                None => new(ffi::PyByteArray_FromStringAndSize(data.cast(), len as Py_ssize_t))?,
                Some(owner) => {
                    let view = Bound::new(py, View::new(data, len, owner.clone()));
                    let view = view.map_err(|error| Fault::raise(py, error))?;
                    new(ffi::PyMemoryView_FromObject(view.as_ptr()))?
                }
            };
            if !is_read_only {
                return Ok(buffer);
            }
            let view = new(ffi::PyMemoryView_FromObject(buffer.as_ptr()))?.into_bound(py);
            let view = view.call_method0(name!(py, "toreadonly")).map_err(|error| Fault::raise(py, error))?;
            Ok(view.into())
        }
    }
}

/// One level down, into an object.
fn deeper_object(depth: u32) -> Result<u32, Fault> {
    if depth + OBJECT_DEPTH <= MAX_DEPTH { Ok(depth + OBJECT_DEPTH) } else { Err(Fault::Depth) }
}

/// An instance of a class, by its `__new__` without arguments; a `bare` one by that of `object`.
unsafe fn make(class: *mut PyTypeObject, bare: bool, py: Python<'_>) -> Result<Owned, Fault> {
    // SAFETY: attached; the empty tuple is one object, which always exists. A class in Python is a subclass of `object`.
    unsafe {
        let none = new(ffi::PyTuple_New(0))?;
        if bare && let Some(make) = ffi::PyBaseObject_Type.tp_new {
            return new(make(class, none.as_ptr(), std::ptr::null_mut()));
        }
        make_with(class, none.as_ptr(), std::ptr::null_mut(), py)
    }
}

/// An instance of a class, by its `__new__`, called as pickle calls it.
unsafe fn make_with(
    class: *mut PyTypeObject,
    args: *mut PyObject,
    names: *mut PyObject,
    py: Python<'_>,
) -> Result<Owned, Fault> {
    // SAFETY: attached; a live class, a tuple, and a dict or none.
    unsafe {
        match (*class).tp_new {
            Some(make) => new(make(class, args, names)),
            None => Err(Fault::raise(py, PyTypeError::new_err("this class has no __new__"))),
        }
    }
}
