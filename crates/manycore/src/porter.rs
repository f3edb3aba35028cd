//! Descriptors for the workers of a pool.
//!
//! Which worker will run a call is not known when the call is written, so a descriptor in
//! it is not sent along. It is *left* with the pool under a number, which is written down
//! in its stead; the worker that finds the number asks for it:
//!
//! | who | sends | with |
//! |---|---|---|
//! | worker, on the pool's socket, which all of them share | the number | one end of a pair of sockets |
//! | porter, a thread of the pool's process, on that end | 1 | the descriptor |
//! | | 0 | nothing: it has none of this number |
//!
//! Every packet is whole by itself and the answer goes where the question came from, so
//! a worker that dies in between leaves nothing. The thread is there from the first
//! descriptor on. What arguments name is given out once and is then closed here; what a closure
//! captures is wanted by every worker, maybe more than once, and stays until its job is over: also
//! when its ticket was dropped before, for the keeper then has the job.

use crate::error::{Error, Kind, Result};
use crate::passing::{Key, fetch_from, lending};
use manycore_engine::fault;
use manycore_engine::os::packets::Packets;
use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

/// The descriptors of one pool.
pub(crate) struct Porter(Arc<Desk>);

/// Where descriptors are left and asked for.
pub(crate) struct Desk {
    /// The porter's end.
    window: Packets,
    /// The workers' end.
    counter: Packets,
    state: Mutex<State>,
    /// The process whose thread the porter is; a fork has none.
    owner: u32,
}

#[derive(Default)]
struct State {
    next: u64,
    left: HashMap<u64, Left>,
    /// The numbers of what has a key, which stays for the life of the pool: a few regions.
    known: HashMap<Key, u64>,
    thread: Option<JoinHandle<()>>,
    has_ended: bool,
}

struct Left {
    descriptor: Arc<OwnedFd>,
    once: bool,
}

/// What one job has left, to be taken back when it is over.
#[derive(Default)]
pub(crate) struct Parcels {
    desk: Option<Arc<Desk>>,
    numbers: Vec<u64>,
}

impl Porter {
    /// For a pool that has none yet.
    pub(crate) fn new() -> Result<Porter> {
        let (window, counter) = Packets::pair()?;
        Ok(Porter(Arc::new(Desk { window, counter, state: Mutex::default(), owner: std::process::id() })))
    }

    /// What every worker inherits.
    pub(crate) fn counter(&self) -> BorrowedFd<'_> {
        self.0.counter.as_fd()
    }

    /// Runs `write`, which may leave descriptors, to be given out `once` or as often as they are asked
    /// for. They belong to `parcels` then.
    pub(crate) fn lend<R>(&self, parcels: &mut Parcels, once: bool, write: impl FnOnce() -> R) -> R {
        let (written, numbers) = lending(&self.0, once, write);
        if !numbers.is_empty() {
            parcels.desk.get_or_insert_with(|| Arc::clone(&self.0));
            parcels.numbers.extend(numbers);
        }
        written
    }
}

impl Desk {
    /// Leaves a descriptor; gives its number, and whether it is the job's to take back.
    pub(crate) fn leave(
        self: &Arc<Desk>,
        key: Option<Key>,
        once: bool,
        descriptor: impl FnOnce() -> std::io::Result<Arc<OwnedFd>>,
    ) -> std::io::Result<(u64, bool)> {
        let mut state = self.state();
        if let Some(number) = key.and_then(|key| state.known.get(&key)) {
            return Ok((*number, false));
        }
        let descriptor = descriptor()?;
        if state.thread.is_none() {
            let desk = Arc::clone(self);
            state.thread = Some(thread::Builder::new().name("manycore-porter".to_owned()).spawn(move || desk.serve())?);
        }
        state.next += 1;
        let number = state.next;
        state.left.insert(number, Left { descriptor, once: once && key.is_none() });
        state.known.extend(key.map(|key| (key, number)));
        Ok((number, key.is_none()))
    }

    /// Answers until the pool ends. Nonsense gets no answer, whoever sends it: each packet
    /// is taken off the socket, and the worker that waits for the answer finds its other end closed.
    fn serve(&self) {
        while !self.state().has_ended {
            let Ok(Some(packet)) = self.window.receive() else { continue };
            let number = <[u8; 8]>::try_from(packet.bytes.as_slice());
            if let (Ok(number), Some(reply)) = (number, packet.descriptors.into_iter().next()) {
                self.answer(u64::from_le_bytes(number), reply);
            }
        }
    }

    fn answer(&self, number: u64, reply: OwnedFd) {
        let mut state = self.state();
        let descriptor = match state.left.get(&number) {
            Some(left) if left.once => state.left.remove(&number).map(|left| left.descriptor),
            Some(left) => Some(Arc::clone(&left.descriptor)),
            None => None,
        };
        drop(state);
        // A worker that is gone, or does not take its answer, does without.
        let _ = match &descriptor {
            Some(descriptor) => Packets::from_fd(reply).send_now(&[1], &[descriptor.as_fd()]),
            None => Packets::from_fd(reply).send_now(&[0], &[]),
        };
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Porter {
    fn drop(&mut self) {
        let thread = {
            let mut state = self.0.state();
            state.has_ended = true;
            state.thread.take()
        };
        let Some(thread) = thread.filter(|_| self.0.owner == std::process::id()) else { return };
        // Any packet makes it look.
        if self.0.counter.send(&[], &[]).is_ok() {
            // It does not panic, and if it did there would be nothing to do.
            let _ = thread.join();
        }
    }
}

impl Parcels {
    /// Whether nothing is left with the pool.
    pub(crate) fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }
}

impl Drop for Parcels {
    fn drop(&mut self) {
        if let Some(desk) = &self.desk {
            let mut state = desk.state();
            for number in &self.numbers {
                state.left.remove(number);
            }
        }
    }
}

impl fmt::Debug for Porter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Porter").finish_non_exhaustive()
    }
}

impl fmt::Debug for Parcels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parcels").field(&self.numbers).finish()
    }
}

/// In a worker: descriptors that values name are asked for at `counter` from now on.
pub(crate) fn ask_at(counter: OwnedFd) {
    fetch_from(Packets::from_fd(counter));
}

/// In a worker: asks for the descriptor `number`.
pub(crate) fn ask(counter: &Packets, number: u64) -> Result<OwnedFd> {
    let (mine, reply) = Packets::pair()?;
    counter.send(&number.to_le_bytes(), &[reply.as_fd()])?;
    drop(reply);
    fault::point("porter-asked");
    let answer = mine.receive()?.and_then(|packet| packet.descriptors.into_iter().next());
    answer.ok_or_else(|| {
        Error::new(Kind::System, format!("the pool has no descriptor number {number} (any more) for this worker"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;
    use crate::passing::Passed;
    use std::fs::File;
    use std::io::{PipeReader, Read, Write};

    fn give_out(porter: &Porter, parcels: &mut Parcels, once: bool) -> (u64, PipeReader) {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut bytes = Vec::new();
        porter.lend(parcels, once, || codec::push(&mut bytes, &Passed(writer))).unwrap();
        (u64::from(bytes[0]), reader)
    }

    #[test]
    fn descriptors_are_given_out_once_or_until_the_job_is_over() {
        let porter = Porter::new().unwrap();
        let counter = Packets::from_fd(porter.counter().try_clone_to_owned().unwrap());
        let mut parcels = Parcels::default();
        let (once, mut reader) = give_out(&porter, &mut parcels, true);
        drop(ask(&counter, once).unwrap());
        // Closed on both sides.
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        assert!(ask(&counter, once).is_err() && ask(&counter, u64::MAX).is_err());
        let (often, mut reader) = give_out(&porter, &mut parcels, false);
        for _ in 0..3 {
            assert!(File::from(ask(&counter, often).unwrap()).metadata().is_ok());
        }
        drop(parcels);
        assert!(ask(&counter, often).is_err());
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn nonsense_gets_no_answer_and_does_no_harm() {
        let porter = Porter::new().unwrap();
        let counter = Packets::from_fd(porter.counter().try_clone_to_owned().unwrap());
        let mut parcels = Parcels::default();
        let (number, _reader) = give_out(&porter, &mut parcels, true);
        let null = File::open("/dev/null").unwrap();
        counter.send(b"short", &[null.as_fd()]).unwrap();
        counter.send(&number.to_le_bytes(), &[]).unwrap();
        counter.send(&u64::MAX.to_le_bytes(), &[null.as_fd(), null.as_fd()]).unwrap();
        counter.send(&[], &[]).unwrap();
        File::from(porter.counter().try_clone_to_owned().unwrap()).write_all(b"\xff no packet").unwrap();
        assert!(ask(&counter, number).is_ok());
    }
}
