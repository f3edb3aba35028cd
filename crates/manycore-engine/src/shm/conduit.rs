//! A stream with its locks and its sleepers: many senders, many receivers, first in first out.
//!
//! See "The channel" in README.md for the words and for what a death leaves. What a
//! record carries, and the memory behind it, is the business of `channel.rs`.

use super::mutex::{Mutex, Taken};
use super::queue::Line;
use super::stream::{self, Header, Received, Stream, Unit};
use super::waiters::{SLICE, Waiters};
use crate::error::{Kind, Result};
use crate::sync::{AtomicU32, Guarded, Ordering, full_fence};
use std::time::{Duration, Instant};

/// The words of a channel. All zero: empty, without a limit to its length.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Words {
    stream: stream::Words,
    /// Held by the sender, and by the receiver, whose turn it is.
    sending: Line<Mutex>,
    receiving: Line<Mutex>,
    /// Where senders wait for room, receivers for messages, and `join` for the end of work.
    senders: Waiters,
    receivers: Waiters,
    joiners: Waiters,
    /// How many messages were reported as done, counting round.
    done: Line<AtomicU32>,
    /// 1 once somebody watches the bell.
    watched: Line<AtomicU32>,
}

/// The bell that is heard through a descriptor: an eventfd in life.
pub trait Watched {
    /// Makes the descriptor readable.
    fn ring(&self);
    /// Makes it unreadable.
    fn silence(&self);
}

/// Whether a turn may be waited for.
#[derive(Clone, Copy, Debug)]
pub enum Wait {
    /// Not longer than another process needs that is at its turn just now.
    No,
    /// Until then; `None` as long as it takes.
    Until(Option<Instant>),
}

/// How an attempt to send ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The message was sent, as the one of this number, counting round.
    Done(u32),
    /// As many messages wait as may.
    Full,
    /// The memory that is left has no room for it before others are received.
    NoRoom,
    /// Somebody else is at it, and [`Wait::No`] was said.
    Busy,
}

/// A view of a channel's words; copied freely.
#[derive(Clone, Copy, Debug)]
pub struct Conduit<'a> {
    words: &'a Words,
    stream: Stream<'a>,
    capacity: Option<u32>,
}

/// A turn; it ends when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    lock: &'a Mutex,
    taken: Taken,
}

impl Turn<'_> {
    /// Whether the one before died in its turn.
    pub fn is_recovered(&self) -> bool {
        self.taken == Taken::Recovered
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

/// Looks at a lock that is held for a tenth of a microsecond before it is called busy.
const LOOKS: usize = 128;

fn turn<'a>(lock: &'a Mutex, wait: Wait) -> Result<Option<Turn<'a>>> {
    let taken = match wait {
        Wait::Until(deadline) => Some(lock.lock(deadline)?),
        Wait::No => {
            #[cfg(not(loom))]
            for _ in 0..LOOKS {
                if !lock.is_locked() {
                    break;
                }
                crate::sync::spin();
            }
            #[cfg(loom)]
            let _ = LOOKS;
            lock.try_lock()
        }
    };
    Ok(taken.map(|taken| Turn { lock, taken }))
}

impl<'a> Conduit<'a> {
    /// A view over `words`, the units of all sheets and a link for each sheet; at most
    /// `capacity` messages may wait.
    pub fn new(
        words: &'a Words,
        units: &'a [Guarded<Unit>],
        below: &'a [AtomicU32],
        capacity: Option<u32>,
    ) -> Conduit<'a> {
        Conduit { words, stream: Stream::new(&words.stream, units, below), capacity }
    }

    /// The messages themselves.
    pub fn stream(&self) -> Stream<'a> {
        self.stream
    }

    /// Whether as many messages wait as may.
    pub fn is_full(&self) -> bool {
        self.capacity.is_some_and(|capacity| self.stream.waiting() >= capacity)
    }

    /// The turn to send; nobody else sends or allocates while it lasts.
    pub fn sending(&self, wait: Wait) -> Result<Option<Turn<'a>>> {
        turn(&self.words.sending.0, wait)
    }

    /// The turn to receive.
    pub fn receiving(&self, wait: Wait) -> Result<Option<Turn<'a>>> {
        turn(&self.words.receiving.0, wait)
    }

    /// Sends a record; see [`Stream::send`]. The number it gives must go to
    /// [`Conduit::sent`] when the turn is over.
    pub fn send(
        &self,
        _turn: &Turn<'_>,
        header: Header,
        fill: impl FnOnce(&[Guarded<Unit>]),
        bell: &impl Watched,
    ) -> Result<Sent> {
        if self.is_full() {
            return Ok(Sent::Full);
        }
        let Some(count) = self.stream.send(header, fill)? else { return Ok(Sent::NoRoom) };
        crate::fault::point("send-after-commit");
        // While the turn lasts nobody silences the bell, so one ring is enough for all that wait.
        if self.is_watched() && self.stream.received() == count.wrapping_sub(1) {
            bell.ring();
        }
        Ok(Sent::Done(count))
    }

    /// Message number `count` was sent, and the turn is over: wakes a receiver for it,
    /// if one is needed.
    ///
    /// Where more messages wait than receivers sleep, one of these is awake already or
    /// being woken, for an earlier message; it passes the wake on when it has taken that.
    pub fn sent(&self, count: u32) {
        full_fence(); // Pairs with `Waiters::sleep`, and with the one in `received`.
        let asleep = self.words.receivers.asleep();
        if asleep != 0 && count.wrapping_sub(self.stream.received()) <= asleep {
            self.words.receivers.wake(1);
        }
        if self.words.senders.asleep() != 0 && self.capacity.is_some() && !self.is_full() {
            self.words.senders.wake(1);
        }
    }

    /// Receives a message; see [`Stream::receive`].
    pub fn receive<R>(
        &self,
        _turn: &Turn<'_>,
        read: impl FnOnce(Header, &[Guarded<Unit>]) -> Result<R>,
    ) -> Result<Option<Received<R>>> {
        self.stream.receive(read)
    }

    /// Message number `count` was received, and the turn is over: wakes a sender for
    /// the place it left and passes a wake on, as [`Conduit::sent`] does, and silences the
    /// bell after the last message.
    pub fn received(&self, count: u32, bell: &impl Watched) -> Result<()> {
        full_fence(); // Pairs with `Waiters::sleep`, and with those in `sent` and `watch`.
        if self.is_watched() && self.stream.waiting() == 0 {
            self.settle(bell)?;
        }
        let asleep = self.words.senders.asleep();
        if asleep != 0 {
            let places = self.capacity.map(|capacity| capacity.saturating_sub(self.stream.sent().wrapping_sub(count)));
            // Without a limit a sender sleeps for want of memory only.
            if places.is_none_or(|places| places <= asleep) {
                self.words.senders.wake(1);
            }
        }
        if self.words.receivers.asleep() != 0 && self.stream.waiting() != 0 {
            self.words.receivers.wake(1);
        }
        Ok(())
    }

    fn is_watched(&self) -> bool {
        self.words.watched.0.load(Ordering::Relaxed) != 0
    }

    /// From now on the bell is heard exactly while messages wait.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] while it waits for its turn, as [`Mutex::lock`] says: call again.
    pub fn watch(&self, bell: &impl Watched) -> Result<()> {
        if self.is_watched() {
            return Ok(());
        }
        let Some(_turn) = self.sending(Wait::Until(None))? else { return Ok(()) };
        // A sender whose turn came before ours is seen by us; one that comes after sees the word.
        self.words.watched.0.store(1, Ordering::Relaxed);
        full_fence(); // Pairs with the one in `received`: a receiver sees the word, or we that nothing waits.
        self.ring_or_silence(bell);
        Ok(())
    }

    /// Silences the bell after the last message, in a turn to send, so that nothing is sent between look and act.
    ///
    /// The message is received, so an error may not end this, and neither may a signal. A sender that is stopped in its
    /// turn would hold us for ever: after a slice the bell is left as if the receiver had died here.
    fn settle(&self, bell: &impl Watched) -> Result<()> {
        // A model knows no time.
        let patience = if cfg!(loom) { None } else { Some(Instant::now() + SLICE) };
        loop {
            match self.sending(Wait::Until(patience)) {
                Ok(turn) => {
                    self.ring_or_silence(bell);
                    drop(turn);
                    return Ok(());
                }
                // Short: signals can wait until it is over.
                Err(error) if error.kind() == Kind::Interrupted => {}
                Err(error) if error.kind() == Kind::Timeout => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the bell say what is true. The caller has the turn to send.
    pub fn ring_or_silence(&self, bell: &impl Watched) {
        if self.stream.waiting() == 0 {
            bell.silence();
        } else {
            bell.ring();
        }
    }

    /// Waits until a message waits: true; or `deadline` has passed: false. Another
    /// receiver may be faster.
    ///
    /// # Errors
    /// [`Kind::Interrupted`] when a signal handler ran, and also now and then without one:
    /// look for signals and call again.
    pub fn wait_message(&self, deadline: Option<Instant>) -> Result<bool> {
        wait(&self.words.receivers, || self.stream.waiting() != 0, deadline)
    }

    /// Waits until there is room in a channel of limited length, as [`Conduit::wait_message`] does.
    pub fn wait_room(&self, deadline: Option<Instant>) -> Result<bool> {
        wait(&self.words.senders, || !self.is_full(), deadline)
    }

    /// Sleeps until something may have changed since the first `received` messages were
    /// received, at most for a slice of time.
    pub fn wait_change(&self, received: u32, limit: Option<Duration>) -> Result<()> {
        match self.words.senders.sleep(|| self.stream.received() != received, limit) {
            Err(error) if error.kind() == Kind::Timeout => Ok(()),
            other => other,
        }
    }

    /// Reports one message as done; false if none was left to be.
    pub fn task_done(&self) -> bool {
        let mut done = self.words.done.0.load(Ordering::Relaxed);
        loop {
            if self.stream.sent() == done {
                return false;
            }
            let next = done.wrapping_add(1);
            // AcqRel: a joining process sees what was done before each of the reports.
            match self.words.done.0.compare_exchange(done, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => done = now,
            }
        }
        full_fence(); // Pairs with `Waiters::sleep`.
        if self.words.joiners.asleep() != 0 && self.unfinished() == 0 {
            self.words.joiners.wake(u32::MAX >> 1);
        }
        true
    }

    /// How many messages were sent and not reported as done.
    pub fn unfinished(&self) -> u32 {
        // Done is read first: it never passes the number sent.
        let done = self.words.done.0.load(Ordering::Acquire);
        self.stream.sent().wrapping_sub(done)
    }

    /// Waits until every message was reported as done, as [`Conduit::wait_message`] does.
    pub fn wait_done(&self, deadline: Option<Instant>) -> Result<bool> {
        wait(&self.words.joiners, || self.unfinished() == 0, deadline)
    }
}

fn wait(waiters: &Waiters, ready: impl Fn() -> bool, deadline: Option<Instant>) -> Result<bool> {
    if ready() || waiters.spin(&ready) {
        return Ok(true);
    }
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(ready());
        }
        let outcome = waiters.sleep(&ready, left);
        // Also after an error: a wake may have been meant for us.
        if ready() {
            return Ok(true);
        }
        match outcome {
            Err(error) if error.kind() == Kind::Timeout => return Ok(false),
            other => other?,
        }
    }
}
