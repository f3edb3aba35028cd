//! What is decided about jobs that were accepted: when a task has had its time, and what is run again.
//!
//! Everything here is a state machine without input or output: the time is an argument, and nothing is waited for,
//! sent or called. See `README.md` beside this file.

#![forbid(unsafe_code)]

mod again;
mod deadline;

pub use again::{Again, Loss, Verdict};
pub use deadline::{Deadlines, Over, Running};
