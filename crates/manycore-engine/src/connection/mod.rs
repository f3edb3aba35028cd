//! Framed messages through a descriptor: what a connection is made of.
//!
//! The format is the standard package's, see `README.md` beside this file. Nothing
//! is remembered of the stream itself, and no byte is read before it is wanted:
//! whoever else holds the descriptor, here or in another process, finds it
//! readable exactly when there is something for it.

#![forbid(unsafe_code)]

mod link;
mod patience;
mod receipt;
mod sending;

pub use crate::os::transfer::{Piece, Room, pair};
pub use link::{Link, Took, Wait};
pub use receipt::{Receipt, Step};
pub use sending::{Envelope, Sending, Short};

use crate::error::{Error, Kind};

/// The engine's error for `errno` while `attempt` was made on a stream.
fn refused(attempt: &str, errno: i32) -> Error {
    if errno == rustix::io::Errno::INTR.raw_os_error() {
        return Error::new(Kind::Interrupted, format!("a signal interrupted {attempt}"));
    }
    Error::os(attempt, errno)
}
