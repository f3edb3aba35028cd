//! The only door to atomics and to parking on a shared word.
//!
//! Everything that two processes see at once imports its atomics from here, so
//! that under `cfg(loom)` the same code runs on loom's atomics and on a model
//! of the futex. Loom does not model `SeqCst` accesses, only `SeqCst` fences;
//! the protocols therefore order themselves with [`fence`].

#![allow(clippy::disallowed_types)]

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// A fence that also orders this thread's earlier writes before its later reads.
///
/// Both ends of "publish, then look whether anybody sleeps" and "say that I
/// sleep, then look whether anything was published" need it; with weaker
/// fences both may read the old value and the sleeper is never woken.
pub fn full_fence() {
    fence(Ordering::SeqCst);
}

#[cfg(not(loom))]
pub use crate::os::park::{futex_wait, futex_wake};

#[cfg(loom)]
pub use model::{futex_wait, futex_wake};

/// A plain value in shared memory whose owner is named by a state word.
///
/// Loom checks that nobody reaches it while another writes; in life it is a
/// bare `UnsafeCell` of the same layout.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct Guarded<T>(Inner<T>);

#[cfg(not(loom))]
type Inner<T> = core::cell::UnsafeCell<T>;
#[cfg(loom)]
type Inner<T> = loom::cell::UnsafeCell<T>;

impl<T> Guarded<T> {
    /// A guarded `value`.
    pub fn new(value: T) -> Guarded<T> {
        Guarded(Inner::new(value))
    }

    /// Runs `read` on the address of the value.
    pub fn with<R>(&self, read: impl FnOnce(*const T) -> R) -> R {
        #[cfg(not(loom))]
        return read(self.0.get());
        #[cfg(loom)]
        self.0.with(read)
    }

    /// Runs `write` on the address of the value.
    pub fn with_mut<R>(&self, write: impl FnOnce(*mut T) -> R) -> R {
        #[cfg(not(loom))]
        return write(self.0.get());
        #[cfg(loom)]
        self.0.with_mut(write)
    }
}

/// One turn of a bounded spin.
pub fn spin() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

#[cfg(loom)]
mod model {
    //! The futex as loom sees it: compare and sleep are one step under a lock.
    //! A sleeper may also be woken for nothing, as in life.

    use super::{AtomicU32, Ordering};
    use crate::error::Result;
    use loom::sync::{Condvar, Mutex};
    use std::time::Duration;

    loom::lazy_static! {
        static ref QUEUE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    pub fn futex_wait(word: &AtomicU32, expected: u32, _timeout: Option<Duration>) -> Result<()> {
        let guard = QUEUE.0.lock().unwrap();
        if word.load(Ordering::Relaxed) == expected {
            drop(QUEUE.1.wait(guard).unwrap());
        }
        Ok(())
    }

    pub fn futex_wake(_word: &AtomicU32, _sleepers: u32) {
        // Every sleeper of the model shares one queue, so all are woken.
        let _guard = QUEUE.0.lock().unwrap();
        QUEUE.1.notify_all();
    }
}
