//! Messages: what travels between two interpreters.
//!
//! `Encoder` turns objects into a head and segments, `decode` and its kin turn
//! them back. The contract is pickle's: whatever `pickle.loads(pickle.dumps(x))`
//! gives, in value, in exact type and in which objects are the same object, this
//! gives too. `README.md` in this folder says how each kind of object is written and
//! made; see `format.rs` for the bytes.

mod access;
#[cfg(not(Py_LIMITED_API))]
mod arrays;
mod bridge;
#[cfg(not(Py_LIMITED_API))]
mod build;
pub(crate) mod by_value;
mod careful;
#[cfg(not(Py_LIMITED_API))]
mod classes;
#[cfg(not(Py_LIMITED_API))]
mod dates;
#[cfg(not(Py_LIMITED_API))]
mod decimals;
mod decode;
mod encode;
mod format;
#[cfg(not(Py_LIMITED_API))]
mod globals;
mod incoming;
#[cfg(not(Py_LIMITED_API))]
mod instance;
mod leaves;
mod memo;
#[cfg(not(Py_LIMITED_API))]
mod named;
mod pickle;
pub(crate) mod python;
#[cfg(not(Py_LIMITED_API))]
mod recycle;
#[cfg(not(Py_LIMITED_API))]
mod reduce;
mod segment;
#[cfg(not(Py_LIMITED_API))]
mod state;
#[cfg(not(Py_LIMITED_API))]
mod types;

pub(crate) use bridge::with_flat;
pub(crate) use by_value::What;
pub(crate) use encode::Encoder;
pub(crate) use incoming::{Incoming, Items, blank, decode, decode_call, decode_into};
pub(crate) use pickle::{is_lasting, merged_reducers, prepare};
pub(crate) use python::{Scratch, flatten};
pub(crate) use segment::Exported;
