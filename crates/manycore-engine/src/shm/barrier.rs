//! A place where a number of threads wait for each other.
//!
//! See "Condition and barrier" in README.md.

use super::lobby::{Call, Lobby};
use super::mutex::{Mutex, Taken, nap, woke_up};
use crate::error::{Error, Kind, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering, futex_wait, futex_wake, is_gone, own_name};
use std::time::Instant;

const FILLING: u32 = 0;
/// All are there, and the last one does what is to be done before they go on.
const ACTING: u32 = 1;
/// The same, and somebody sleeps until it is over.
const AWAITED: u32 = 2;

/// Which call is being made, in the lowest bits of its word; the group stands above.
const COME: u64 = 1;
const AWAY: u64 = 2;
const CALL: u64 = 3;
const GROUP_SHIFT: u32 = 2;

/// A barrier for a fixed number of threads of any processes.
///
/// If one dies while it waits, or acts, and not all were there, the barrier is broken:
/// the others are turned away. If the last one comes before anybody has noticed the
/// death, they go on.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Barrier {
    mutex: Mutex,
    parties: AtomicU32,
    /// How many of the group that gathers now are here.
    here: AtomicU32,
    /// The number of that group.
    group: AtomicU32,
    /// 1: broken until reset.
    broken: AtomicU32,
    phase: AtomicU32,
    /// The process that runs the action.
    actor: AtomicU64,
    /// A call that is being made, for whoever must finish it: 0, or group and call.
    calling: AtomicU64,
    lobby: Lobby,
}

/// What becomes of one who arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// All are there, and everybody goes on. The number of the one who arrived, from 0.
    Passed(u32),
    /// All are there, and this one must act and then [`Barrier::open`] or [`Barrier::abort`].
    Last(u32),
    /// Wait, as the entry of the first number; the second is that of the one who arrived.
    Wait(usize, u32),
    /// The barrier is broken.
    Broken,
}

impl Barrier {
    /// Says for how many this new barrier is. Before anybody else has it.
    pub fn begin(&self, parties: u32) {
        self.parties.store(parties, Ordering::Relaxed);
    }

    /// One more is here; `acts` says whether the last one has something to do before the
    /// others go on.
    ///
    /// # Errors
    /// As [`Mutex::lock`]: then nobody has arrived.
    pub fn arrive(&self, acts: bool, deadline: Option<Instant>) -> Result<Arrival> {
        loop {
            self.enter()?;
            if self.phase.load(Ordering::Relaxed) == FILLING {
                break;
            }
            self.mutex.unlock();
            self.wait_for_the_actor(deadline)?;
        }
        let arrival = self.arrive_inside(acts);
        self.mutex.unlock();
        arrival
    }

    fn arrive_inside(&self, acts: bool) -> Result<Arrival> {
        if self.is_broken() {
            return Ok(Arrival::Broken);
        }
        let (number, group) = (self.here.load(Ordering::Relaxed), self.group.load(Ordering::Relaxed));
        if number.saturating_add(1) < self.parties.load(Ordering::Relaxed) {
            let index = self.lobby.join(group)?;
            self.here.store(number + 1, Ordering::Relaxed);
            return Ok(Arrival::Wait(index, number));
        }
        if acts {
            self.actor.store(own_name(), Ordering::Relaxed);
            self.phase.store(ACTING, Ordering::Relaxed);
            return Ok(Arrival::Last(number));
        }
        self.call(Call::Come);
        Ok(Arrival::Passed(number))
    }

    /// The last one has acted: everybody goes on, unless the barrier was broken meanwhile.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]: call again.
    pub fn open(&self) -> Result<()> {
        self.enter()?;
        if self.phase.load(Ordering::Relaxed) != FILLING && !self.is_broken() {
            self.call(Call::Come);
        }
        self.mutex.unlock();
        Ok(())
    }

    /// Waits with the others, as the entry `index`. [`Call::Away`]: the barrier is broken,
    /// or was reset.
    ///
    /// # Errors
    /// As [`Mutex::lock`]: then wait again, [`Barrier::give_up`] or [`Barrier::withdraw`].
    pub fn wait(&self, index: usize, deadline: Option<Instant>) -> Result<Call> {
        self.lobby.wait(index, deadline).or_else(|error| {
            self.look_for_the_dead()?;
            Err(error)
        })
    }

    /// The entry `index` has waited long enough: breaks the barrier, unless it was called.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]: call again.
    pub fn give_up(&self, index: usize) -> Result<Call> {
        self.enter()?;
        let told = self.lobby.leave(index);
        if matches!(told, Ok(None)) {
            self.break_inside();
        }
        self.mutex.unlock();
        Ok(told?.unwrap_or(Call::Away))
    }

    /// The entry `index` goes away, and it is as if it had never come.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]: call again.
    pub fn withdraw(&self, index: usize) -> Result<()> {
        self.enter()?;
        let told = self.lobby.leave(index);
        // While somebody acts the group is complete, and this one belongs to it.
        if matches!(told, Ok(None)) && self.phase.load(Ordering::Relaxed) == FILLING {
            let here = self.here.load(Ordering::Relaxed);
            self.here.store(here.saturating_sub(1), Ordering::Relaxed);
        }
        self.mutex.unlock();
        told.map(|_| ())
    }

    /// Breaks the barrier: waiting parties are turned away, and so are all that come later.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]: call again.
    pub fn abort(&self) -> Result<()> {
        self.enter()?;
        self.break_inside();
        self.mutex.unlock();
        Ok(())
    }

    /// Turns away the waiting parties, and begins anew.
    ///
    /// # Errors
    /// [`Kind::Interrupted`]: call again.
    pub fn reset(&self) -> Result<()> {
        self.enter()?;
        self.broken.store(0, Ordering::Relaxed);
        // A complete group goes on.
        if self.phase.load(Ordering::Relaxed) == FILLING {
            self.call(Call::Away);
        }
        self.mutex.unlock();
        Ok(())
    }

    /// For how many it is.
    pub fn parties(&self) -> u32 {
        self.parties.load(Ordering::Relaxed)
    }

    /// How many wait to be complete.
    pub fn waiting(&self) -> u32 {
        if self.is_broken() { 0 } else { self.here.load(Ordering::Relaxed) }
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed) != 0
    }

    fn break_inside(&self) {
        self.broken.store(1, Ordering::Relaxed);
        self.call(Call::Away);
    }

    /// Takes the mutex; finishes the call in the midst of which its owner died.
    fn enter(&self) -> Result<()> {
        if self.mutex.lock(None)? == Taken::Recovered {
            let calling = self.calling.load(Ordering::Relaxed);
            match calling & CALL {
                COME => self.finish((calling >> GROUP_SHIFT) as u32, Call::Come),
                AWAY => self.finish((calling >> GROUP_SHIFT) as u32, Call::Away),
                _ => {}
            }
        }
        Ok(())
    }

    /// Tells the group that gathers now, and begins another. Under the mutex.
    fn call(&self, call: Call) {
        let group = self.group.load(Ordering::Relaxed);
        let word = match call {
            Call::Come => COME,
            Call::Away => AWAY,
        };
        self.calling.store(u64::from(group) << GROUP_SHIFT | word, Ordering::Relaxed);
        crate::fault::point("barrier-calling");
        self.finish(group, call);
    }

    fn finish(&self, group: u32, call: Call) {
        // First the counts: whoever is called may look at them at once.
        self.here.store(0, Ordering::Relaxed);
        self.group.store(group.wrapping_add(1), Ordering::Relaxed);
        self.lobby.call_group(group, call);
        if self.phase.swap(FILLING, Ordering::Relaxed) == AWAITED {
            futex_wake(&self.phase, u32::MAX >> 1);
        }
        self.calling.store(0, Ordering::Relaxed);
    }

    /// The next group cannot gather before the last one has gone.
    fn wait_for_the_actor(&self, deadline: Option<Instant>) -> Result<()> {
        let nap = nap(deadline)?;
        let marked = self.phase.compare_exchange(ACTING, AWAITED, Ordering::Relaxed, Ordering::Relaxed);
        match marked {
            Ok(_) | Err(AWAITED) => {}
            Err(FILLING) => return Ok(()),
            Err(phase) => return Err(Error::corrupt(format_args!("a barrier in phase {phase}"))),
        }
        match futex_wait(&self.phase, AWAITED, Some(nap)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == Kind::Timeout => {
                self.look_for_the_dead()?;
                Err(woke_up(deadline))
            }
            Err(error) => Err(error),
        }
    }

    fn has_lost(&self) -> bool {
        if self.phase.load(Ordering::Relaxed) == FILLING {
            self.lobby.any_lost(self.group.load(Ordering::Relaxed))
        } else {
            is_gone(self.actor.load(Ordering::Relaxed))
        }
    }

    fn look_for_the_dead(&self) -> Result<()> {
        let call_is_due = self.calling.load(Ordering::Relaxed) != 0;
        if !call_is_due && !self.has_lost() {
            return Ok(());
        }
        match self.enter() {
            // There will be another nap.
            Err(error) if error.kind() == Kind::Interrupted => return Ok(()),
            other => other?,
        }
        if self.has_lost() {
            self.break_inside();
            self.lobby.bury();
        }
        self.mutex.unlock();
        Ok(())
    }
}
