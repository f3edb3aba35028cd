//! The bytes of a value: the tags of the format, and why a value is refused.
//!
//! Each value begins with a tag, which says what the value is and how far it reaches. So a reader needs no
//! knowledge of the type: it can keep a value for later (`flatten`, `tag`, `untagged`), and go past one that
//! it does not want.
//!
//! | tag | the value |
//! |---|---|
//! | 00 to 7f | that whole number |
//! | 80 to 9f | a text of 0 to 31 bytes |
//! | a0 to af | a row of 0 to 15 values |
//! | b0 to bf | a structure of 0 to 15 fields, each a name and a value |
//! | c0 to c7 | a map of 0 to 7 entries, each two values |
//! | c8 to cf | -8 to -1 |
//! | from d0 | see below; numbers are little-endian, lengths and counts have seven bits in a byte |
//!
//! Fields and variants go by their names. A name is written in full where a message first has it, after a 0,
//! and later by its number among the names of the message, plus 2. After a 1 comes a name without a number.
//! `Some(value)` is the value, unless that is itself `None`, `()` or such a `Some`: then a tag goes before it.

use serde::{de, ser};
use std::fmt;

pub(super) const TEXT: u8 = 0x80;
pub(super) const ROW: u8 = 0xa0;
pub(super) const STRUCTURE: u8 = 0xb0;
pub(super) const MAP: u8 = 0xc0;
pub(super) const NEGATIVE: u8 = 0xc8;
pub(super) const UNIT: u8 = 0xd0;
pub(super) const NONE: u8 = 0xd1;
pub(super) const SOME: u8 = 0xd2;
pub(super) const FALSE: u8 = 0xd3;
pub(super) const TRUE: u8 = 0xd4;
/// Numbers that are not negative, of whatever type.
pub(super) const U8: u8 = 0xd5;
pub(super) const U16: u8 = 0xd6;
pub(super) const U32: u8 = 0xd7;
pub(super) const U64: u8 = 0xd8;
pub(super) const U128: u8 = 0xd9;
/// Numbers that are negative.
pub(super) const I8: u8 = 0xda;
pub(super) const I16: u8 = 0xdb;
pub(super) const I32: u8 = 0xdc;
pub(super) const I64: u8 = 0xdd;
pub(super) const I128: u8 = 0xde;
pub(super) const F32: u8 = 0xdf;
pub(super) const F64: u8 = 0xe0;
pub(super) const CHAR: u8 = 0xe1;
/// A length, and so many bytes.
pub(super) const LONG_TEXT: u8 = 0xe2;
pub(super) const BYTES: u8 = 0xe3;
/// A length; the bytes are the message's next segment.
pub(super) const SEGMENT: u8 = 0xe4;
/// A count, and so many values, fields or entries.
pub(super) const LONG_ROW: u8 = 0xe5;
pub(super) const LONG_STRUCTURE: u8 = 0xe6;
pub(super) const LONG_MAP: u8 = 0xe7;
/// Values or entries up to an end.
pub(super) const OPEN_ROW: u8 = 0xe8;
pub(super) const OPEN_MAP: u8 = 0xe9;
pub(super) const END: u8 = 0xea;
/// A name.
pub(super) const UNIT_VARIANT: u8 = 0xeb;
/// A name and a value: the one field of the variant, a row of fields, or a structure.
pub(super) const VARIANT: u8 = 0xec;

/// The name under which a [`Slice`](crate::Slice) goes through serde: this format then takes its bytes apart.
pub(crate) const SLICE: &str = "manycore::Slice";

/// Bytes of the stack that the code of one value may take. A thread has two megabytes unless it is told
/// otherwise.
const STACK: usize = 1 << 20;

/// Why a value is not written, or not read.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Reason>);

#[derive(Debug)]
struct Reason {
    message: String,
    /// Whether the message says in which field or variant.
    is_placed: bool,
}

impl Refusal {
    #[cold]
    pub(super) fn new(message: impl Into<String>) -> Refusal {
        Refusal(Box::new(Reason { message: message.into(), is_placed: false }))
    }

    /// It befell the field `name` of `of`. The innermost place counts.
    #[cold]
    pub(super) fn in_field(mut self, name: &str, of: &str) -> Refusal {
        if !of.is_empty() {
            return self.placed(|| format!("field `{name}` of `{of}`"));
        }
        // The type is not known here, but to the one that asked for this value.
        if !self.0.is_placed {
            self.0.message = format!("field `{name}`: {}", self.0.message);
        }
        self
    }

    /// It befell the variant `name` of `of`.
    #[cold]
    pub(super) fn in_variant(self, name: &str, of: &str) -> Refusal {
        self.placed(|| format!("variant `{name}` of `{of}`"))
    }

    fn placed(mut self, place: impl FnOnce() -> String) -> Refusal {
        if !self.0.is_placed {
            self.0.message = format!("{}: {}", place(), self.0.message);
            self.0.is_placed = true;
        }
        self
    }

    #[cold]
    pub(super) fn ends() -> Refusal {
        Refusal::new("the bytes end before the value does")
    }

    #[cold]
    pub(super) fn too_deep() -> Refusal {
        Refusal::new("values lie too deep in one another; keep them in a row, with indices for references")
    }
}

/// What helps against the refusals of serde's own code that are a matter of attributes.
fn remedy(message: &str) -> Option<&'static str> {
    let remedies = [
        (
            "cannot be serialized",
            "take #[serde(skip)] off the variant, or give its fields #[serde(skip)] or #[serde(with = ...)]",
        ),
        (
            "cannot serialize tagged newtype variant",
            "beside #[serde(tag = ...)] write #[serde(content = ...)], or make it a variant with named fields",
        ),
        ("can only flatten structs and maps", "take #[serde(flatten)] off the field"),
    ];
    remedies.into_iter().find(|(part, _)| message.contains(part)).map(|(_, remedy)| remedy)
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Refusal {}

impl ser::Error for Refusal {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Refusal {
        let mut message = message.to_string();
        if let Some(remedy) = remedy(&message) {
            message = format!("{message}; {remedy}");
        }
        Refusal::new(message)
    }
}

impl de::Error for Refusal {
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Refusal {
        <Refusal as ser::Error>::custom(message)
    }

    #[cold]
    fn missing_field(field: &'static str) -> Refusal {
        Refusal::new(format!(
            "missing field `{field}`; a field that is not always written (skip_serializing, skip_serializing_if) needs \
             #[serde(default)]"
        ))
    }

    #[cold]
    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Refusal {
        let expected = expected.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        Refusal::new(format!(
            "unknown variant `{variant}`, expected one of {expected}; a variant that is written must be one that is \
             read, under the same name (skip_deserializing, rename)"
        ))
    }
}

/// Where the stack was when a value began: the code of values that lie in one another calls itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground(usize);

impl Ground {
    #[inline]
    pub(super) fn here() -> Ground {
        let mark = 0u8;
        Ground((&raw const mark).addr())
    }

    /// Refuses to go deeper before the stack ends.
    #[inline]
    pub(super) fn check(self) -> Result<(), Refusal> {
        if Ground::here().0.abs_diff(self.0) > STACK { Err(Refusal::too_deep()) } else { Ok(()) }
    }
}
