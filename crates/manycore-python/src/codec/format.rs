//! The bytes of a message.
//!
//! ```text
//! [head][pad to 64][segment 0][pad to 64][segment 1]...
//! ```
//!
//! The head's first byte says who wrote it:
//!
//! - `NATIVE`: one value follows.
//! - `NATIVE_CALL`: two values follow, a tuple (args) and a dict or `None` (kwargs).
//! - `OPEN`, `OPEN_CALL`: as `NATIVE` and `NATIVE_CALL`, with instances of classes in it, so
//!   that reading may run any code.
//! - `PICKLED`: a count of segments, their lengths, and a pickle to the end of the head.
//! - `PICKLED_APART`: the same, but the pickle is segment 0 (it was large, and a
//!   second copy of it would cost more than the padding).
//!
//! A value is a tag byte and what the tag asks for. A tag below 128 is that
//! int. Counts, lengths and offsets are LEB128, everything else little-endian.
//! A tag that may be referred to again has a `SHARED` bit, set afterwards by the
//! encoder when it meets the object a second time: the decoder remembers
//! nothing about objects that were met once. `REF` names the offset of the
//! tag in the head. Segments are used up in the order of their tags.

/// Starts a head whose one value is in our own codec.
pub(super) const NATIVE: u8 = 1;
/// Starts a head that holds `(args, kwargs)` in our own codec.
pub(super) const NATIVE_CALL: u8 = 2;
/// Starts a head with a pickle in it.
pub(super) const PICKLED: u8 = 3;
/// Starts a head whose pickle is the first segment.
pub(super) const PICKLED_APART: u8 = 4;

/// As `NATIVE`, for a value that code is called to make.
pub(super) const OPEN: u8 = 5;
/// As `NATIVE_CALL`, for values that code is called to make.
pub(super) const OPEN_CALL: u8 = 6;

/// Ints below this are their own tag.
pub(super) const SMALL_INTS: i64 = 128;

/// Set in a shareable tag: a `REF` to this offset follows later.
pub(super) const SHARED: u8 = 0x40;

pub(super) mod tag {
    pub(in crate::codec) const NONE: u8 = 0x80;
    pub(in crate::codec) const FALSE: u8 = 0x81;
    pub(in crate::codec) const TRUE: u8 = 0x82;
    /// An int in 1, 2, 4 or 8 bytes, two's complement.
    pub(in crate::codec) const INT_1: u8 = 0x83;
    pub(in crate::codec) const INT_2: u8 = 0x84;
    pub(in crate::codec) const INT_4: u8 = 0x85;
    pub(in crate::codec) const INT_8: u8 = 0x86;
    /// A length and that many bytes, two's complement.
    pub(in crate::codec) const INT_BIG: u8 = 0x87;
    pub(in crate::codec) const FLOAT: u8 = 0x88;
    /// The offset of a shared tag.
    pub(in crate::codec) const REF: u8 = 0x89;
    /// The empty tuple is one object for the whole interpreter: never shared.
    pub(in crate::codec) const EMPTY_TUPLE: u8 = 0x8A;

    /// Whether it is read-only (0 or 1), and a length: the bytes are the next segment.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const BUFFER_APART: u8 = 0x8B;
    /// Whether it is read-only, a length, and the bytes.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const BUFFER: u8 = 0x8C;
    /// As TUPLE, FROZENSET and REDUCE, of an object that was met again among its own parts. Those are read for what
    /// is referred to in them; the object is the value that follows, a REF to where it was met again.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const ECHO_TUPLE: u8 = 0x8D;
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const ECHO_FROZENSET: u8 = 0x8E;
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const ECHO_REDUCE: u8 = 0x8F;

    // From here on tags have the SHARED bit.

    pub(in crate::codec) const COMPLEX: u8 = 0xA0;
    /// A length in bytes and text. How many bytes a character has is the
    /// interpreter's own choice for the string, so both ends only copy.
    pub(in crate::codec) const ASCII: u8 = 0xA1;
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const TEXT_1: u8 = 0xA2;
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const TEXT_2: u8 = 0xA3;
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const TEXT_4: u8 = 0xA4;
    /// What the stable ABI can see of a string: UTF-8, lone surrogates passed.
    #[cfg(Py_LIMITED_API)]
    pub(in crate::codec) const TEXT_UTF8: u8 = 0xA5;
    pub(in crate::codec) const BYTES: u8 = 0xA6;
    pub(in crate::codec) const BYTEARRAY: u8 = 0xA7;
    /// Only a length: the bytes are the next segment.
    pub(in crate::codec) const BYTES_APART: u8 = 0xA8;
    pub(in crate::codec) const BYTEARRAY_APART: u8 = 0xA9;
    pub(in crate::codec) const LIST: u8 = 0xAA;
    pub(in crate::codec) const TUPLE: u8 = 0xAB;
    pub(in crate::codec) const DICT: u8 = 0xAC;
    pub(in crate::codec) const SET: u8 = 0xAD;
    pub(in crate::codec) const FROZENSET: u8 = 0xAE;
    /// A tuple, or frozenset, whose items are still being written. Never in a finished message:
    /// one that contains itself is written carefully, as an ECHO, so that a decoder never
    /// shows anyone half a tuple.
    pub(in crate::codec) const OPEN_TUPLE: u8 = 0xAF;

    // The tags of OPEN messages.

    /// A class or function: the lengths and the UTF-8 of its module's name and of its own.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const GLOBAL: u8 = 0xB0;
    /// A class or function as the pickler makes it: a count and so many buffers, a length and the pickle.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const EMBEDDED: u8 = 0xB1;
    /// The first instance with this shape: the class, how many of its attributes are in its dict, how many in slots,
    /// their names, their values.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const OBJECT_NEW: u8 = 0xB2;
    /// Another instance: the number of its shape, counted from 0 over the message, and the values.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const OBJECT: u8 = 0xB3;
    /// The first tuple of a class: the class, a count, the items. It counts as a shape.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const NAMED_NEW: u8 = 0xB4;
    /// Another one: the number of its shape, the items.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const NAMED: u8 = 0xB5;
    /// A date, time or difference of `datetime`; see `dates.rs`.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const DATE: u8 = 0xB7;
    /// An array of numbers: its type of item, its order, its shape, its bytes; see `arrays.rs`.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const ARRAY: u8 = 0xB8;
    /// A scalar of NumPy: its type, a length, its bytes.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const SCALAR: u8 = 0xB9;
    /// A decimal: a length, and its digits in ASCII.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const DECIMAL: u8 = 0xBA;
    /// What `__reduce_ex__` gave: a byte that says what is there (`reduced`), then that.
    #[cfg(not(Py_LIMITED_API))]
    pub(in crate::codec) const REDUCE: u8 = 0xB6;
}

/// What a REDUCE consists of, in this order. A function and its arguments, a tuple; or else:
#[cfg(not(Py_LIMITED_API))]
pub(super) mod reduced {
    /// A class, a count and so many arguments of its `__new__`.
    pub(in crate::codec) const NEW: u8 = 1;
    /// A class, a tuple and a dict of arguments of its `__new__`.
    pub(in crate::codec) const NEW_WITH_NAMES: u8 = 2;
    /// Items to append: counts, none above `BATCH`, each with so many items; the last is 0.
    pub(in crate::codec) const ITEMS: u8 = 4;
    /// Keys and values to set, in batches as well.
    pub(in crate::codec) const PAIRS: u8 = 8;
    /// A state.
    pub(in crate::codec) const STATE: u8 = 16;
    /// In front of the state: a function that sets it.
    pub(in crate::codec) const SETTER: u8 = 32;
    /// All of them.
    pub(in crate::codec) const ALL: u8 = 63;
}

/// How many items pickle reads before it puts them into their container.
#[cfg(not(Py_LIMITED_API))]
pub(super) const BATCH: usize = 1000;

/// Deeper values go by pickle, which has its own limit and its own error.
/// A thread with 256 KiB of stack has room for as many (held by a test).
pub(super) const MAX_DEPTH: u32 = 1000;

/// So many levels an object counts that is more than a container: more stack is used for it.
#[cfg(not(Py_LIMITED_API))]
pub(super) const OBJECT_DEPTH: u32 = 4;

/// Bytes-like objects from this size on are not copied into the head.
pub(super) const APART: usize = 64 * 1024;

/// Segments start at multiples of this: a cache line, and enough for any SIMD.
pub(super) const ALIGN: usize = 64;

/// The next place a segment may start, or nothing if the length is absurd.
pub(super) fn align(offset: usize) -> Option<usize> {
    Some(offset.checked_add(ALIGN - 1)? & !(ALIGN - 1))
}
