//! What the encoder knows of types: how their instances are written.
//!
//! Found out once and kept as long as the type is the same: by its address and the number that
//! the interpreter gives each state of a type, which it never gives again. A type that is
//! changed, or another one in its place, has another number and is looked at anew. Whether somebody
//! registered a reducer for it is asked once a message, of `copyreg`'s table and of ours.
//!
//! # Why this file is unsafe
//!
//! It reads types where they lie, and looks attributes up as the interpreter does for itself:
//! no code of anybody's runs for that, not even a metaclass's.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use pyo3::exceptions::PyException;
use pyo3::ffi::{self, PyObject, PyTypeObject};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::access::Owned;
use super::encode::Stop;
use super::named;
use super::types::{self, finds_as_object, lookup, version};
use crate::known::{Known, name};

/// How instances of a type are written.
#[derive(Clone)]
pub(super) enum How {
    /// As a name: a class or a function.
    Reference,
    /// As a name, unless a reducer is registered: a class whose metaclass is not `type`.
    Class,
    /// Attribute by attribute.
    Plain(Rc<Layout>),
    /// As the items of a tuple, so many.
    Named(usize),
    /// A buffer of pickle's protocol 5.
    Buffer,
    /// By a file of its own.
    Special(Special),
    /// As the object itself says: by `__reduce_ex__`.
    Reduced,
}

/// Types whose instances are read without asking them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    Date,
    Time,
    DateTime,
    Delta,
    Decimal,
    Array,
    /// Of a type of NumPy's, by its place among them.
    Scalar(u8),
}

/// Where the attributes of an ordinary class's instances are.
pub(super) struct Layout {
    pub(super) has_dict: bool,
    /// The names of its slots, and how far from the object's start each lies.
    pub(super) slots: Vec<(Py<PyAny>, usize)>,
    /// An instance that has not all of them is written as it says itself.
    pub(super) needs_all: bool,
}

/// What is known of one type.
pub(super) struct Class {
    pub(super) how: How,
    version: u32,
    /// The message for which the rest was found out.
    message: u64,
    /// Null if there is none; held by the message.
    pub(super) reducer: *mut PyObject,
    /// The shapes that this message has of its instances.
    pub(super) shapes: Vec<u32>,
}

/// All types that were met, and the message that is being written. Dropped with its thread, it may find no
/// interpreter: so it owns no reference but such as PyO3 gives back later.
pub(super) struct Classes {
    known: HashMap<usize, Class, BuildHasherDefault<Spread>>,
    message: u64,
}

/// More types than this are forgotten together: programs that make classes without end keep none of ours.
const MOST: usize = 4096;

/// Addresses, spread over the table.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_usize(usize::from(*byte)));
    }

    fn write_usize(&mut self, value: usize) {
        self.0 = (self.0 ^ value as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}

impl Classes {
    /// Allocates nothing.
    pub(super) const fn new() -> Self {
        Self { known: HashMap::with_hasher(BuildHasherDefault::new()), message: 1 }
    }

    /// What was found out for one message counts no longer.
    pub(super) fn next_message(&mut self) {
        self.message += 1;
    }

    /// What is known of an object's type. `Again`: code may have run, the type is known now. `Careful`:
    /// code would have to run and `careful` is not set.
    pub(super) unsafe fn of(
        &mut self,
        object: *mut PyObject,
        careful: bool,
        keep: &mut Vec<Owned>,
    ) -> Result<&mut Class, Stop> {
        // SAFETY: attached; a live object keeps its type alive.
        unsafe {
            let kind = ffi::Py_TYPE(object);
            let (address, version) = (kind.addr(), version(kind));
            let known = self.known.get(&address).is_some_and(|class| class.version == version && version != 0);
            if !known {
                self.learn(kind)?;
                if !careful {
                    return Err(if version_is_kept(kind) { Stop::Again } else { Stop::Careful });
                }
            }
            let message = self.message;
            let class = self.known.get_mut(&address).ok_or(Stop::Foreign)?;
            if class.message != message {
                class.message = message;
                class.shapes.clear();
                // Classes are asked for their hash by the table, and theirs may be anybody's code.
                if !careful && !hashes_as_type(kind) {
                    class.message = 0;
                    return Err(Stop::Careful);
                }
                class.reducer = match registered(kind)? {
                    None => std::ptr::null_mut(),
                    Some(reducer) => {
                        let address = reducer.as_ptr();
                        keep.push(reducer);
                        address
                    }
                };
            }
            Ok(class)
        }
    }

    /// Looks at a type. Code may run.
    unsafe fn learn(&mut self, kind: *mut PyTypeObject) -> Result<(), Stop> {
        // SAFETY: attached; a live type.
        let py = unsafe { Python::assume_attached() };
        let how = match how(py, kind) {
            Ok(how) => how,
            Err(error) if error.is_instance_of::<PyException>(py) => How::Reduced,
            Err(error) => {
                error.restore(py);
                return Err(Stop::Raised);
            }
        };
        if self.known.len() >= MOST {
            self.known.clear();
        }
        // SAFETY: as above.
        let version = unsafe { version(kind) };
        let class = Class { how, version, message: 0, reducer: std::ptr::null_mut(), shapes: Vec::new() };
        self.known.insert(kind.addr(), class);
        Ok(())
    }
}

/// Whether what was found out about the type can be found again.
unsafe fn version_is_kept(kind: *mut PyTypeObject) -> bool {
    // SAFETY: a live type.
    unsafe { version(kind) != 0 }
}

/// Whether a type has what `object` has under a name.
unsafe fn inherits(kind: *mut PyTypeObject, name: &Bound<'_, PyAny>) -> bool {
    // SAFETY: as above.
    unsafe { lookup(kind, name) == lookup(&raw mut ffi::PyBaseObject_Type, name) }
}

/// Whether hashing this class runs no code.
unsafe fn hashes_as_type(kind: *mut PyTypeObject) -> bool {
    // SAFETY: live types.
    let (its_own, of_types) = unsafe { ((*ffi::Py_TYPE(kind.cast())).tp_hash, ffi::PyType_Type.tp_hash) };
    matches!((its_own, of_types), (Some(its_own), Some(of_types)) if std::ptr::fn_addr_eq(its_own, of_types))
}

/// The reducer that a program has registered for exactly this type.
unsafe fn registered(kind: *mut PyTypeObject) -> Result<Option<Owned>, Stop> {
    static COPYREG: Known<Py<PyDict>> = Known::new();
    // SAFETY: attached, as all of the codec is.
    let py = unsafe { Python::assume_attached() };
    let tables = (super::pickle::extra_reducers(py), COPYREG.import(py, "copyreg", "dispatch_table"));
    let Ok(copyreg) = tables.1 else { return Err(Stop::Foreign) };
    for table in tables.0.iter().chain([copyreg]) {
        // SAFETY: a dict and a type; what it finds is borrowed, and counted at once.
        unsafe {
            let found = ffi::PyDict_GetItemWithError(table.as_ptr(), kind.cast());
            if !found.is_null() {
                return Ok(Some(Owned::borrow(found)));
            }
            if !ffi::PyErr_Occurred().is_null() {
                return Err(Stop::Raised);
            }
        }
    }
    Ok(None)
}

/// Looks at a type: in the order in which pickle decides.
fn how(py: Python<'_>, kind: *mut PyTypeObject) -> PyResult<How> {
    static BUFFER: Known<Py<PyAny>> = Known::new();
    // SAFETY: attached; a live type, read where it lies.
    unsafe {
        if kind == &raw mut ffi::PyType_Type || kind == &raw mut ffi::PyFunction_Type {
            return Ok(How::Reference);
        }
        if ffi::PyType_IsSubtype(kind, &raw mut ffi::PyType_Type) != 0 {
            return Ok(How::Class);
        }
        if kind.cast() == BUFFER.import(py, "_pickle", "PickleBuffer")?.as_ptr() {
            return Ok(How::Buffer);
        }
        let special = super::dates::special(py, kind)
            .or_else(|| super::arrays::special(py, kind))
            .or_else(|| super::decimals::special(py, kind));
        if let Some(special) = special {
            return Ok(How::Special(special));
        }
        let is_heap = (*kind).tp_flags & ffi::Py_TPFLAGS_HEAPTYPE != 0;
        if !is_heap || !hashes_as_type(kind) || !finds_as_object(kind) {
            return Ok(How::Reduced);
        }
        if types::is_path(py, kind)
            && let Some(mut layout) = layout(py, kind)?
        {
            layout.slots.retain(|slot| types::PATH_SLOTS.iter().any(|kept| slot.0.bind(py).eq(kept).unwrap_or(false)));
            layout.needs_all = true;
            let is_whole = !layout.has_dict && layout.slots.len() == types::PATH_SLOTS.len();
            return Ok(if is_whole { How::Plain(Rc::new(layout)) } else { How::Reduced });
        }
        let asked = [name!(py, "__reduce_ex__"), name!(py, "__reduce__"), name!(py, "__class__")];
        if !asked.into_iter().all(|name| inherits(kind, name)) {
            return Ok(How::Reduced);
        }
        if types::is_uuid(py, kind) {
            return Ok(layout(py, kind)?.map_or(How::Reduced, |layout| How::Plain(Rc::new(layout))));
        }
        if !inherits(kind, name!(py, "__getstate__")) {
            return Ok(How::Reduced);
        }
        if let Some(fields) = named::fields(py, kind)? {
            return Ok(How::Named(fields));
        }
        let unwanted = [name!(py, "__getnewargs_ex__"), name!(py, "__getnewargs__"), name!(py, "__setstate__")];
        if unwanted.into_iter().any(|name| !lookup(kind, name).is_null()) {
            return Ok(How::Reduced);
        }
        Ok(layout(py, kind)?.map_or(How::Reduced, |layout| How::Plain(Rc::new(layout))))
    }
}

/// The layout of a class whose instances consist of a dict and slots, and of nothing else.
unsafe fn layout(py: Python<'_>, kind: *mut PyTypeObject) -> PyResult<Option<Layout>> {
    static SLOT_NAMES: Known<Py<PyAny>> = Known::new();
    // SAFETY: attached; a live heap type, read where it lies. A slot's place is taken from a descriptor of
    // the interpreter's own kind, made for this type or a base of it.
    unsafe {
        let is_container = ffi::Py_TPFLAGS_LIST_SUBCLASS | ffi::Py_TPFLAGS_DICT_SUBCLASS;
        if (*kind).tp_flags & is_container != 0 || (*kind).tp_itemsize != 0 {
            return Ok(None);
        }
        let class: Bound<'_, PyAny> = Bound::from_borrowed_ptr(py, kind.cast());
        let names = SLOT_NAMES.import(py, "copyreg", "_slotnames")?.call1((&class,))?;
        let Ok(names) = names.cast_exact::<PyList>() else { return Ok(None) };
        let has_dict = (*kind).tp_dictoffset != 0 || (*kind).tp_flags & ffi::Py_TPFLAGS_MANAGED_DICT != 0;
        if has_dict && !is_of(lookup(kind, name!(py, "__dict__")), &raw mut ffi::PyGetSetDescr_Type) {
            return Ok(None);
        }
        // The sum that `object.__reduce_ex__` makes, to find types with more in them than it can see.
        let word = size_of::<usize>() as ffi::Py_ssize_t;
        let mut size = ffi::PyBaseObject_Type.tp_basicsize + word * names.len() as ffi::Py_ssize_t;
        if has_dict && (*kind).tp_flags & ffi::Py_TPFLAGS_MANAGED_DICT == 0 {
            size += word;
        }
        if (*kind).tp_weaklistoffset > 0 {
            size += word;
        }
        if (*kind).tp_basicsize > size {
            return Ok(None);
        }
        let mut slots = Vec::with_capacity(names.len());
        for slot in names {
            let descriptor = lookup(kind, &slot);
            if !is_of(descriptor, &raw mut ffi::PyMemberDescr_Type) {
                return Ok(None);
            }
            let descriptor = descriptor.cast::<ffi::PyMemberDescrObject>();
            let member = (*descriptor).d_member;
            let is_object = (*member).type_code == ffi::Py_T_OBJECT_EX && (*member).flags == 0;
            if !is_object || ffi::PyType_IsSubtype(kind, (*descriptor).d_common.d_type) == 0 {
                return Ok(None);
            }
            slots.push((slot.unbind(), (*member).offset as usize));
        }
        Ok(Some(Layout { has_dict, slots, needs_all: false }))
    }
}

/// Whether an object, which may be null, is of exactly this type.
unsafe fn is_of(object: *mut PyObject, kind: *mut PyTypeObject) -> bool {
    // SAFETY: null or a live object.
    unsafe { !object.is_null() && ffi::Py_TYPE(object) == kind }
}
