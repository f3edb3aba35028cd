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
    /// A tuple whose items are still being written. Never in a finished message:
    /// a tuple that contains itself goes by pickle, so that a decoder never
    /// shows anyone half a tuple.
    pub(in crate::codec) const OPEN_TUPLE: u8 = 0xAF;
}

/// Deeper values go by pickle, which has its own limit and its own error.
/// A thread with 256 KiB of stack has room for as many (held by a test).
pub(super) const MAX_DEPTH: u32 = 1000;

/// Bytes-like objects from this size on are not copied into the head.
pub(super) const APART: usize = 64 * 1024;

/// Segments start at multiples of this: a cache line, and enough for any SIMD.
pub(super) const ALIGN: usize = 64;

/// The next place a segment may start, or nothing if the length is absurd.
pub(super) fn align(offset: usize) -> Option<usize> {
    Some(offset.checked_add(ALIGN - 1)? & !(ALIGN - 1))
}
