//! Messages: what travels between two interpreters.
//!
//! `Encoder` turns objects into a head and segments, `decode` and its kin turn
//! them back. The contract is pickle's: whatever `pickle.loads(pickle.dumps(x))`
//! gives, in value, in exact type and in which objects are the same object, this
//! gives too. Plain data takes our own path because it is some ten times faster;
//! everything else is pickle's. See `format.rs` for the bytes.

mod access;
mod bridge;
mod decode;
mod encode;
mod format;
mod incoming;
mod memo;
mod pickle;
pub(crate) mod python;
#[cfg(not(Py_LIMITED_API))]
mod recycle;
mod segment;

pub(crate) use bridge::with_flat;
pub(crate) use encode::Encoder;
pub(crate) use incoming::{Incoming, Items, blank, decode, decode_call, decode_into};
pub(crate) use pickle::{has_extra_reducers, merged_reducers, prepare};
pub(crate) use python::{Scratch, flatten};
pub(crate) use segment::Exported;
