//! A number of units that processes take and give back.
//!
//! See "The semaphore" in README.md.

use super::mutex::{Mutex, Taken, nap, woke_up};
use super::patience::Patience;
use crate::error::{Kind, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering, full_fence, futex_wait, futex_wake, is_gone, own_name};
use std::time::Instant;

/// How many processes may hold units at once and be missed when they die.
pub const HOLDERS: usize = if cfg!(loom) { 3 } else { 60 };

/// The largest value there is.
pub const MOST: u32 = u32::MAX >> 1;

/// A counting semaphore that gets the units of dead processes back.
///
/// For that, the semaphore records how many units each process holds. The first release by a
/// process that holds none ends this for good: from then on the semaphore counts events, and
/// its units belong to no process.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Semaphore {
    mutex: Mutex,
    /// Free units; sleepers wait for it to leave 0.
    value: AtomicU32,
    /// How many sleep or are about to; too high after a death, which costs a system call.
    sleepers: AtomicU32,
    patience: Patience,
    /// The value may not rise above this.
    most: AtomicU32,
    /// Free and held units together, while the holders are known.
    units: AtomicU32,
    /// 1: units belong to nobody.
    events: AtomicU32,
    /// Units that came back from the dead and may yet be released for them.
    returned: AtomicU32,
    /// How many entries of `holders` were ever used.
    used: AtomicU32,
    holders: Holders,
}

#[repr(transparent)]
#[derive(Debug)]
struct Holders([Holder; HOLDERS]);

impl Default for Holders {
    fn default() -> Holders {
        Holders(std::array::from_fn(|_| Holder::default()))
    }
}

/// The units one process holds.
#[repr(C)]
#[derive(Debug, Default)]
struct Holder {
    name: AtomicU64,
    /// 0: the entry is free.
    units: AtomicU32,
}

impl Semaphore {
    /// Gives a new semaphore its first value and its largest. Before anybody else has it.
    pub fn begin(&self, value: u32, most: u32) {
        self.value.store(value.min(MOST), Ordering::Relaxed);
        self.units.store(value.min(MOST), Ordering::Relaxed);
        self.most.store(most.min(MOST), Ordering::Relaxed);
    }

    /// How many units are free.
    pub fn value(&self) -> u32 {
        self.value.load(Ordering::Relaxed)
    }

    /// How many sleep until one is free, or are about to.
    pub fn sleepers(&self) -> u32 {
        self.sleepers.load(Ordering::Relaxed)
    }

    /// The largest value.
    pub fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed)
    }

    /// How many units this process holds; 0 where units belong to nobody.
    pub fn held(&self) -> u32 {
        if self.counts_events() { 0 } else { self.holder().map_or(0, |holder| holder.units.load(Ordering::Relaxed)) }
    }

    /// Whether somebody has released what it had not acquired, or there were more than
    /// [`HOLDERS`] holders.
    pub fn counts_events(&self) -> bool {
        self.events.load(Ordering::Acquire) != 0
    }

    /// Takes one unit, waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`Mutex::lock`].
    pub fn acquire(&self, deadline: Option<Instant>) -> Result<()> {
        loop {
            if self.take()? {
                return Ok(());
            }
            if self.patience.spin(|| self.value() > 0) {
                continue;
            }
            let nap = match nap(deadline) {
                Ok(nap) => nap,
                // Whoever asks again and again without waiting must find out, too.
                Err(_) if self.take_back()? => continue,
                Err(timeout) => return Err(timeout),
            };
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            full_fence(); // Pairs with `wake`: one of us sees the other.
            let slept = if self.value() == 0 { futex_wait(&self.value, 0, Some(nap)) } else { Ok(()) };
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
            match slept {
                Ok(()) => crate::fault::point("semaphore-woken"),
                Err(error) if error.kind() == Kind::Timeout => {
                    if !self.take_back()? {
                        return Err(woke_up(deadline));
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes one unit if that is possible at once.
    pub fn try_acquire(&self) -> Result<bool> {
        Ok(self.take()? || self.take_back()? && self.take()?)
    }

    /// Takes one unit if that is possible without waiting even for another who is about to
    /// take or release one.
    pub fn take_free(&self) -> bool {
        if self.value() == 0 {
            return false;
        }
        if self.counts_events() {
            return self.subtract();
        }
        self.mutex.take_free() && {
            let taken = self.take_inside();
            self.mutex.unlock();
            taken
        }
    }

    /// Gives back a unit that this process holds, or that belongs to nobody, if that is
    /// possible without waiting. False: nothing was done.
    pub fn give_free(&self) -> bool {
        let given = if self.counts_events() {
            self.add()
        } else {
            self.mutex.take_free() && {
                let held = !self.counts_events() && self.holder().is_some();
                if held {
                    let _ = self.release_held();
                }
                self.mutex.unlock();
                held
            }
        };
        if given {
            self.wake(1);
        }
        given
    }

    /// Gives one unit back, or one more than there were. False, and nothing was done,
    /// where the value would rise above the largest.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]: nothing was done, call again.
    pub fn release(&self) -> Result<bool> {
        if !self.counts_events() {
            self.enter()?;
            let done = self.release_held();
            self.mutex.unlock();
            if let Some(done) = done {
                self.wake(1);
                return Ok(done);
            }
        }
        let done = self.add();
        self.wake(1);
        Ok(done)
    }

    /// Gives back a unit that this process holds. `None` when units belong to nobody, which
    /// may be so from now on. Under the mutex.
    fn release_held(&self) -> Option<bool> {
        if self.counts_events() {
            return None;
        }
        if let Some(holder) = self.holder() {
            // Plain stores: while the holders are known, nobody writes without the mutex.
            holder.units.store(holder.units.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
            crate::fault::point("semaphore-giving");
            self.value.store(self.value().saturating_add(1), Ordering::Release);
            return Some(true);
        }
        if self.value() >= self.most() && self.returned.load(Ordering::Relaxed) == 0 {
            return Some(false);
        }
        self.disown();
        None
    }

    /// From now on units belong to nobody. Under the mutex.
    fn disown(&self) {
        self.events.store(1, Ordering::Release);
    }

    /// One unit more in a semaphore that counts events. False above the largest value.
    fn add(&self) -> bool {
        // The process that released had acquired, died or ended, and its unit is back
        // already: this is that release.
        let was = self.returned.load(Ordering::Relaxed);
        if was > 0 && self.returned.compare_exchange(was, was - 1, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            return true;
        }
        let mut value = self.value();
        loop {
            if value >= self.most().min(MOST) {
                return false;
            }
            match self.value.compare_exchange_weak(value, value + 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => value = now,
            }
        }
    }

    fn wake(&self, count: u32) {
        full_fence(); // Pairs with `acquire`.
        if self.sleepers.load(Ordering::Relaxed) != 0 {
            crate::fault::point("before-semaphore-wake");
            futex_wake(&self.value, count);
        }
    }

    /// Takes one of the free units.
    fn take(&self) -> Result<bool> {
        if self.value() == 0 {
            return Ok(false);
        }
        if self.counts_events() {
            return Ok(self.subtract());
        }
        self.enter()?;
        let taken = self.take_inside();
        self.mutex.unlock();
        Ok(taken)
    }

    /// Under the mutex.
    fn take_inside(&self) -> bool {
        if self.counts_events() { self.subtract() } else { self.value() > 0 && self.take_as_holder() }
    }

    fn subtract(&self) -> bool {
        let mut value = self.value();
        while value > 0 {
            // Acquire: pairs with the Release of who gave it.
            match self.value.compare_exchange_weak(value, value - 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => value = now,
            }
        }
        false
    }

    /// Under the mutex, with a free unit.
    fn take_as_holder(&self) -> bool {
        let Some(holder) = self.holder().or_else(|| self.new_holder()) else {
            self.disown();
            return self.subtract();
        };
        // Plain stores, as in `release_held`; the mutex has the order.
        holder.units.store(holder.units.load(Ordering::Relaxed).saturating_add(1), Ordering::Relaxed);
        crate::fault::point("semaphore-taking");
        self.value.store(self.value().saturating_sub(1), Ordering::Relaxed);
        true
    }

    fn holders(&self) -> &[Holder] {
        &self.holders.0[..(self.used.load(Ordering::Relaxed) as usize).min(HOLDERS)]
    }

    /// The entry of this process, while it holds something.
    fn holder(&self) -> Option<&Holder> {
        let own = own_name();
        let is_own =
            |holder: &&Holder| holder.name.load(Ordering::Relaxed) == own && holder.units.load(Ordering::Relaxed) > 0;
        self.holders().iter().find(is_own)
    }

    /// An entry for this process, with 0 units. Under the mutex.
    fn new_holder(&self) -> Option<&Holder> {
        let free = self.holders().iter().position(|holder| holder.units.load(Ordering::Relaxed) == 0);
        let index = free.unwrap_or(self.holders().len());
        let holder = self.holders.0.get(index)?;
        holder.name.store(own_name(), Ordering::Relaxed);
        if free.is_none() {
            self.used.store(index as u32 + 1, Ordering::Relaxed);
        }
        Some(holder)
    }

    /// Takes the mutex and repairs what a dead owner has left.
    fn enter(&self) -> Result<()> {
        if self.mutex.lock(None)? == Taken::Recovered && !self.counts_events() {
            self.count();
        }
        Ok(())
    }

    /// The value as it follows from what is held. Under the mutex.
    fn count(&self) {
        let held = self.holders().iter().map(|holder| u64::from(holder.units.load(Ordering::Relaxed))).sum::<u64>();
        let free = u64::from(self.units.load(Ordering::Relaxed)).saturating_sub(held);
        self.value.store(free as u32, Ordering::Release);
    }

    /// Whether `holder` holds something and is dead.
    fn is_lost(holder: &Holder) -> bool {
        holder.units.load(Ordering::Relaxed) > 0 && is_gone(holder.name.load(Ordering::Relaxed))
    }

    /// Frees the units of the dead; whether there were any.
    fn take_back(&self) -> Result<bool> {
        // A look at a process takes time: not under the mutex, unless somebody is dead.
        if self.counts_events() || !self.holders().iter().any(Semaphore::is_lost) {
            return Ok(false);
        }
        self.enter()?;
        let mut freed = 0u32;
        if !self.counts_events() {
            for holder in self.holders().iter().filter(|holder| Semaphore::is_lost(holder)) {
                freed = freed.saturating_add(holder.units.swap(0, Ordering::Relaxed));
            }
            self.returned.fetch_add(freed, Ordering::Relaxed);
            self.count();
        }
        self.mutex.unlock();
        self.wake(freed);
        Ok(freed > 0)
    }
}
