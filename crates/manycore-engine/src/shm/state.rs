//! The state word of one entry of the task table.

use crate::sync::{AtomicU64, Ordering};

const PHASE_BITS: u32 = 4;
const SEAT_BITS: u32 = 16;
const FREE: u64 = 0;
const QUEUED: u64 = 1;
const RUNNING: u64 = 2;
const DONE: u64 = 3;
const REVOKED: u64 = 4;

/// The seat number that stands for the caller itself when it withdraws a task.
pub const CALLER: u16 = u16::MAX;

/// The holder of an entry, in one word: phase, seat, and the position in the queue
/// under which it was published.
///
/// The position makes a late worker harmless: one that was stopped between
/// reading the queue and claiming finds another position and claims nothing.
#[repr(transparent)]
#[derive(Debug, Default)]
pub struct State(AtomicU64);

/// What a [`State`] word said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The caller may fill the entry.
    Free,
    /// Any worker may claim it.
    Queued,
    /// The worker in this seat runs the task.
    Running(u16),
    /// The worker in this seat has written the outcome; the caller may take it.
    Done(u16),
    /// The caller wants no outcome any more from the worker in this seat, which is about to be ended.
    Revoked(u16),
}

/// What became of an attempt to claim a task.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The task is ours.
    Taken,
    /// Somebody else had it first, or the position is an old one.
    Gone,
}

fn word(phase: u64, seat: u16, position: u64) -> u64 {
    phase | u64::from(seat) << PHASE_BITS | position << (PHASE_BITS + SEAT_BITS)
}

impl State {
    /// A free entry.
    pub fn new() -> State {
        State(AtomicU64::new(FREE))
    }

    /// FREE → QUEUED, by the caller, who has filled the entry before.
    pub fn publish(&self, position: u64) {
        // Release: pairs with the Acquire of `claim`; the claimer sees the whole entry.
        self.0.store(word(QUEUED, 0, position), Ordering::Release);
    }

    /// QUEUED → RUNNING, by the worker in `seat`. The only way into RUNNING: the
    /// holder's number goes in with the same exchange, so a task in hand is never
    /// without a name on it.
    pub fn claim(&self, seat: u16, position: u64) -> Claim {
        let (queued, running) = (word(QUEUED, 0, position), word(RUNNING, seat, position));
        match self.0.compare_exchange(queued, running, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Claim::Taken,
            Err(_) => Claim::Gone,
        }
    }

    /// RUNNING → DONE, by the worker that runs it, who has written the outcome before.
    /// False when the caller has revoked the task: the outcome counts for nothing, and
    /// the worker takes no further task.
    #[must_use]
    pub fn finish(&self, seat: u16) -> bool {
        let position = self.position();
        let (running, done) = (word(RUNNING, seat, position), word(DONE, seat, position));
        // Release: pairs with the Acquire of `phase`; the caller sees the whole outcome.
        self.0.compare_exchange(running, done, Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// RUNNING → REVOKED, by the caller, of the task published under `position`, if
    /// the worker in `seat` still runs it. Says whether. From then on that worker gets no
    /// task: it can only be ended, and its end hits this task and no other.
    #[must_use]
    pub fn revoke(&self, seat: u16, position: u64) -> bool {
        let (running, revoked) = (word(RUNNING, seat, position), word(REVOKED, seat, position));
        // Relaxed: nothing is handed over. The slip stays the worker's until its end.
        self.0.compare_exchange(running, revoked, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// → FREE, by the caller, who has taken the outcome or buried the worker.
    pub fn free(&self) {
        self.0.store(FREE, Ordering::Relaxed);
    }

    /// The position under which the task was claimed that this worker runs.
    pub fn position(&self) -> u64 {
        self.0.load(Ordering::Relaxed) >> (PHASE_BITS + SEAT_BITS)
    }

    /// What the word says now.
    pub fn phase(&self) -> Phase {
        let value = self.0.load(Ordering::Acquire);
        let seat = (value >> PHASE_BITS) as u16;
        match value & ((1 << PHASE_BITS) - 1) {
            QUEUED => Phase::Queued,
            RUNNING => Phase::Running(seat),
            DONE => Phase::Done(seat),
            REVOKED => Phase::Revoked(seat),
            _ => Phase::Free,
        }
    }
}
