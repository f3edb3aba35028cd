//! Lists and tuples that the items of a stream are decoded into, one after the other.
//!
//! A function that is called for each item has mostly dropped one by the time the item
//! after the next is read. Its containers then serve again, as `zip` uses its tuple
//! again: allocating and freeing them was a third of what a short row cost. Two items
//! are kept, because the loop that asks for the next one still holds the last.
//!
//! # Why this file is unsafe
//!
//! It looks into objects by raw pointers, see `access.rs`, and changes tuples that
//! nobody else can see.
#![allow(unsafe_code)]

use pyo3::ffi::{self, PyObject};

use super::access::{self, Owned};
use super::decode::{Decoder, Fault, deeper};
use super::format::tag;

/// The last two items of a stream.
#[derive(Default)]
pub(super) struct Shells {
    kept: [Option<Owned>; 2],
    turn: usize,
    /// What was replaced and may run code as it goes: not before the item is whole.
    gone: Vec<Owned>,
}

/// Longer containers are not worth a look at each of their items.
const LONGEST: usize = 16;

impl Shells {
    /// The next item of a list message, with `owed` to follow.
    #[inline]
    pub(super) fn next(&mut self, decoder: &mut Decoder, owed: usize) -> Result<Owned, Fault> {
        if let Some(value) = decoder.small_int() {
            return Ok(decoder.small_ints.make(value));
        }
        self.turn ^= 1;
        let item = match self.kept[self.turn].take() {
            // SAFETY: attached; a live object.
            Some(old) => unsafe { refill(decoder, old.as_ptr(), &mut self.gone, 1, owed)? }.unwrap_or(old),
            None => decoder.value(1, owed)?,
        };
        if !self.gone.is_empty() {
            self.gone.clear();
        }
        // SAFETY: attached; a live object, of which we take a reference.
        unsafe {
            if shape(item.as_ptr()).is_some() {
                self.kept[self.turn] = Some(Owned::borrow(item.as_ptr()));
            }
        }
        Ok(item)
    }
}

/// One value, into the containers of `old` as far as they have its shape and nobody else
/// refers to them: `None` then. Otherwise a new object, and `old` may hold part of the value.
///
/// # Safety
///
/// `old` is a live object, and stays one.
unsafe fn refill(
    decoder: &mut Decoder,
    old: *mut PyObject,
    gone: &mut Vec<Owned>,
    depth: u32,
    owed: usize,
) -> Result<Option<Owned>, Fault> {
    let tag = decoder.byte()?;
    if tag < 0x80 {
        return Ok(Some(decoder.small_ints.make(tag)));
    }
    // One that is referred to later has to be remembered, so it is made anew.
    if tag != tag::LIST && tag != tag::TUPLE {
        return decoder.tagged(tag, depth, owed).map(Some);
    }
    let offset = decoder.last();
    let new = Shape { is_list: tag == tag::LIST, len: decoder.count(owed, 1)? };
    // SAFETY: a live object of which we hold the only reference, if it is to be filled
    // again; so it has the same shape all the while.
    unsafe {
        if shape(old) != Some(new) || ffi::Py_REFCNT(old) != 1 {
            let make = if new.is_list { Decoder::list_of } else { Decoder::tuple_of };
            return make(decoder, new.len, tag, offset, depth, owed).map(Some);
        }
        let depth = deeper(depth)?;
        let mut index = 0;
        while index < new.len {
            for value in decoder.next_small_ints(new.len - index) {
                let place = access::place(old, index, new.is_list);
                // The arguments that stay the same from row to row are not even counted.
                if !decoder.small_ints.is(value, *place) {
                    replace(place, decoder.small_ints.make(value), gone);
                }
                index += 1;
            }
            if index < new.len {
                let former = *access::place(old, index, new.is_list);
                let item = refill(decoder, former, gone, depth, owed + (new.len - index - 1))?;
                // Before 3.12 a new object may start the collector, and that any code, which
                // may find even what only we refer to.
                if cfg!(not(Py_3_12)) && shape(old) != Some(new) {
                    return Err(Fault::Reference);
                }
                if let Some(item) = item {
                    replace(access::place(old, index, new.is_list), item, gone);
                }
                index += 1;
            }
        }
        if !new.is_list {
            access::track(old);
        }
    }
    Ok(None)
}

/// Puts `item` into a place of a container. What was there goes, at once if it runs no code then.
#[inline]
unsafe fn replace(place: *mut *mut PyObject, item: Owned, gone: &mut Vec<Owned>) {
    // SAFETY: the place holds a reference to a live object.
    unsafe {
        if let Some(old) = Owned::new(std::mem::replace(&mut *place, item.into_ptr()))
            && !is_inert(old.as_ptr())
        {
            gone.push(old);
        }
    }
}

/// A container that may be filled again.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Shape {
    /// Otherwise a tuple.
    is_list: bool,
    len: usize,
}

/// The shape of an exact list or tuple; none of an empty or a long one.
///
/// Tuples remember their hash from 3.14 on, so they are not filled again. Where
/// threads count references on their own, a count of one proves nothing.
#[inline]
unsafe fn shape(object: *mut PyObject) -> Option<Shape> {
    // SAFETY: a live object, whose exact type decides what is asked of it.
    let shape = unsafe {
        let kind = ffi::Py_TYPE(object);
        if cfg!(Py_GIL_DISABLED) {
            return None;
        } else if kind == &raw mut ffi::PyList_Type {
            Shape { is_list: true, len: access::list_len(object) }
        } else if cfg!(not(Py_3_14)) && kind == &raw mut ffi::PyTuple_Type {
            Shape { is_list: false, len: access::tuple_len(object) }
        } else {
            return None;
        }
    };
    (1..=LONGEST).contains(&shape.len).then_some(shape)
}

/// Whether an object runs no code as it goes: an exact one of these types.
#[inline]
unsafe fn is_inert(object: *mut PyObject) -> bool {
    // SAFETY: a live object, and attached.
    unsafe { ffi::Py_TYPE(object) == &raw mut ffi::PyLong_Type || is_inert_too(object) }
}

/// Those that rows have less often than ints.
#[cold]
unsafe fn is_inert_too(object: *mut PyObject) -> bool {
    // SAFETY: a live object, and attached.
    let (kind, none) = unsafe { (ffi::Py_TYPE(object), ffi::Py_None()) };
    kind == &raw mut ffi::PyFloat_Type
        || kind == &raw mut ffi::PyUnicode_Type
        || kind == &raw mut ffi::PyBool_Type
        || kind == &raw mut ffi::PyBytes_Type
        || object == none
}
