#![doc = include_str!("../README.md")]

// So that the macros' expansions, which name the crate, also work in it.
extern crate self as manycore;

mod again;
mod builder;
pub mod channel;
mod code;
mod codec;
mod crew;
mod error;
mod failure;
#[cfg(fuzzing)]
mod fuzzing;
mod imap;
mod init;
mod invitation;
mod keeper;
mod map;
mod options;
mod passing;
mod pool;
mod porter;
mod process;
mod record;
mod registry;
mod shared;
mod start;
pub mod sync;
mod task;
mod test_support;
mod ticket;
mod values;
mod welcome;
mod worker;

pub use builder::PoolBuilder;
pub use error::{Error, Panic, Place, Result};
pub use imap::Imap;
pub use init::init;
pub use manycore_macros::{main, task};
pub use options::CallOptions;
pub use passing::Passed;
pub use pool::{Calls, Pool, Statistics};
pub use process::{Process, ProcessBuilder, Stdio};
pub use task::{Bound, Task};
pub use ticket::{Ticket, TicketFuture};
pub use values::{Arguments, Bytes, Slice};

/// How many processors the machine has, as Python's `multiprocessing.cpu_count`.
///
/// ```
/// assert!(manycore::cpu_count() >= 1);
/// ```
pub fn cpu_count() -> usize {
    manycore_engine::os::cpus::online()
}

/// How many processors this process may use: affinity and the CPU quotas of its control groups count. As many
/// workers a [`Pool`] has unless it is told otherwise.
///
/// ```
/// assert!((1..=manycore::cpu_count()).contains(&manycore::usable_cpu_count()));
/// ```
pub fn usable_cpu_count() -> usize {
    manycore_engine::os::cpus::usable()
}

/// What the macros expand to; not for use by hand.
#[doc(hidden)]
pub mod __private {
    #[cfg(fuzzing)]
    pub use crate::fuzzing::{read_chunk, read_failure, write_chunk};
    pub use crate::init::become_process;
    pub use crate::registry::{Entry, describe, open};
    pub use crate::task::bind;
    pub use crate::test_support::Helper;
    pub use inventory;
}
