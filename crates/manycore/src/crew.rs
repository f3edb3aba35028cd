//! The processes of a pool: start them, bury them, start others, end them.

use crate::error::{Error, Kind, Result};
use crate::invitation::{Chair, Invitation, Role};
use crate::porter::{Parcels, Porter};
use crate::start::{START, Start};
use manycore_engine::os::lifeline;
use manycore_engine::pool::{Pool, Woken};
use manycore_engine::process::Child;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// An idle worker ends within a millisecond of being told; one that does not is
/// held up by the program's own code (a destructor, a thread) and is killed.
const END: Duration = Duration::from_secs(1);

/// The worker processes of one pool.
#[derive(Debug)]
pub(crate) struct Crew {
    pool: Arc<Pool>,
    fingerprint: u64,
    members: Mutex<Members>,
    /// Why the pool ended by itself.
    reason: OnceLock<Error>,
    porter: Porter,
    /// Descriptors that every worker may ask for when it starts.
    _lent: Parcels,
}

#[derive(Debug)]
struct Members {
    /// How many there should be.
    wanted: usize,
    seated: HashMap<u16, Member>,
    /// How many were started so far.
    started: u64,
}

#[derive(Debug)]
struct Member {
    child: Child,
    /// As long as this is open, the worker lives.
    _lifeline: OwnedFd,
    started: Instant,
}

impl Crew {
    /// Starts `wanted` workers for `pool`, and waits until one of them is ready:
    /// it proves that the program is the right one and reaches [`crate::init`].
    /// `porter` has what was `lent` to all of them already.
    pub(crate) fn start(
        pool: Arc<Pool>,
        fingerprint: u64,
        wanted: usize,
        (porter, lent): (Porter, Parcels),
    ) -> Result<Crew> {
        let members = Mutex::new(Members { wanted, seated: HashMap::new(), started: 0 });
        let crew = Crew { pool, fingerprint, members, reason: OnceLock::new(), porter, _lent: lent };
        // A statement of its own: the lock must be free again before the wait.
        let started = crew.fill(&mut crew.members());
        match started.and_then(|()| crew.wait(|pool| pool.wait_for_worker(None))) {
            Ok(()) => Ok(crew),
            Err(error) => {
                crew.end(true);
                Err(error)
            }
        }
    }

    /// Whoever gives descriptors to them.
    pub(crate) fn porter(&self) -> &Porter {
        &self.porter
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why no task is answered any more, if that is so.
    pub(crate) fn broken(&self) -> Option<Error> {
        let loss = self.pool.broken()?;
        Some(self.reason.get().cloned().unwrap_or_else(|| Error::ended(&loss)))
    }

    /// Waits by `call`, looking after the workers meanwhile, until it says Ready.
    ///
    /// # Errors
    /// When the pool was broken, or is broken meanwhile.
    pub(crate) fn wait(&self, call: impl Fn(&Pool) -> manycore_engine::Result<Woken>) -> Result<()> {
        loop {
            match call(&self.pool) {
                Ok(Woken::Ready) => return Ok(()),
                Ok(Woken::Exits | Woken::Vacant) => self.bury(),
                // Time to look around, or a signal whose handler has run.
                Err(error) if error.kind() == manycore_engine::Kind::Interrupted => self.look_after(),
                Err(error) => return Err(error.into()),
            }
            if let Some(error) = self.broken() {
                return Err(error);
            }
        }
    }

    /// Buries the workers that have ended and starts others, where there is no pause.
    pub(crate) fn bury(&self) {
        let mut members = self.members();
        for seat in self.pool.take_exited() {
            let Some(member) = members.seated.remove(&seat) else { continue };
            // It has ended, so this does not wait.
            let exit = member.child.wait().unwrap_or(manycore_engine::process::Exit::Unknown);
            match self.pool.bury(seat, exit) {
                Ok(true) => {}
                Ok(false) => members.wanted = 0,
                Err(error) => self.end_with(&mut members, error.into()),
            }
        }
        self.refill(&mut members);
    }

    /// Takes what is finished and buries the workers that have ended; does not sleep.
    pub(crate) fn look(&self) {
        // Where that fails, whoever waits is told.
        let _ = self.pool.collect();
        if self.pool.look_for_exits().unwrap_or(false) || self.pool.is_vacant() {
            self.bury();
        }
    }

    /// How many workers there are now, and how many were started so far.
    pub(crate) fn count(&self) -> (usize, u64) {
        let members = self.members();
        (members.seated.len(), members.started)
    }

    /// Answers nothing any more, because of `reason`.
    pub(crate) fn give_up(&self, reason: Error) {
        self.end_with(&mut self.members(), reason);
    }

    /// Now and then: tries again what could not be started, and ends a worker
    /// that does not come up.
    pub(crate) fn look_after(&self) {
        let mut members = self.members();
        let late = members
            .seated
            .iter()
            .find(|(seat, member)| member.started.elapsed() > START && !self.pool.region().is_ready(**seat));
        if let Some((_, member)) = late {
            let pid = member.child.pid();
            let message = format!(
                "worker process {pid} did not reach manycore::init() within {} seconds; make it the first line of main",
                START.as_secs()
            );
            self.end_with(&mut members, Error::new(Kind::Start, message));
        }
        self.refill(&mut members);
    }

    fn refill(&self, members: &mut Members) {
        if !self.pool.may_hire() {
            return;
        }
        if let Err(error) = self.fill(members) {
            // The others go on; the look around tries again.
            if members.seated.is_empty() {
                self.end_with(members, error);
            }
        }
        self.pool.leave_empty();
    }

    fn end_with(&self, members: &mut Members, reason: Error) {
        members.wanted = 0;
        let _ = self.reason.set(reason);
        // Fails only on damaged memory; the pool is marked as broken even then.
        let _ = self.pool.terminate();
        kill(members);
        self.pool.end_kin();
    }

    fn fill(&self, members: &mut Members) -> Result<()> {
        while members.seated.len() < members.wanted {
            let seat = self.pool.take_seat()?;
            match self.launch(seat) {
                Ok(member) => {
                    members.started += 1;
                    members.seated.insert(seat, member)
                }
                Err(error) => {
                    self.pool.leave_seat(seat);
                    return Err(error);
                }
            };
        }
        Ok(())
    }

    fn launch(&self, seat: u16) -> Result<Member> {
        let (kept, given) = lifeline::pair()?;
        let (bell, counter) = (self.pool.bell().as_raw_fd(), self.porter.counter().as_raw_fd());
        let role = Role::Worker(Chair { seat, bell, counter });
        let invitation = Invitation::new(role, self.pool.region().file(), Some(given.as_fd()), self.fingerprint)?;
        let child = Start::default().launch(invitation)?;
        let pidfd = child
            .pidfd()
            .try_clone_to_owned()
            .map_err(|error| Error::new(Kind::System, format!("watching a worker process: {error}")));
        let enlisted = pidfd.and_then(|pidfd| Ok(self.pool.enlist(seat, child.pid(), pidfd)?));
        if let Err(error) = enlisted {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        Ok(Member { child, _lifeline: kept, started: Instant::now() })
    }

    /// Ends and reaps every worker: at once where it must be `now`, else when they
    /// have done what they were given.
    pub(crate) fn end(&self, now: bool) {
        {
            let mut members = self.members();
            members.wanted = 0;
            if now {
                let _ = self.pool.terminate();
                kill(&members);
                self.pool.end_kin();
            } else {
                self.pool.close();
            }
        }
        let deadline = Instant::now() + END;
        loop {
            let seen = self.pool.events();
            if self.members().seated.is_empty() {
                return;
            }
            match self.pool.wait_for_event(seen, Some(deadline)) {
                Ok(Woken::Ready) => {}
                Ok(Woken::Exits | Woken::Vacant) => self.bury(),
                Err(error) if error.kind() == manycore_engine::Kind::Interrupted => {}
                // Too late, or nothing works any more: the short way.
                Err(_) => break,
            }
        }
        let mut members = self.members();
        kill(&members);
        for (_, member) in members.seated.drain() {
            let _ = member.child.wait();
        }
    }
}

fn kill(members: &Members) {
    for member in members.seated.values() {
        let _ = member.child.kill();
    }
}
