//! The worker's half: take a task, give its outcome.

use crate::error::{Error, Result};
use crate::fault;
use crate::os::clock;
use crate::process::Bell;
use crate::shm::arena::Allocator;
use crate::shm::journal::Journal;
use crate::shm::message::{Message, Payload};
use crate::shm::region::Region;
use crate::shm::task::{KEEPS, KEEPS_ALL, Place, TIMED, Verdict};
use crate::sync;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

/// Nanoseconds a worker spins for its next task: 2 µs when tasks come seldom, up
/// to what a sleep and a wake cost when they come often.
const SPIN: (u64, u64) = (2_000, 100_000);

/// A worker in its seat.
#[derive(Debug)]
pub struct Worker {
    region: Arc<Region>,
    seat: u16,
    bell: Bell,
    allocator: Allocator,
    journal: Option<Journal>,
    spin: u64,
}

/// A task this worker has claimed. Every one must be [finished](Worker::finish).
#[derive(Debug)]
#[must_use]
pub struct Task {
    entry: usize,
    /// When it was claimed, by the machine's clock.
    started: u64,
    flags: u64,
    /// The face's own number.
    pub mode: u32,
    /// The number under which to remember the function; odd: for good.
    pub function: u64,
    function_place: Place,
    body: Option<Payload>,
}

/// Notes how far one task has come, for the day its worker dies and for whoever watches its time.
#[derive(Clone, Debug)]
pub struct Progress {
    region: Arc<Region>,
    seat: u16,
    timed: bool,
}

impl Progress {
    /// The task has come so far, in units of the face's own ([`Outcome::reached`](super::Outcome::reached)); it began
    /// with 0. A task whose stretches have a limit begins a new one with this.
    pub fn reach(&self, reached: u64) {
        if self.timed {
            self.region.begin_stretch(self.seat, reached, clock::now());
        } else {
            self.region.set_reached(self.seat, reached);
        }
    }
}

impl Task {
    /// Whether all results are left in the journal, or only those that cost next to nothing.
    pub fn keeps_all(&self) -> bool {
        self.flags & KEEPS_ALL != 0
    }

    /// The arguments; the first time they are asked for, then nothing.
    pub fn take_body(&mut self) -> Payload {
        self.body.take().unwrap_or_else(|| Payload::Inline(Box::default()))
    }
}

/// Makes what a worker has received its own before the worker forks; see
/// [`Region::privatize`].
#[derive(Debug)]
pub struct ForkGuard {
    region: Arc<Region>,
    seat: u16,
}

impl ForkGuard {
    /// To be called before a fork.
    pub fn before_fork(&self) -> Result<()> {
        self.region.privatize(u64::from(self.seat) + 1)
    }
}

/// What a wait for a task brought.
#[derive(Debug)]
pub enum Next {
    /// A task.
    Task(Task),
    /// Nothing yet; wait again.
    Again,
    /// The pool is closed and its queue empty: the worker may go.
    End,
}

impl Worker {
    /// Sits down in `seat`, which the caller has taken, and takes over its part
    /// of the arena.
    pub fn sit(region: Arc<Region>, seat: u16, bell: OwnedFd) -> Result<Worker> {
        fault::point("start-up");
        let allocator = Allocator::take_over(region.part(usize::from(seat) + 1)?)?;
        Ok(Worker { region, seat, bell: Bell::from_fd(bell), allocator, journal: None, spin: 20_000 })
    }

    /// The pool's region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// What must be done before this process forks, apart from the worker itself,
    /// which may be in the midst of a task then.
    pub fn fork_guard(&self) -> ForkGuard {
        ForkGuard { region: Arc::clone(&self.region), seat: self.seat }
    }

    /// Tells the caller that this worker takes tasks from now on.
    pub fn ready(&self) -> Result<()> {
        self.region.seat_ready(self.seat)?;
        // Somebody may be in `wait_for_worker`. Rare enough to ring for nothing.
        self.bell.ring();
        Ok(())
    }

    /// Tells the caller why this worker cannot start; it must end after this.
    pub fn fail(&mut self, message: Message<'_>) -> Result<()> {
        let place = self.stage(message)?;
        self.region.seat_failed(self.seat, place.block, place.len, place.head)
    }

    /// What the caller tells every worker, if it does: a private copy.
    pub fn welcome(&self) -> Result<Option<Vec<u8>>> {
        let place = self.region.welcome();
        let is_there = !place.block.is_null();
        is_there.then(|| Payload::copy_of(&self.region, place).map(|(bytes, _)| bytes)).transpose()
    }

    /// Where to leave the result of each item of `task` as it is produced, if the caller wants that: a journal that is
    /// made once for a worker, and must be [begun](Journal::begin) for each task.
    pub fn journal(&mut self, task: &Task) -> Result<Option<Journal>> {
        if task.flags & KEEPS == 0 {
            return Ok(None);
        }
        match self.journal.take() {
            Some(journal) => Ok(Some(journal)),
            None => Journal::new(&self.region, self.seat, &mut self.allocator).map(Some),
        }
    }

    /// Takes the journal back when the task is over.
    pub fn put_back(&mut self, journal: Journal) {
        self.journal = Some(journal);
    }

    /// With what the worker notes how far `task` has come.
    pub fn progress(&self, task: &Task) -> Progress {
        Progress { region: Arc::clone(&self.region), seat: self.seat, timed: task.flags & TIMED != 0 }
    }

    /// Claims a task, if one waits.
    pub fn try_next(&mut self) -> Result<Option<Task>> {
        let queue = self.region.queue();
        let Some(index) = queue.claim(self.seat)? else { return Ok(None) };
        fault::point("after-claim");
        let entry = queue.entry(index).ok_or_else(|| Error::corrupt("a claimed entry is gone"))?;
        // After the claim: a task's time never begins before it.
        let started = clock::now();
        self.region.begin_task(self.seat, entry.state.position(), started);
        entry.read_claimed(|slip| {
            Ok(Some(Task {
                entry: index,
                started,
                flags: slip.flags,
                mode: slip.mode,
                function: slip.function,
                function_place: slip.function_place,
                body: Some(Payload::take(&self.region, slip, u64::from(self.seat) + 1)?),
            }))
        })
    }

    /// A private copy of the function of a claimed task, and the length of its
    /// head. The block itself is the caller's, who lends it to every worker.
    pub fn function(&self, task: &Task) -> Result<(Vec<u8>, usize)> {
        Payload::copy_of(&self.region, task.function_place)
    }

    /// Functions with a number below this one, and an even one, are needed no more.
    pub fn oldest_function(&self) -> u64 {
        self.region.oldest_function() << 1
    }

    /// Waits for a task: spins while that has paid lately, then sleeps.
    ///
    /// # Errors
    /// [`crate::Kind::Interrupted`] when a signal handler ran.
    pub fn wait(&mut self) -> Result<Next> {
        let region = Arc::clone(&self.region);
        let (queue, doorbell) = (region.queue(), region.doorbell());
        // Before the look at the queue: what was published before the pool was
        // closed is then seen, and nobody goes while it waits.
        let closed = doorbell.is_closed();
        if let Some(task) = self.try_next()? {
            return Ok(Next::Task(task));
        }
        if closed {
            return Ok(Next::End);
        }
        if doorbell.may_spin(self.seat) {
            fault::point("spinning");
            let task = self.spin();
            // After the claim: a spinner that leaves its post looks whether more has come, and
            // must not take the task in its own hand for it.
            doorbell.stop_spinning(self.seat, &queue);
            if let Some(task) = task? {
                return Ok(Next::Task(task));
            }
        }
        doorbell.sleep(&queue, None)?;
        fault::point("woken");
        Ok(Next::Again)
    }

    fn spin(&mut self) -> Result<Option<Task>> {
        let start = Instant::now();
        let region = Arc::clone(&self.region);
        while (start.elapsed().as_nanos() as u64) < self.spin {
            for _ in 0..64 {
                if region.queue().waiting() > 0 {
                    self.spin = (self.spin * 2).min(SPIN.1);
                    return self.try_next();
                }
                sync::spin();
            }
        }
        self.spin = (self.spin / 2).max(SPIN.0);
        Ok(None)
    }

    fn stage(&mut self, message: Message<'_>) -> Result<Place> {
        let lease = self.region.lease(&mut self.allocator, usize::from(self.seat) + 1, message)?;
        fault::point("mid-payload");
        message.write(&lease)?;
        let place = lease.place();
        lease.pass_on();
        Ok(place)
    }

    /// Gives the outcome of a claimed task.
    ///
    /// # Errors
    /// [`crate::Kind::Closed`] when the caller has revoked the task: this worker is about
    /// to be ended, and must not go on.
    ///
    /// [`crate::Kind::TooLarge`] when the message does not fit; the task is then
    /// still this worker's, and must be finished with a smaller message.
    pub fn finish(&mut self, task: &Task, verdict: Verdict, message: Message<'_>) -> Result<()> {
        let place = if message.fits_inline() { None } else { Some(self.stage(message)?) };
        let elapsed = clock::now().saturating_sub(task.started);
        let queue = self.region.queue();
        let entry = queue.entry(task.entry).ok_or_else(|| Error::corrupt("a claimed entry is gone"))?;
        entry.fill(|slip| {
            slip.verdict = verdict.number();
            slip.elapsed = elapsed;
            match place {
                Some(place) => slip.body = place,
                None => message.write_inline(slip),
            }
        });
        fault::point("before-finish");
        if !entry.state.finish(self.seat) {
            return Err(Error::new(crate::Kind::Closed, "the task was taken back while it ran"));
        }
        fault::point("before-push");
        queue.push_done(task.entry);
        if self.region.doorbell().finished() {
            self.bell.ring();
        }
        fault::point("after-push");
        Ok(())
    }
}
