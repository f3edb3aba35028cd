//! A lock that outlives its owner.
//!
//! See "The mutex" in README.md for the words and for what happens after a death.

use super::patience::Patience;
use crate::error::{Error, Kind, Result};
use crate::sync::{AtomicU64, Ordering, futex_wait_half, futex_wake_half, is_gone, own_name};
use std::time::{Duration, Instant};

/// Bit 0 of the owner's word, which no name uses: somebody may sleep here.
const SLEEPERS: u64 = 1;

/// The longest sleep before a waiter looks whether the owner still lives.
pub(super) const NAP: Duration = Duration::from_millis(64);

/// Mutual exclusion between processes and between threads, that ends with its owner.
///
/// It guards no value: what it protects lies beside it in shared memory. Zero
/// bytes are a free mutex. It belongs to the process, not to the thread: any thread
/// of the process may unlock what another has locked, and a thread that locks twice
/// waits for itself.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Mutex {
    /// The owner's name, with [`SLEEPERS`]; 0 while nobody has it.
    owner: AtomicU64,
    patience: Patience,
}

/// How a lock was taken.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was free.
    Acquired,
    /// Its owner died holding it: what it guards may be half-changed, and must be
    /// repaired before it is used.
    Recovered,
}

impl Mutex {
    /// A free mutex.
    pub fn new() -> Mutex {
        Mutex::default()
    }

    /// Takes the mutex, waiting until `deadline` at the latest (`None`: as long as it takes).
    ///
    /// # Errors
    /// [`Kind::Timeout`] after the deadline. [`Kind::Interrupted`] when a signal handler ran,
    /// and also now and then without one, about 15 times a second: a signal may come just
    /// before the sleep, which then does not notice. Look for signals and call again.
    #[inline]
    pub fn lock(&self, deadline: Option<Instant>) -> Result<Taken> {
        if self.take_free() { Ok(Taken::Acquired) } else { self.lock_slowly(deadline) }
    }

    /// Takes the mutex if that is possible at once; `None` while somebody who lives has it.
    #[inline]
    pub fn try_lock(&self) -> Option<Taken> {
        if self.take_free() { Some(Taken::Acquired) } else { self.try_recover(own_name()) }
    }

    /// Takes the mutex if it is free. Of a dead owner this does not find out.
    #[inline]
    pub fn take_free(&self) -> bool {
        self.exchange(0, own_name())
    }

    /// Gives the mutex back and wakes one waiter.
    ///
    /// Whoever calls this has it: an owner that lives is never relieved.
    #[inline]
    pub fn unlock(&self) {
        let _ = self.unlock_any();
    }

    /// As [`Mutex::unlock`], for a lock that anybody may release. False, and nothing
    /// was done, when nobody has it.
    #[inline]
    #[must_use]
    pub fn unlock_any(&self) -> bool {
        // Release: pairs with the Acquire of whoever takes it next. Of two who release at
        // once one finds it free.
        let was = self.owner.swap(0, Ordering::Release);
        if was & SLEEPERS != 0 {
            self.wake();
        }
        was != 0
    }

    /// Whether somebody has it, dead or alive.
    pub fn is_locked(&self) -> bool {
        self.owner.load(Ordering::Relaxed) != 0
    }

    /// Whether this process has it.
    #[inline]
    pub fn is_ours(&self) -> bool {
        self.owner.load(Ordering::Relaxed) & !SLEEPERS == own_name()
    }

    /// Whether somebody may sleep until it is free.
    pub fn is_awaited(&self) -> bool {
        self.owner.load(Ordering::Relaxed) & SLEEPERS != 0
    }

    #[inline]
    fn exchange(&self, from: u64, to: u64) -> bool {
        // Acquire: pairs with the Release of `unlock`.
        self.owner.compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Takes the mutex from an owner that is dead.
    fn try_recover(&self, to: u64) -> Option<Taken> {
        let seen = self.owner.load(Ordering::Relaxed);
        if seen == 0 {
            return self.exchange(0, to).then_some(Taken::Acquired);
        }
        // Its writes are as visible as they will ever be: it had ended before we asked.
        // The mark stays, for those who sleep here as we do.
        let gone = is_gone(seen & !SLEEPERS) && self.exchange(seen, to | seen & SLEEPERS);
        gone.then_some(Taken::Recovered)
    }

    #[cold]
    fn wake(&self) {
        crate::fault::point("before-mutex-wake");
        futex_wake_half(&self.owner, 1);
    }

    #[cold]
    fn lock_slowly(&self, deadline: Option<Instant>) -> Result<Taken> {
        let me = own_name();
        // Once this thread has slept, others may sleep beside it whose mark was taken
        // away when it was woken. So it takes the mutex with the mark.
        let mut taker = me;
        loop {
            if self.patience.spin(|| !self.is_locked() && self.exchange(0, taker)) {
                return Ok(Taken::Acquired);
            }
            let seen = self.owner.load(Ordering::Relaxed);
            if seen == 0 || seen & SLEEPERS == 0 && !self.exchange(seen, seen | SLEEPERS) {
                continue;
            }
            taker = me | SLEEPERS;
            let nap = match nap(deadline) {
                Ok(nap) => nap,
                // Whoever asks again and again without waiting must find out, too.
                Err(timeout) => return self.try_recover(taker).ok_or(timeout),
            };
            match futex_wait_half(&self.owner, seen | SLEEPERS, Some(nap)) {
                Ok(()) => crate::fault::point("mutex-woken"),
                Err(error) if error.kind() == Kind::Timeout => {
                    if let Some(taken) = self.try_recover(taker) {
                        return Ok(taken);
                    }
                    return Err(woke_up(deadline));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// How long to sleep now.
///
/// # Errors
/// [`Kind::Timeout`] when the deadline has passed.
pub(super) fn nap(deadline: Option<Instant>) -> Result<Duration> {
    let Some(deadline) = deadline else { return Ok(NAP) };
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(timeout()) } else { Ok(left.min(NAP)) }
}

/// The error after a nap that nothing ended.
pub(super) fn woke_up(deadline: Option<Instant>) -> Error {
    match nap(deadline) {
        Ok(_) => Error::new(Kind::Interrupted, "time to look for signals"),
        Err(timeout) => timeout,
    }
}

fn timeout() -> Error {
    Error::new(Kind::Timeout, "the time given to a wait is over")
}
