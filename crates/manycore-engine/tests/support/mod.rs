//! What the models share: storage for the shared words, and a driver that runs a
//! body under loom, or many times on plain threads without it.

// Each test file uses its own part of this one.
#![allow(dead_code)]
#![allow(unsafe_code)]

use manycore_engine::shm::arena::{BlockRef, Label, Part, PartWords};
use manycore_engine::shm::doorbell::Doorbell;
use manycore_engine::shm::queue::{Queue, Words};
use manycore_engine::shm::task::Entry;
use manycore_engine::sync::{AtomicU32, Guarded};
use std::ops::Deref;
use std::sync::Arc;

#[cfg(loom)]
use loom::sync::{Condvar, Mutex};
#[cfg(loom)]
pub use loom::thread;
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex};
#[cfg(not(loom))]
pub use std::thread;

/// How often a body runs on plain threads.
#[cfg(not(loom))]
const ROUNDS: usize = 500;

/// Runs `body` in every order loom can think of, up to `LOOM_MAX_PREEMPTIONS`
/// forced changes of thread but at most `most`, which keeps a large model in its
/// time; without loom as often as luck may find something.
pub fn model(most: usize, body: impl Fn() + Send + Sync + 'static) {
    #[cfg(loom)]
    {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(builder.preemption_bound.map_or(most, |bound| bound.min(most)));
        builder.check(body);
    }
    #[cfg(not(loom))]
    {
        let _ = most;
        (0..ROUNDS).for_each(|_| body());
    }
}

/// Storage that threads share as processes share a region.
pub struct Shared<T>(Arc<T>);

// SAFETY: the only fields that are not `Sync` are `Guarded` cells. Whether two
// threads ever meet at one is what the models ask, and loom, which watches every
// access to a cell, answers.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    pub fn new(value: T) -> Shared<T> {
        Shared(Arc::new(value))
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Shared<T> {
        Shared(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// Starts a thread that works on `shared`.
pub fn process<T: 'static, R: Send + 'static>(
    shared: &Shared<T>,
    run: impl FnOnce(&T) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let shared = shared.clone();
    thread::spawn(move || {
        let shared: Shared<T> = shared;
        run(&shared)
    })
}

/// A task table with its queue and its doorbell.
#[derive(Default)]
pub struct Table {
    words: Words,
    entries: Vec<Entry>,
    ring: Vec<AtomicU32>,
    pub doorbell: Doorbell,
    /// The bell of the kernel by which a worker wakes the caller.
    pub bell: Bell,
}

impl Table {
    pub fn new(entries: usize) -> Shared<Table> {
        Shared::new(Table {
            entries: (0..entries).map(|_| Entry::default()).collect(),
            ring: (0..entries).map(|_| AtomicU32::new(0)).collect(),
            ..Table::default()
        })
    }

    pub fn queue(&self) -> Queue<'_> {
        Queue::new(&self.words, &self.entries, &self.ring)
    }

    pub fn entry(&self, index: usize) -> &Entry {
        &self.entries[index]
    }

    /// The caller fills entry `index` with task `task` and publishes it.
    pub fn publish(&self, index: usize, task: u64) {
        let queue = self.queue();
        queue.make_room().unwrap();
        self.entries[index].fill(|slip| slip.index = task);
        queue.publish(index);
    }

    /// The worker in `seat` claims a task, if one waits: entry and task.
    pub fn claim(&self, seat: u16) -> Option<(usize, u64)> {
        let index = self.queue().claim(seat).unwrap()?;
        Some((index, self.entries[index].read_claimed(|slip| slip.index)))
    }

    /// The worker in `seat` writes the outcome of entry `index` and marks it done.
    pub fn finish(&self, seat: u16, index: usize, outcome: u64) {
        self.entries[index].fill(|slip| slip.elapsed = outcome);
        assert!(self.entries[index].state.finish(seat));
    }

    /// The worker puts a finished entry on the stack and rings if it must.
    pub fn push(&self, index: usize) {
        self.queue().push_done(index);
        if self.doorbell.finished() {
            self.bell.ring();
        }
    }

    /// The caller takes what is finished: entry and outcome.
    pub fn take(&self) -> Vec<(usize, u64)> {
        let mut taken = Vec::new();
        self.queue().take_done(&mut taken).unwrap();
        taken.into_iter().map(|index| (index, self.outcome(index))).collect()
    }

    /// The outcome of a finished entry, which is free from now on.
    pub fn outcome(&self, index: usize) -> u64 {
        let outcome = self.entries[index].take_outcome(|slip| slip.elapsed);
        self.entries[index].state.free();
        outcome
    }

    /// A worker's wait, as the pool's worker does it without spinning: claims a
    /// task, or gives `None` once the bell is closed and nothing waits.
    pub fn work(&self, seat: u16) -> Option<(usize, u64)> {
        loop {
            let closed = self.doorbell.is_closed();
            if let Some(task) = self.claim(seat) {
                return Some(task);
            }
            if closed {
                return None;
            }
            self.doorbell.sleep(&self.queue(), None).unwrap();
        }
    }

    /// The caller's wait, as its helmsman does it without spinning.
    pub fn wait(&self) -> Vec<(usize, u64)> {
        loop {
            let taken = self.take();
            if !taken.is_empty() {
                return taken;
            }
            self.doorbell.caller_sleeps();
            if !self.queue().any_done() {
                self.bell.wait();
            }
            self.doorbell.caller_woke();
        }
    }
}

/// An eventfd: a ring is kept until somebody has waited for it.
#[derive(Default)]
pub struct Bell(Mutex<bool>, Condvar);

impl Bell {
    pub fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    pub fn wait(&self) {
        let mut rung = self.0.lock().unwrap();
        while !*rung {
            rung = self.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// A number that one at a time may change.
#[derive(Default)]
pub struct Till(Guarded<u64>);

impl Till {
    /// Adds one; the new number. Only with the lock that protects it.
    pub fn add(&self) -> u64 {
        // SAFETY: the caller has the lock; loom tells if two ever do.
        self.0.with_mut(|value| unsafe {
            *value += 1;
            *value
        })
    }

    /// The number. Only with a lock that keeps writers out.
    pub fn look(&self) -> u64 {
        // SAFETY: as above, for readers.
        self.0.with(|value| unsafe { *value })
    }
}

/// One part of the arena, and a cell for each block's bytes.
pub struct Blocks {
    words: PartWords,
    labels: Vec<Label>,
    bytes: Vec<Guarded<u64>>,
    size: u64,
}

impl Blocks {
    /// A part of `labels` labels with room for as many blocks of 512 bytes.
    pub fn new(labels: usize) -> Shared<Blocks> {
        Shared::new(Blocks {
            words: PartWords::default(),
            labels: (0..labels).map(|_| Label::default()).collect(),
            bytes: (0..labels).map(|_| Guarded::new(0)).collect(),
            size: 512 * labels as u64,
        })
    }

    pub fn part(&self) -> Part<'_> {
        Part::new(0, &self.words, &self.labels, self.size)
    }

    /// Uses the bytes of `block` as its holder may: writes, then reads.
    pub fn touch(&self, block: BlockRef, value: u64) {
        let cell = &self.bytes[block.number()];
        // SAFETY: whoever holds the block has its bytes to itself; loom and the
        // assertion below would tell if not.
        cell.with_mut(|bytes| unsafe { *bytes = value });
        // SAFETY: as above.
        assert_eq!(cell.with(|bytes| unsafe { *bytes }), value, "two holders of block {}", block.number());
    }
}
