//! Values on their way between processes: written by serde, but for long runs of plain
//! numbers, which are copied as they lie in memory.
//!
//! What travels is a head and any number of segments. The head is in the format of `codec/`. A
//! [`Slice`] anywhere in a value, and a `Vec` of numbers that *is* an argument or a
//! result, is a value of bytes there; long ones are the next segment.
//!
//! Segments are copied once into shared memory. Their receiver uses them in place
//! (`Slice`) or copies them out (`Vec`).

mod arguments;
mod parts;
mod plain;
mod slice;
#[cfg(test)]
mod tests;

pub use arguments::Arguments;
pub(crate) use parts::{Part, offer, offered, received, take_received};
pub(crate) use plain::{read_plain, write_plain};
pub use slice::{Bytes, Slice};

/// From this many bytes on a run of numbers is a segment. Below, two copies of it are
/// cheaper than a segment's start at the next cache line, and the engine's views
/// in place start at this size.
pub(crate) const SEGMENT_FROM: usize = 1 << 16;
