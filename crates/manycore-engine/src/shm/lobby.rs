//! Those who wait to be called, each on a word of its own.
//!
//! See "Condition and barrier" in README.md.

use super::mutex::{nap, woke_up};
use super::patience::Patience;
use crate::error::{Error, Kind, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering, futex_wait, futex_wake, is_gone, own_name};
use std::time::Instant;

/// How many threads may wait in one place at once.
pub const PLACES: usize = if cfg!(loom) { 3 } else { 2000 };

const FREE: u32 = 0;
const WAITING: u32 = 1;
const ASLEEP: u32 = 2;
const CALLED: u32 = 3;
const TURNED_AWAY: u32 = 4;

/// What those who wait are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// What was waited for has come.
    Come,
    /// It will not come.
    Away,
}

impl Call {
    fn state(self) -> u32 {
        match self {
            Call::Come => CALLED,
            Call::Away => TURNED_AWAY,
        }
    }
}

/// The entries of those who wait. Joining and calling is done under a mutex that the
/// owner of this table has; waiting and going are not.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Lobby {
    patience: Patience,
    /// How many entries were ever used.
    used: AtomicU32,
    entries: Entries,
}

#[repr(transparent)]
struct Entries([Waiter; PLACES]);

impl Default for Entries {
    fn default() -> Entries {
        Entries(std::array::from_fn(|_| Waiter::default()))
    }
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{PLACES} entries]")
    }
}

/// A waiting process or thread.
#[repr(C)]
#[derive(Debug, Default)]
struct Waiter {
    name: AtomicU64,
    /// When it came: a number of its own, or that of its group.
    ticket: AtomicU32,
    state: AtomicU32,
}

impl Waiter {
    fn state(&self) -> u32 {
        self.state.load(Ordering::Acquire)
    }

    fn waits(&self) -> bool {
        matches!(self.state(), WAITING | ASLEEP)
    }

    fn is_lost(&self) -> bool {
        self.state() != FREE && is_gone(self.name.load(Ordering::Relaxed))
    }

    /// Tells it, if it waits; whether it did.
    fn tell(&self, call: Call) -> bool {
        let mut state = self.state();
        while matches!(state, WAITING | ASLEEP) {
            // Release: pairs with the Acquire of the waiter.
            match self.state.compare_exchange(state, call.state(), Ordering::Release, Ordering::Relaxed) {
                Ok(_) => {
                    if state == ASLEEP {
                        crate::fault::point("before-waiter-wake");
                        futex_wake(&self.state, 1);
                    }
                    return true;
                }
                Err(now) => state = now,
            }
        }
        false
    }
}

impl Lobby {
    fn entries(&self) -> &[Waiter] {
        &self.entries.0[..(self.used.load(Ordering::Relaxed) as usize).min(PLACES)]
    }

    fn entry(&self, index: usize) -> Result<&Waiter> {
        self.entries.0.get(index).ok_or_else(|| Error::corrupt(format_args!("nobody waits at {index}")))
    }

    /// This thread waits from now on, under `ticket`; the number of its entry. Under the mutex.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] when [`PLACES`] wait already.
    pub fn join(&self, ticket: u32) -> Result<usize> {
        let free = |entry: &Waiter| entry.state() == FREE;
        let mut index = self.entries().iter().position(free).unwrap_or(self.entries().len());
        if index == PLACES {
            let lost = self.entries().iter().position(Waiter::is_lost);
            index = lost.ok_or_else(|| {
                Error::new(Kind::TooLarge, format!("{PLACES} threads wait here already, no more can"))
            })?;
        }
        let entry = self.entry(index)?;
        entry.name.store(own_name(), Ordering::Relaxed);
        entry.ticket.store(ticket, Ordering::Relaxed);
        entry.state.store(WAITING, Ordering::Release);
        if index == self.entries().len() {
            self.used.store(index as u32 + 1, Ordering::Relaxed);
        }
        Ok(index)
    }

    /// How many wait, the dead included.
    pub fn count(&self) -> u32 {
        self.entries().iter().filter(|entry| entry.waits()).count() as u32
    }

    /// How many of them sleep.
    pub fn sleeping(&self) -> u32 {
        self.entries().iter().filter(|entry| entry.state() == ASLEEP).count() as u32
    }

    /// Calls the `count` that came first. Under the mutex.
    pub fn call_first(&self, count: u32) -> u32 {
        for called in 0..count {
            let waiting = self.entries().iter().filter(|entry| entry.waits());
            // Tickets go round; the oldest lies furthest behind any of them.
            let Some(oldest) = waiting.reduce(|one, two| {
                let ticket = |entry: &Waiter| entry.ticket.load(Ordering::Relaxed);
                if ticket(two).wrapping_sub(ticket(one)) > u32::MAX >> 1 { two } else { one }
            }) else {
                return called;
            };
            oldest.tell(Call::Come);
        }
        count
    }

    /// Calls all waiters of `ticket`. Under the mutex.
    pub fn call_group(&self, ticket: u32, call: Call) {
        for entry in self.entries().iter().filter(|entry| entry.ticket.load(Ordering::Relaxed) == ticket) {
            entry.tell(call);
        }
    }

    /// Whether a waiter of `ticket` has died.
    pub fn any_lost(&self, ticket: u32) -> bool {
        self.entries()
            .iter()
            .any(|entry| entry.waits() && entry.ticket.load(Ordering::Relaxed) == ticket && entry.is_lost())
    }

    /// Whether anybody has died, waiting or called.
    pub fn anybody_lost(&self) -> bool {
        self.entries().iter().any(Waiter::is_lost)
    }

    /// Frees the entries of the dead. How many of them were called and have not gone. Under the mutex.
    pub fn bury(&self) -> u32 {
        let lost = self.entries().iter().filter(|entry| entry.is_lost());
        lost.filter(|entry| entry.state.swap(FREE, Ordering::Acquire) == CALLED).count() as u32
    }

    /// Waits until entry `index`, this thread's, is called; then it is free again.
    ///
    /// # Errors
    /// As [`super::mutex::Mutex::lock`]; the entry then still waits: wait again, or [`Lobby::leave`].
    pub fn wait(&self, index: usize, deadline: Option<Instant>) -> Result<Call> {
        let entry = self.entry(index)?;
        loop {
            if self.patience.spin(|| !entry.waits()) {
                return self.go(entry);
            }
            let nap = nap(deadline)?;
            // The caller of this waiter makes a system call only if the waiter has said that it sleeps.
            let asleep = entry.state.compare_exchange(WAITING, ASLEEP, Ordering::Relaxed, Ordering::Relaxed);
            if !matches!(asleep, Ok(_) | Err(ASLEEP)) {
                return self.go(entry);
            }
            match futex_wait(&entry.state, ASLEEP, Some(nap)) {
                Ok(()) => crate::fault::point("waiter-woken"),
                Err(error) if error.kind() == Kind::Timeout && !entry.waits() => return self.go(entry),
                Err(error) if error.kind() == Kind::Timeout => return Err(woke_up(deadline)),
                Err(error) => return Err(error),
            }
        }
    }

    /// The entry was called: what, and it is free.
    fn go(&self, entry: &Waiter) -> Result<Call> {
        crate::fault::point("waiter-called");
        match entry.state.swap(FREE, Ordering::Acquire) {
            CALLED => Ok(Call::Come),
            TURNED_AWAY => Ok(Call::Away),
            state => Err(Error::corrupt(format_args!("a waiter was told {state}"))),
        }
    }

    /// Gives up entry `index`, this thread's. What it was told in the meantime, if anything.
    /// Under the mutex.
    pub fn leave(&self, index: usize) -> Result<Option<Call>> {
        match self.entry(index)?.state.swap(FREE, Ordering::Acquire) {
            CALLED => Ok(Some(Call::Come)),
            TURNED_AWAY => Ok(Some(Call::Away)),
            _ => Ok(None),
        }
    }
}
