//! The two locks a program asks for by name.
//!
//! See "Lock and recursive lock" in README.md.

use super::mutex::{Mutex, Taken};
use crate::error::{Error, Kind, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering, own_thread};
use std::time::Instant;

/// A lock that anybody may release, whoever has taken it. It ends with its owner's process.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Lock {
    mutex: Mutex,
    /// The thread that took it last.
    thread: AtomicU64,
}

/// A lock that its owner, a thread of a process, may take again. It ends with its owner's process.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RecursiveLock {
    mutex: Mutex,
    /// The owner; 0 while there is none. No thread of another process has the same number.
    thread: AtomicU64,
    /// How often the owner has taken it, less one.
    again: AtomicU32,
}

impl Lock {
    /// Takes the lock; see [`Mutex::lock`] for the errors.
    #[inline]
    pub fn lock(&self, deadline: Option<Instant>) -> Result<Taken> {
        let taken = self.mutex.lock(deadline)?;
        self.thread.store(own_thread(), Ordering::Relaxed);
        Ok(taken)
    }

    /// Takes the lock if that is possible at once.
    #[inline]
    pub fn try_lock(&self) -> Option<Taken> {
        let taken = self.mutex.try_lock()?;
        self.thread.store(own_thread(), Ordering::Relaxed);
        Some(taken)
    }

    /// Takes the lock if it is free. Of a dead owner this does not find out.
    #[inline]
    pub fn take_free(&self) -> bool {
        let taken = self.mutex.take_free();
        if taken {
            self.thread.store(own_thread(), Ordering::Relaxed);
        }
        taken
    }

    /// Gives the lock back, whoever has it. False when nobody has.
    #[inline]
    #[must_use]
    pub fn release(&self) -> bool {
        self.mutex.unlock_any()
    }

    /// Whether somebody has it.
    pub fn is_locked(&self) -> bool {
        self.mutex.is_locked()
    }

    /// Whether a thread of this process has it.
    pub fn is_ours(&self) -> bool {
        self.mutex.is_ours()
    }

    /// Whether this thread has it.
    pub fn is_mine(&self) -> bool {
        self.mutex.is_ours() && self.thread.load(Ordering::Relaxed) == own_thread()
    }
}

impl RecursiveLock {
    /// Takes the lock, or takes it again; see [`Mutex::lock`] for the errors.
    #[inline]
    pub fn lock(&self, deadline: Option<Instant>) -> Result<Taken> {
        if self.take_again()? {
            return Ok(Taken::Acquired);
        }
        let taken = self.mutex.lock(deadline)?;
        self.begin();
        Ok(taken)
    }

    /// Takes the lock, or takes it again, if that is possible at once.
    #[inline]
    pub fn try_lock(&self) -> Result<Option<Taken>> {
        if self.take_again()? {
            return Ok(Some(Taken::Acquired));
        }
        Ok(self.mutex.try_lock().inspect(|_| self.begin()))
    }

    /// Takes the lock if it is free or this thread's. Of a dead owner this does not find out.
    #[inline]
    pub fn take_free(&self) -> Result<bool> {
        // Free is the likely case, and one look at the owner's word tells.
        if self.mutex.take_free() {
            self.begin();
            return Ok(true);
        }
        self.take_again()
    }

    /// Whether this thread has it, and has it once more now.
    fn take_again(&self) -> Result<bool> {
        if !self.is_mine() {
            return Ok(false);
        }
        let again = self.again.load(Ordering::Relaxed).checked_add(1);
        let again = again.ok_or_else(|| Error::new(Kind::TooLarge, "a recursive lock was taken 2^32 times"))?;
        self.again.store(again, Ordering::Relaxed);
        Ok(true)
    }

    /// What a former owner may have left is overwritten.
    fn begin(&self) {
        self.again.store(0, Ordering::Relaxed);
        self.thread.store(own_thread(), Ordering::Relaxed);
    }

    /// Gives the lock back, once. False, and nothing was done, when this thread has it not.
    #[inline]
    #[must_use]
    pub fn release(&self) -> bool {
        if !self.is_mine() {
            return false;
        }
        match self.again.load(Ordering::Relaxed) {
            0 => {
                // First the thread: nobody may read it beside the name of the next owner.
                self.thread.store(0, Ordering::Relaxed);
                self.mutex.unlock();
            }
            again => self.again.store(again - 1, Ordering::Relaxed),
        }
        true
    }

    /// Whether somebody has it.
    pub fn is_locked(&self) -> bool {
        self.mutex.is_locked()
    }

    /// How often a thread of this process has taken it.
    pub fn depth(&self) -> u32 {
        if self.mutex.is_ours() { self.again.load(Ordering::Relaxed).saturating_add(1) } else { 0 }
    }

    /// Whether this thread has it.
    #[inline]
    pub fn is_mine(&self) -> bool {
        self.thread.load(Ordering::Relaxed) == own_thread() && self.mutex.is_ours()
    }
}
