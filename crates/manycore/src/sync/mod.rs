//! What processes use together: locks with a value, and values in shared memory.
//!
//! As `std::sync`, but between processes. Each type is a handle: clones of it, and what
//! arrives where one is given to a [`Process`](crate::Process) or
//! [`Pool`](crate::Pool) as part of an argument, are handles of the same thing. It lives in
//! shared memory without a name, as long as a process has a handle.
//!
//! ```
//! # fn main() -> manycore::Result<()> {
//! # manycore::init();
//! use manycore::Process;
//! use manycore::sync::Mutex;
//!
//! let count = Mutex::new(0u64)?;
//! let add = |count: Mutex<u64>| (0..1000).for_each(|_| *count.lock().unwrap() += 1);
//! let mut processes = Vec::new();
//! for _ in 0..2 {
//!     processes.push(Process::spawn(add, (count.clone(),))?);
//! }
//! for mut process in processes {
//!     process.join()?;
//! }
//! assert_eq!(*count.lock().unwrap(), 2000);
//! # Ok(())
//! # }
//! ```
//!
//! There are also [`Condvar`], [`Semaphore`], [`Event`] and [`Barrier`], which have no value.
//!
//! **Values** are nothing but their bytes: numbers, arrays of them, and structures that derive
//! [`bytemuck::Pod`]. A guard has a copy of the value and writes it back, if it was
//! changed, when it is dropped: a change is whole or has not happened, also where a
//! process is killed in the midst of it.
//!
//! ```compile_fail
//! // Text lies elsewhere in memory, where only its own process finds it.
//! manycore::sync::Mutex::new(String::new());
//! ```
//!
//! **A process that dies with a lock in hand** does not keep the others waiting: within a
//! tenth of a second one of them gets it, as an error, as from a poisoned lock of the standard
//! library. The value is as it was before the dead one took the lock.

mod barrier;
mod condvar;
mod event;
mod held;
mod mutex;
mod place;
mod rwlock;
mod semaphore;
mod shared;

pub use barrier::Barrier;
pub use condvar::Condvar;
pub use event::Event;
pub use mutex::{Mutex, MutexGuard};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{Permit, Semaphore};
pub use shared::Shared;

use manycore_engine::Kind;
use std::time::{Duration, Instant};

/// Waits again after an interruption; a signal's handler has run then.
fn patiently<T>(mut wait: impl FnMut() -> manycore_engine::Result<T>) -> manycore_engine::Result<T> {
    loop {
        match wait() {
            Err(error) if error.kind() == Kind::Interrupted => {}
            other => return other,
        }
    }
}

/// The end of a wait of `limit`; None where the clock does not go so far.
pub(crate) fn deadline(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

/// For errors that only a kernel without memory, or memory that somebody damaged, can give.
#[cold]
fn fail(what: &str, error: &manycore_engine::Error) -> ! {
    panic!("{what}: {error}")
}
