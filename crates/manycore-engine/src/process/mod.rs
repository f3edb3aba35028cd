//! Child processes: one running child, and many of them watched.
//!
//! Knows nothing of memory or tasks.

#![forbid(unsafe_code)]

mod child;
mod supervisor;

pub use child::{Child, Exit};
pub use supervisor::{Event, Supervisor};

pub use crate::os::spawn::Program;
pub use crate::os::watch::Bell;
