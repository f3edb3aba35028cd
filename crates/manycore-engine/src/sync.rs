//! The only door to atomics and to parking on a shared word.
//!
//! Everything that two processes see at once imports its atomics from here, so
//! that under `cfg(loom)` the same code runs on loom's atomics and on a model
//! of the futex. Loom does not model `SeqCst` accesses, only `SeqCst` fences;
//! the protocols therefore order themselves with [`fence`].

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
    //! The futex as loom sees it: compare and sleep are one step under a lock,
    //! and a wake of one wakes one, the first who slept on that word.

    use super::{AtomicU32, Ordering};
    use crate::error::Result;
    use loom::sync::{Condvar, Mutex};
    use std::collections::VecDeque;
    use std::time::Duration;

    loom::lazy_static! {
        static ref SLEEPERS: (Mutex<Sleepers>, Condvar) = (Mutex::new(Sleepers::default()), Condvar::new());
    }

    #[derive(Default)]
    struct Sleepers {
        next: usize,
        /// The word's address and the sleeper's number.
        asleep: VecDeque<(usize, usize)>,
    }

    /// Sleeps while `word` holds `expected`; a model knows no time.
    pub fn futex_wait(word: &AtomicU32, expected: u32, _timeout: Option<Duration>) -> Result<()> {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        if word.load(Ordering::Relaxed) != expected {
            return Ok(());
        }
        let mine = sleepers.next;
        sleepers.next += 1;
        sleepers.asleep.push_back((std::ptr::from_ref(word).addr(), mine));
        while sleepers.asleep.iter().any(|(_, number)| *number == mine) {
            sleepers = SLEEPERS.1.wait(sleepers).unwrap();
        }
        Ok(())
    }

    /// Wakes at most `count` of those who sleep on `word`.
    pub fn futex_wake(word: &AtomicU32, count: u32) {
        let mut sleepers = SLEEPERS.0.lock().unwrap();
        let (address, mut left) = (std::ptr::from_ref(word).addr(), count);
        sleepers.asleep.retain(|(at, _)| {
            let wake = *at == address && left > 0;
            left -= u32::from(wake);
            !wake
        });
        SLEEPERS.1.notify_all();
    }
}
