//! A channel for plain numbers, on storage that threads share as processes share a mapping.

#![allow(unsafe_code)]

use crate::support::{self, Shared};
use manycore_engine::Result;
use manycore_engine::shm::conduit::{Conduit, Sent, Turn, Wait, Watched, Words};
use manycore_engine::shm::stream::{Header, Kind, Unit};
use manycore_engine::sync::{AtomicU32, Guarded};

#[cfg(loom)]
use loom::sync::{Condvar, Mutex};
#[cfg(not(loom))]
use std::sync::{Condvar, Mutex};

/// An eventfd that is never read to wait for it: readable or not.
#[derive(Default)]
pub struct Level(Mutex<bool>, Condvar);

impl Watched for Level {
    fn ring(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn silence(&self) {
        *self.0.lock().unwrap() = false;
    }
}

impl Level {
    pub fn wait(&self) {
        let mut readable = self.0.lock().unwrap();
        while !*readable {
            readable = self.1.wait(readable).unwrap();
        }
    }

    pub fn is_readable(&self) -> bool {
        *self.0.lock().unwrap()
    }
}

const MESSAGE: Header = Header { kind: Kind::Inline, len: 8, head: 0 };

/// Waits again while a wait ends for nothing.
pub fn patiently<T>(mut wait: impl FnMut() -> Result<T>) -> T {
    loop {
        match wait() {
            Err(error) if error.kind() == manycore_engine::Kind::Interrupted => support::thread::yield_now(),
            other => return other.unwrap(),
        }
    }
}

/// A channel for plain numbers.
pub struct Link {
    words: Words,
    units: Vec<Guarded<Unit>>,
    below: Vec<AtomicU32>,
    capacity: Option<u32>,
    pub bell: Level,
}

impl Link {
    /// `sheets` sheets for `messages` messages each.
    pub fn new(sheets: usize, messages: usize, capacity: Option<u32>) -> Shared<Link> {
        Shared::new(Link {
            words: Words::default(),
            units: (0..sheets * (messages + 1)).map(|_| Guarded::new(Unit::default())).collect(),
            below: (0..sheets).map(|_| AtomicU32::new(0)).collect(),
            capacity,
            bell: Level::default(),
        })
    }

    pub fn conduit(&self) -> Conduit<'_> {
        Conduit::new(&self.words, &self.units, &self.below, self.capacity)
    }

    /// The turn to send, from whoever had it, dead or alive.
    pub fn sending(&self) -> Turn<'_> {
        let turn = patiently(|| self.conduit().sending(Wait::Until(None))).unwrap();
        if turn.is_recovered() {
            self.conduit().ring_or_silence(&self.bell);
        }
        turn
    }

    fn try_send(&self, value: u64) -> Sent {
        let turn = self.sending();
        let sent = self.commit(&turn, value);
        drop(turn);
        if let Sent::Done(count) = sent {
            self.conduit().sent(count);
        }
        sent
    }

    pub fn commit(&self, turn: &Turn<'_>, value: u64) -> Sent {
        // SAFETY: loom's cell finds whoever else is here.
        let fill = |units: &[Guarded<Unit>]| units[0].with_mut(|unit| unsafe { (*unit).0[1] = value });
        self.conduit().send(turn, MESSAGE, fill, &self.bell).unwrap()
    }

    pub fn send(&self, value: u64) {
        loop {
            match self.try_send(value) {
                Sent::Done(_) => return,
                Sent::Full => drop(patiently(|| self.conduit().wait_room(None))),
                // Memory comes back in silence; a sender that waits for it looks again and again.
                _ => support::thread::yield_now(),
            }
        }
    }

    pub fn try_receive(&self) -> Option<u64> {
        let conduit = self.conduit();
        if conduit.stream().waiting() == 0 {
            return None;
        }
        let turn = patiently(|| conduit.receiving(Wait::Until(None))).unwrap();
        let read = |header: Header, units: &[Guarded<Unit>]| {
            assert_eq!(header, MESSAGE);
            // SAFETY: as above.
            Ok(units[0].with(|unit| unsafe { (*unit).0[1] }))
        };
        let received = conduit.receive(&turn, read).unwrap();
        drop(turn);
        let received = received?;
        if let Some(sheet) = received.left {
            conduit.stream().free_sheet(sheet).unwrap();
        }
        patiently(|| conduit.received(received.count, &self.bell));
        Some(received.value)
    }

    pub fn receive(&self) -> u64 {
        loop {
            if let Some(value) = self.try_receive() {
                return value;
            }
            patiently(|| self.conduit().wait_message(None));
        }
    }
}
