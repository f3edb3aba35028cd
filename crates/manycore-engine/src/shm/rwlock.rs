//! A lock that many may read under, or one may write.
//!
//! See "The read-write lock" in README.md for the words and for what happens after a death.

use super::mutex::{Mutex, Taken, nap, woke_up};
use crate::error::{Error, Kind, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering, full_fence, futex_wait, futex_wake, is_gone, own_name};
use std::time::Instant;

/// How many processes may read at once.
pub const READERS: usize = if cfg!(loom) { 2 } else { 60 };

/// Many readers or one writer, of whom each may die. Zero bytes are a free one.
///
/// It guards no value: what it protects lies beside it in shared memory. It belongs to
/// processes, as [`Mutex`] does.
#[repr(C)]
#[derive(Debug, Default)]
pub struct RwLock {
    /// A writer has it all the time, a reader while it comes in.
    gate: Mutex,
    /// 1 from when a writer writes until it does not.
    writing: AtomicU32,
    /// Changes with every reader that leaves while a writer waits.
    left: AtomicU32,
    /// 1 while a writer waits for readers to leave.
    awaited: AtomicU32,
    readers: Readers,
}

#[repr(transparent)]
#[derive(Debug)]
struct Readers([Reader; READERS]);

impl Default for Readers {
    fn default() -> Readers {
        Readers(std::array::from_fn(|_| Reader::default()))
    }
}

/// A process that reads, or did.
#[repr(C)]
#[derive(Debug, Default)]
struct Reader {
    name: AtomicU64,
    /// How many of its threads read; 0: the entry is free.
    threads: AtomicU32,
}

/// A reader's entry: to be given back by [`RwLock::leave`].
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub struct Place(usize);

impl RwLock {
    /// Comes in as a reader, waiting until `deadline` at the latest. [`Taken::Recovered`]:
    /// a writer died in the midst of its writing, and nobody has written since.
    ///
    /// # Errors
    /// As [`Mutex::lock`]; [`Kind::TooLarge`] when [`READERS`] processes read already.
    pub fn read(&self, deadline: Option<Instant>) -> Result<(Place, Taken)> {
        let _ = self.gate.lock(deadline)?;
        self.come_in()
    }

    /// Comes in as a reader if that is possible at once.
    ///
    /// # Errors
    /// [`Kind::TooLarge`] when [`READERS`] processes read already.
    pub fn try_read(&self) -> Result<Option<(Place, Taken)>> {
        if self.gate.try_lock().is_none() {
            return Ok(None);
        }
        self.come_in().map(Some)
    }

    /// With the gate in hand, which is given back.
    fn come_in(&self) -> Result<(Place, Taken)> {
        let found = self.find();
        if let Some(place) = found {
            let reader = &self.readers.0[place];
            // The name first: an entry with threads always says whose they are.
            reader.name.store(own_name(), Ordering::Relaxed);
            reader.threads.fetch_add(1, Ordering::Release);
        }
        crate::fault::point("rwlock-coming-in");
        let torn = self.writing.load(Ordering::Relaxed) != 0;
        self.gate.unlock();
        let place = found.ok_or_else(|| {
            Error::new(Kind::TooLarge, format!("more than {READERS} processes read under one lock; let some finish"))
        })?;
        Ok((Place(place), if torn { Taken::Recovered } else { Taken::Acquired }))
    }

    /// This process's entry, or one that is free or a dead process's. Under the gate.
    fn find(&self) -> Option<usize> {
        let own = own_name();
        let all = || self.readers.0.iter().enumerate();
        all()
            .find(|(_, reader)| reader.name.load(Ordering::Relaxed) == own)
            .or_else(|| all().find(|(_, reader)| reader.threads.load(Ordering::Relaxed) == 0))
            .or_else(|| {
                self.bury();
                all().find(|(_, reader)| reader.threads.load(Ordering::Relaxed) == 0)
            })
            .map(|(place, _)| place)
    }

    /// The reader in `place` leaves.
    pub fn leave(&self, place: Place) {
        let Some(reader) = self.readers.0.get(place.0) else { return };
        // Release: pairs with the Acquire of a writer that counts; what was read was read before.
        // Whoever damages the count gains or loses readers of his own.
        reader.threads.fetch_sub(1, Ordering::Release);
        full_fence(); // Pairs with `drain`: one of us sees the other.
        if self.awaited.load(Ordering::Relaxed) != 0 {
            crate::fault::point("rwlock-leaving");
            self.left.fetch_add(1, Ordering::Relaxed);
            futex_wake(&self.left, 1);
        }
    }

    /// Keeps new readers out, waits for those who are in to leave, and becomes the
    /// writer; waits until `deadline` at the latest. [`Taken::Recovered`] as in [`RwLock::read`].
    ///
    /// # Errors
    /// As [`Mutex::lock`].
    pub fn write(&self, deadline: Option<Instant>) -> Result<Taken> {
        let _ = self.gate.lock(deadline)?;
        match self.drain(deadline) {
            Ok(()) => Ok(self.begin()),
            Err(error) => {
                self.gate.unlock();
                Err(error)
            }
        }
    }

    /// Becomes the writer if that is possible at once.
    #[must_use]
    pub fn try_write(&self) -> Option<Taken> {
        let _ = self.gate.try_lock()?;
        if self.is_read() {
            self.bury();
        }
        if self.is_read() {
            self.gate.unlock();
            return None;
        }
        Some(self.begin())
    }

    /// With the gate in hand and nobody reading.
    fn begin(&self) -> Taken {
        match self.writing.swap(1, Ordering::Relaxed) {
            0 => Taken::Acquired,
            _ => Taken::Recovered,
        }
    }

    /// The writer is done.
    pub fn unlock(&self) {
        self.writing.store(0, Ordering::Relaxed);
        self.gate.unlock();
    }

    /// With the gate in hand: waits until nobody reads.
    fn drain(&self, deadline: Option<Instant>) -> Result<()> {
        while self.is_read() {
            let nap = nap(deadline)?;
            let seen = self.left.load(Ordering::Relaxed);
            self.awaited.store(1, Ordering::Relaxed);
            full_fence(); // Pairs with `leave`.
            let slept = if self.is_read() { futex_wait(&self.left, seen, Some(nap)) } else { Ok(()) };
            self.awaited.store(0, Ordering::Relaxed);
            match slept {
                Ok(()) => {}
                Err(error) if error.kind() == Kind::Timeout => {
                    self.bury();
                    if self.is_read() {
                        return Err(woke_up(deadline));
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether somebody reads, dead or alive.
    pub fn is_read(&self) -> bool {
        // Acquire: pairs with the Release of `leave`.
        self.readers.0.iter().any(|reader| reader.threads.load(Ordering::Acquire) != 0)
    }

    /// Whether somebody writes, or is about to.
    pub fn is_written(&self) -> bool {
        self.gate.is_locked()
    }

    /// Dead readers read no more. Under the gate.
    fn bury(&self) {
        for reader in &self.readers.0 {
            if reader.threads.load(Ordering::Relaxed) != 0 && is_gone(reader.name.load(Ordering::Relaxed)) {
                reader.threads.store(0, Ordering::Relaxed);
            }
        }
    }
}
