//! Waiting until somebody says that something has changed.
//!
//! See "Condition and barrier" in README.md.

use super::lobby::{Call, Lobby};
use super::mutex::Mutex;
use crate::error::{Error, Kind, Result};
use crate::sync::{AtomicU32, Ordering};
use std::time::Instant;

/// A queue of those who wait for a notification, for use beside any lock.
///
/// The lock is the user's: he joins and notifies with it, and waits without it. A
/// notification goes to exactly as many as it was meant for, those who joined first;
/// that of one who dies with it goes on to another.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Condition {
    mutex: Mutex,
    next: AtomicU32,
    lobby: Lobby,
}

impl Condition {
    /// This thread will wait, from now on; with the number given here.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]: call again. [`Kind::TooLarge`] when too many wait.
    pub fn join(&self) -> Result<usize> {
        self.enter()?;
        let joined = self.lobby.join(self.next.fetch_add(1, Ordering::Relaxed));
        self.mutex.unlock();
        joined
    }

    /// Waits for the notification of the one who joined as `index`.
    ///
    /// # Errors
    /// As [`Mutex::lock`]: then wait again or [`Condition::leave`].
    pub fn wait(&self, index: usize, deadline: Option<Instant>) -> Result<()> {
        match self.lobby.wait(index, deadline) {
            Ok(Call::Come) => Ok(()),
            Ok(Call::Away) => Err(Error::corrupt("a condition turns nobody away")),
            Err(error) => {
                self.bury_the_dead()?;
                Err(error)
            }
        }
    }

    /// The one who joined as `index` waits no longer. Whether he had been notified.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]: call again.
    pub fn leave(&self, index: usize) -> Result<bool> {
        self.enter()?;
        let told = self.lobby.leave(index);
        self.mutex.unlock();
        Ok(told? == Some(Call::Come))
    }

    /// Notifies the `count` who joined first; how many there were.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]: call again.
    pub fn notify(&self, count: u32) -> Result<u32> {
        self.enter()?;
        let called = self.lobby.call_first(count);
        self.mutex.unlock();
        Ok(called)
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        self.lobby.count()
    }

    /// How many of them sleep.
    pub fn sleeping(&self) -> u32 {
        self.lobby.sleeping()
    }

    /// Each step leaves the table whole, so there is nothing to repair.
    fn enter(&self) -> Result<()> {
        self.mutex.lock(None).map(|_| ())
    }

    /// Whoever died with a notification did not use it.
    fn bury_the_dead(&self) -> Result<()> {
        if !self.lobby.anybody_lost() {
            return Ok(());
        }
        match self.enter() {
            // There will be another nap.
            Err(error) if error.kind() == Kind::Interrupted => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                self.lobby.call_first(self.lobby.bury());
                self.mutex.unlock();
                Ok(())
            }
        }
    }
}
