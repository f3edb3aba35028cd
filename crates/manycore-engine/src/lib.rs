//! The engine of manycore: bytes, processes and shared memory.
//!
//! # What this crate does not do
//!
//! It knows no Python and no serde: it moves bytes to worker processes, runs a
//! face's loop around them, and gives an answer for every task, whatever
//! becomes of the worker. The faces give the bytes a meaning: `manycore` for
//! Rust programs, the Python package for Python's.
//!
//! The rooms, from the floor up:
//!
//! - [`error`]: one [`Error`], few kinds.
//! - [`sync`]: the only door to atomics and parking.
//! - [`os`]: what we ask of the kernel, made safe.
//! - [`shm`]: memory two processes see at once.
//! - [`process`]: one running child, and many of them watched.
//! - [`connection`]: framed messages through a descriptor.
//! - [`dispatch`]: when a task has had its time, and what is run again.
//! - [`pool`]: tasks, jobs and the worker's loop.

#[cfg(not(loom))]
pub mod connection;
pub mod dispatch;
pub mod error;
pub mod fault;
#[cfg(not(loom))]
pub mod os;
#[cfg(not(loom))]
pub mod pool;
#[cfg(not(loom))]
pub mod process;
pub mod shm;
pub mod sync;

pub use error::{Error, Kind, Result};
