//! The work queue and the stack of finished tasks over one task table.
//!
//! See "The queue" in README.md. Storage comes from outside, so the same code
//! stands on a boxed slice under loom and on a mapping in life.

use super::state::Claim;
use super::task::Entry;
use crate::error::{Error, Result};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// The words of the queue, one cache line each: callers and workers write
/// different ones.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Words {
    /// The first position that may still be unclaimed; a hint anybody advances.
    head: Line<AtomicU64>,
    /// The next position the caller will publish.
    tail: Line<AtomicU64>,
    /// The top of the stack of finished entries, plus one; zero when empty.
    done: Line<AtomicU32>,
}

/// A value on a cache line of its own.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct Line<T>(pub T);

/// A view of the queue; copied freely.
#[derive(Clone, Copy, Debug)]
pub struct Queue<'a> {
    words: &'a Words,
    entries: &'a [Entry],
    ring: &'a [AtomicU32],
}

impl<'a> Queue<'a> {
    /// A view over `words`, the table `entries`, and a ring of as many indices.
    pub fn new(words: &'a Words, entries: &'a [Entry], ring: &'a [AtomicU32]) -> Queue<'a> {
        debug_assert_eq!(entries.len(), ring.len());
        Queue { words, entries, ring }
    }

    /// Entry `index`, if there is one.
    pub fn entry(&self, index: usize) -> Option<&'a Entry> {
        self.entries.get(index)
    }

    /// How many entries there are.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }

    /// How many published tasks nobody has claimed, at most.
    pub fn waiting(&self) -> u64 {
        // The tail is read first: it only grows, so the difference is never negative for long.
        let tail = self.words.tail.0.load(Ordering::Acquire);
        tail.saturating_sub(self.words.head.0.load(Ordering::Acquire))
    }

    /// Makes sure that the ring has a place for the next position. Only the
    /// caller, under its own lock, and with a free entry in hand.
    ///
    /// A worker claims and may die before it moves the head; the caller helps, or
    /// the ring would overwrite a position that the head still points to. Claims
    /// go in the order of positions, so of all positions from the head on only the
    /// first can be claimed already. With as many positions as entries, and one
    /// entry that is not queued, it is: stepping over it skips nobody's task.
    ///
    /// # Errors
    /// [`crate::error::Kind::Corrupt`] when head and tail cannot both be true.
    pub fn make_room(&self) -> Result<()> {
        let tail = self.words.tail.0.load(Ordering::Relaxed);
        let places = self.ring.len() as u64;
        // One step is enough, whether we make it or somebody else does.
        for _ in 0..2 {
            let head = self.words.head.0.load(Ordering::Acquire);
            match tail.checked_sub(head) {
                Some(waiting) if waiting < places => return Ok(()),
                Some(waiting) if waiting == places => self.step_head(head),
                _ => break,
            }
        }
        Err(Error::corrupt("the queue is longer than its ring"))
    }

    /// Publishes the filled, free entry `index` and gives its position. Only the
    /// caller, under its own lock, publishes, and after [`Queue::make_room`].
    pub fn publish(&self, index: usize) -> u64 {
        let tail = self.words.tail.0.load(Ordering::Relaxed);
        self.ring[tail as usize % self.ring.len()].store(index as u32, Ordering::Relaxed);
        self.entries[index].state.publish(tail);
        // Release: whoever sees the new tail sees the ring slot and the entry.
        self.words.tail.0.store(tail.wrapping_add(1), Ordering::Release);
        tail
    }

    /// Takes back the task published under `position` in entry `index`. Says whether:
    /// not so, if somebody has claimed it. Only the caller, under its own lock.
    ///
    /// The entry must not be used again before its position was [passed](Queue::pass),
    /// or the head would be stepped over a task that waits (see `make_room`).
    #[must_use]
    pub fn withdraw(&self, index: usize, position: u64) -> bool {
        self.entry(index).is_some_and(|entry| entry.state.claim(super::state::CALLER, position) == Claim::Taken)
    }

    /// Whether the head is past `position`, which was claimed or withdrawn; helps it
    /// over it where it stands there.
    pub fn pass(&self, position: u64) -> bool {
        let head = self.words.head.0.load(Ordering::Acquire);
        if head == position {
            self.step_head(head);
        }
        head >= position
    }

    /// Moves the head past every position that was published. Only the caller, under its own lock, and when it has
    /// [withdrawn](Queue::withdraw) each task that nobody has claimed: there is none to step over.
    pub fn pass_all(&self) {
        let tail = self.words.tail.0.load(Ordering::Relaxed);
        loop {
            let head = self.words.head.0.load(Ordering::Acquire);
            if head >= tail {
                return;
            }
            // In one step, unless a worker moves it meanwhile.
            let _ = self.words.head.0.compare_exchange(head, tail, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// Claims the oldest unclaimed task for the worker in `seat`.
    ///
    /// # Errors
    /// [`crate::error::Kind::Corrupt`] when the ring names an entry that is not
    /// there, or head and tail cannot both be true.
    pub fn claim(&self, seat: u16) -> Result<Option<usize>> {
        loop {
            let head = self.words.head.0.load(Ordering::Acquire);
            let tail = self.words.tail.0.load(Ordering::Acquire);
            if head >= tail {
                return Ok(None);
            }
            // An old head may be further away than the ring is long; the head that
            // was read again, after the tail, may not. Without this bound a damaged
            // tail would keep us here for ever.
            if tail - head > self.ring.len() as u64 && self.words.head.0.load(Ordering::Acquire) == head {
                return Err(Error::corrupt("the queue is longer than its ring"));
            }
            let index = self.ring[head as usize % self.ring.len()].load(Ordering::Relaxed) as usize;
            let entry = self.entries.get(index).ok_or_else(|| {
                Error::corrupt(format_args!("the queue names entry {index} of {}", self.entries.len()))
            })?;
            let claim = entry.state.claim(seat, head);
            // Gone or taken, this position is claimed: everybody moves the hint on,
            // so a death right after the claim stops nobody. With an old head the
            // exchange fails and does nothing.
            self.step_head(head);
            if claim == Claim::Taken {
                return Ok(Some(index));
            }
        }
    }

    fn step_head(&self, head: u64) {
        let _ = self.words.head.0.compare_exchange(head, head.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Puts a finished entry on the stack. Says whether the stack was empty.
    pub fn push_done(&self, index: usize) -> bool {
        let mut top = self.words.done.0.load(Ordering::Relaxed);
        loop {
            self.entries[index].below.store(top, Ordering::Relaxed);
            // Release: the caller, who takes the stack with Acquire, sees `below`.
            match self.words.done.0.compare_exchange_weak(top, index as u32 + 1, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return top == 0,
                Err(now) => top = now,
            }
        }
    }

    /// Whether a finished task lies on the stack.
    pub fn any_done(&self) -> bool {
        self.words.done.0.load(Ordering::Relaxed) != 0
    }

    /// Takes the whole stack into `taken`, oldest first. Only the caller takes,
    /// in one exchange, so an entry cannot come back to the stack meanwhile.
    pub fn take_done(&self, taken: &mut Vec<usize>) -> Result<()> {
        taken.clear();
        if !self.any_done() {
            return Ok(());
        }
        let mut next = self.words.done.0.swap(0, Ordering::Acquire);
        while next != 0 {
            let index = next as usize - 1;
            let entry = self
                .entries
                .get(index)
                .filter(|_| taken.len() < self.entries.len())
                .ok_or_else(|| Error::corrupt("the stack of finished tasks leads nowhere"))?;
            taken.push(index);
            next = entry.below.load(Ordering::Relaxed);
        }
        taken.reverse();
        Ok(())
    }
}
