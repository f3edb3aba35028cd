//! The caller's half of a pool: submit, collect, bury.

use super::chunks::Keeping;
use super::job::{Job, JobOptions, Loss, Outcome, Statistics};
use super::ledger::{Ledger, RESERVE, Terms};
use super::wait::{Helm, Waiters};
use crate::error::{Error, Kind, Result};
use crate::os::clock;
use crate::process::{Event, Exit, Supervisor};
use crate::shm::arena::{BlockRef, HELD_BY_CALLER};
use crate::shm::blocks::Lease;
use crate::shm::message::{Message, Payload};
use crate::shm::region::Region;
use crate::shm::task::{KEEPS, KEEPS_ALL, TIMED};
use std::collections::{BTreeSet, VecDeque};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Tasks in flight at most: enough that workers do not run dry while the caller
/// wakes up (1024 of half a microsecond are 250 µs for two workers), few enough
/// that the table stays in the second-level cache.
const ENTRIES: u32 = 1024 + RESERVE as u32;

/// Payload bytes in flight at most, beyond what every worker has in hand: more
/// would only push warm blocks out of the caches.
const BYTES: u64 = 64 << 20;

/// A pool of workers, seen from the process that gives them work.
///
/// Any number of threads may use it. No thread of its own stands between them
/// and the workers: whoever waits collects.
#[derive(Debug)]
pub struct Pool {
    pub(super) region: Arc<Region>,
    pub(super) supervisor: Supervisor,
    ledger: Mutex<Ledger>,
    pub(super) waiters: Waiters,
    functions: Mutex<Functions>,
    /// Keeps the block of the welcome.
    welcome: OnceLock<Lease>,
}

/// A function in shared memory, under the number by which workers remember it.
#[derive(Debug)]
pub struct Function {
    number: u64,
    lease: Lease,
    pool: std::sync::Weak<Pool>,
    lasting: bool,
}

#[derive(Debug, Default)]
struct Functions {
    next: u64,
    passing: BTreeSet<u64>,
}

/// One task to submit.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The task's number in its job.
    pub index: u64,
    /// A number of the face's own, given to the worker unchanged.
    pub mode: u32,
    /// Which results the worker leaves where they are found if it dies in the midst of the items.
    pub keeps: Keeping,
    /// What to call.
    pub function: &'a Arc<Function>,
    /// The arguments.
    pub message: Message<'a>,
}

/// Whether a task can be submitted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There is room.
    Yes,
    /// Too much is in flight; wait for an outcome.
    No,
}

impl Drop for Function {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.upgrade().filter(|pool| !self.lasting && pool.is_ours()) {
            let mut functions = pool.functions();
            functions.passing.remove(&(self.number >> 1));
            let oldest = functions.passing.first().copied().unwrap_or(functions.next + 1);
            pool.region.set_oldest_function(oldest);
        }
    }
}

impl Pool {
    /// A pool with `seats` seats, all empty.
    pub fn new(seats: u16) -> Result<Arc<Pool>> {
        let region = Arc::new(Region::create(u32::from(seats), ENTRIES)?);
        Ok(Arc::new(Pool {
            ledger: Mutex::new(Ledger::new(&region)?),
            supervisor: Supervisor::new()?,
            waiters: Waiters::default(),
            functions: Mutex::default(),
            welcome: OnceLock::new(),
            region,
        }))
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // A panic under the lock leaves an account that only lacks an answer; the
        // others must still get theirs.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn functions(&self) -> MutexGuard<'_, Functions> {
        self.functions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shared memory; a worker needs it.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// The bell; a worker needs it.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.supervisor.bell()
    }

    /// What every worker is told when it sits down ([`Worker::welcome`](super::Worker::welcome)).
    /// To be called once, before the first worker is started.
    pub fn set_welcome(&self, message: Message<'_>) -> Result<()> {
        let lease = self.stage(message)?;
        let place = lease.place();
        let fresh = self.welcome.set(lease).is_ok();
        if fresh {
            self.region.set_welcome(place);
        }
        fresh.then_some(()).ok_or_else(|| Error::new(Kind::Closed, "the pool's welcome is already written"))
    }

    /// Takes an empty seat for a worker that is about to start.
    pub fn take_seat(&self) -> Result<u16> {
        let mut ledger = self.ledger();
        let seat = ledger
            .seats
            .iter()
            .position(|seat| !seat.taken)
            .ok_or_else(|| Error::new(Kind::TooLarge, "every seat of the pool has a worker"))?;
        ledger.seats[seat].taken = true;
        self.region.open_seat(seat as u16)?;
        Ok(seat as u16)
    }

    /// The worker meant for `seat` could not be started.
    pub fn leave_seat(&self, seat: u16) {
        if let Some(account) = self.ledger().seats.get_mut(usize::from(seat)) {
            *account = Default::default();
        }
    }

    /// The worker in `seat` is process `pid`; `pidfd` tells its end.
    pub fn enlist(&self, seat: u16, pid: u32, pidfd: OwnedFd) -> Result<()> {
        if let Some(account) = self.ledger().seats.get_mut(usize::from(seat)) {
            account.pid = pid;
        }
        self.supervisor.enlist(seat, pidfd)?;
        // It may run a task already, and that may have been revoked before anybody could end it.
        let doomed = self.ledger().seats.get(usize::from(seat)).is_some_and(|account| account.doomed);
        if doomed { self.supervisor.kill(seat) } else { Ok(()) }
    }

    /// Seats whose worker has ended; each must be [buried](Pool::bury).
    pub fn take_exited(&self) -> Vec<u16> {
        self.ledger().exited.drain(..).collect()
    }

    /// Seats from [`Pool::take_exited`] that could not be buried after all.
    pub fn put_back_exited(&self, seats: impl Iterator<Item = u16>) {
        self.ledger().exited.extend(seats);
    }

    /// Looks, without sleeping, whether a worker has ended.
    pub fn look_for_exits(&self) -> Result<bool> {
        let events = self.supervisor.exited()?;
        let mut ledger = self.ledger();
        ledger.note(&events);
        Ok(!ledger.exited.is_empty())
    }

    /// The worker in `seat` ended by `exit`: answers the tasks it was running,
    /// takes back what it held, and empties the seat. Says whether another
    /// worker should be started, as soon as the pool [may hire](Pool::may_hire).
    pub fn bury(&self, seat: u16, exit: Exit) -> Result<bool> {
        self.bury_with(seat, exit, None)
    }

    /// As [`Pool::bury`], of a worker that has left `words` about where it was.
    pub fn bury_with(&self, seat: u16, exit: Exit, words: Option<Arc<str>>) -> Result<bool> {
        let mut ledger = self.ledger();
        let account = ledger
            .seats
            .get(usize::from(seat))
            .copied()
            .ok_or_else(|| Error::new(Kind::Corrupt, format!("there is no seat {seat}")))?;
        if !account.taken {
            return Ok(ledger.broken.is_none());
        }
        let report = self.region.failure(seat).and_then(|(block, len, head)| {
            let lease = Lease::new(&self.region, block, len, head).ok()?;
            // A private copy: the block goes with the dead worker's part.
            Some(Arc::new(Payload::Inline(Payload::Block(Arc::new(lease)).to_vec().into())))
        });
        let was_ready = self.region.is_ready(seat);
        ledger.bury(&self.region, seat, &Loss::Worker { pid: account.pid, exit, words })?;
        if let Some(account) = ledger.seats.get_mut(usize::from(seat)) {
            *account = Default::default();
        }
        let hopeful = ledger.hiring.ended(was_ready, exit, Instant::now());
        if report.is_some() || !hopeful {
            let loss = Loss::Start { pid: account.pid, exit, report };
            ledger.withdraw(&self.region, &loss)?;
            ledger.broken.get_or_insert(loss);
        }
        let go_on = ledger.broken.is_none();
        let wakes = ledger.pause().is_some() || ledger.any_news();
        drop(ledger);
        self.nudge();
        if wakes {
            // It sleeps without a limit; who buries may stop waiting before the pause is over, and does not run again
            // what the dead worker has left.
            self.wake_keeper();
        }
        Ok(go_on)
    }

    /// Whether workers may be started in empty seats now: not during the pause after kills.
    /// Whoever waits is told of its end ([`Woken::Vacant`](super::Woken::Vacant)).
    pub fn may_hire(&self) -> bool {
        self.ledger().pause().is_none_or(|rest| rest.is_zero())
    }

    /// How many workers in a row were killed before they were ready.
    pub fn killed_starts(&self) -> u32 {
        self.ledger().hiring.killed()
    }

    /// Whether a pause is over that left seats empty.
    pub fn is_vacant(&self) -> bool {
        self.ledger().pause().is_some_and(|rest| rest.is_zero())
    }

    /// Seats that are empty now are meant to be, so that nobody is told of them.
    pub fn leave_empty(&self) {
        self.ledger().hiring.settle();
    }

    /// Why no task is answered any more, if that is so.
    pub fn broken(&self) -> Option<Loss> {
        self.ledger().broken.clone()
    }

    /// A number that grows whenever something may let somebody go on: an outcome,
    /// a death, a [nudge](Pool::nudge).
    pub fn events(&self) -> u64 {
        self.ledger().events
    }

    /// Whether tasks wait that no worker has claimed.
    pub fn has_waiting(&self) -> bool {
        self.region.queue().waiting() > 0
    }

    /// How many tasks no worker has claimed.
    pub fn waiting(&self) -> usize {
        self.region.queue().waiting() as usize
    }

    /// How many jobs have tasks in flight.
    pub fn open_jobs(&self) -> usize {
        self.ledger().open_jobs()
    }

    /// Tasks in flight.
    pub fn in_flight(&self) -> usize {
        self.ledger().in_flight()
    }

    /// Opens a job.
    pub fn open_job(self: &Arc<Pool>, options: JobOptions) -> Job {
        Job { pool: Arc::clone(self), key: self.ledger().open_job(options) }
    }

    /// Workers can say where they are before they are ended: they are [asked](crate::os::watch::ask_to_end)
    /// when a task takes too long.
    pub fn set_last_words(&self) {
        self.ledger().has_last_words = true;
    }

    /// Whether this process made the pool. One forked from it inherits the value and
    /// must not touch the account, whose lock may have been held at the fork.
    pub fn is_ours(&self) -> bool {
        self.region.is_ours()
    }

    pub(super) fn forget(&self, key: u64) {
        if !self.is_ours() {
            return;
        }
        // The outcomes are dropped after the lock: giving blocks back may take long.
        let outcomes = self.ledger().forget_job(key);
        drop(outcomes);
    }

    pub(super) fn take_outcome(&self, key: u64) -> Option<Outcome> {
        self.ledger().take_outcome(key)
    }

    pub(super) fn take_outcomes(&self, key: u64, outcomes: &mut VecDeque<Outcome>) {
        self.ledger().take_outcomes(key, outcomes);
    }

    pub(super) fn owed(&self, key: u64) -> u64 {
        self.ledger().owed(key)
    }

    /// Collects what workers have finished, and tells those who wait: an outcome that
    /// one thread collects may be what the one at the helm sleeps for.
    pub(super) fn gather(&self, mut ledger: MutexGuard<'_, Ledger>) -> Result<()> {
        let collected = ledger.collect(&self.region)?;
        drop(ledger);
        if collected > 0 {
            self.tell();
        }
        Ok(())
    }

    /// Something may have changed for those who wait.
    fn tell(&self) {
        if self.waiters.notify() {
            self.supervisor.ring();
        }
    }

    /// Collects what workers have finished; does not sleep.
    pub fn collect(&self) -> Result<()> {
        self.gather(self.ledger())
    }

    /// Puts a function into shared memory. A `lasting` one may be remembered by
    /// workers for good; any other is forgotten soon after its last task.
    pub fn function(self: &Arc<Pool>, message: Message<'_>, lasting: bool) -> Result<Arc<Function>> {
        let lease = self.stage(message)?;
        let mut functions = self.functions();
        functions.next += 1;
        // The lowest bit tells the worker which kind it is.
        let number = functions.next << 1 | u64::from(lasting);
        if !lasting {
            let key = functions.next;
            functions.passing.insert(key);
        }
        Ok(Arc::new(Function { number, lease, pool: Arc::downgrade(self), lasting }))
    }

    /// Copies a message into a block of the caller's part.
    fn stage(&self, message: Message<'_>) -> Result<Lease> {
        let lease = self.region.lease(&mut self.ledger().allocator, 0, message)?;
        message.write(&lease)?;
        Ok(lease)
    }

    /// Whether a task of `priority` can be submitted now. Collects what has been finished when not.
    pub fn room(&self, priority: i32) -> Result<Room> {
        let ledger = self.ledger();
        if has_room(&ledger, priority) {
            return Ok(Room::Yes);
        }
        self.gather(ledger)?;
        Ok(if has_room(&self.ledger(), priority) { Room::Yes } else { Room::No })
    }

    /// Submits one task of `job`. [`Room::No`]: nothing was submitted; ask
    /// [`Pool::room`] before, and expect that another thread was quicker.
    ///
    /// # Errors
    /// [`Kind::Closed`] when no worker will answer any more (see [`Pool::broken`]);
    /// [`Kind::TooLarge`] when the arguments do not fit into what memory is left.
    pub fn submit(&self, job: &Job, work: Work<'_>) -> Result<Room> {
        let message = work.message;
        let lease = if message.fits_inline() { None } else { Some(self.stage(message)?) };
        let place = lease.as_ref().map(Lease::place);
        let bytes = place.map_or(0, |place| place.len);
        let block = place.map_or(BlockRef::default(), |place| place.block);

        let queue = self.region.queue();
        let mut ledger = self.ledger();
        if ledger.broken.is_some() {
            return Err(Error::new(Kind::Closed, "the pool answers no more tasks"));
        }
        let Terms { limit, priority } = ledger.terms(job.key);
        // Before `make_room`, which counts on an entry that is not queued.
        if ledger.vacant(priority) == 0 {
            return Ok(Room::No);
        }
        let outranks = ledger.outranks(priority);
        queue.make_room()?;
        let engaged = ledger.engage(job.key, work.index, block, bytes, work.function);
        let Some((index, entry)) = engaged.and_then(|index| Some((index, queue.entry(index)?))) else {
            return Ok(Room::No);
        };
        let wakes = limit.is_some_and(|limit| ledger.deadlines.expect(limit, clock::now()));
        // The entry is in charge of the block from here on.
        lease.map(Lease::pass_on);
        let function = &work.function;
        entry.fill(|slip| {
            slip.job = job.key;
            slip.index = work.index;
            slip.mode = work.mode;
            slip.flags = if limit.is_some() { TIMED } else { 0 }
                | match work.keeps {
                    Keeping::Nothing => 0,
                    Keeping::Plain => KEEPS,
                    Keeping::All => KEEPS | KEEPS_ALL,
                };
            slip.function = function.number;
            slip.function_place = function.lease.place();
            match place {
                Some(place) => slip.body = place,
                None => message.write_inline(slip),
            }
        });
        crate::fault::point("before-publish");
        let waiting = if outranks {
            ledger.publish_ranked(&self.region, index)
        } else {
            let position = queue.publish(index);
            ledger.published(index, position);
            1
        };
        let paused = ledger.pause().is_some();
        drop(ledger);
        // Workers that found the queue empty for a moment may have gone to sleep.
        (0..waiting).for_each(|_| self.region.doorbell().published(&queue, false));
        if wakes {
            // Whoever waits sleeps until a later deadline than this task's.
            self.tell();
        }
        if paused || wakes {
            // While nothing is in flight it does not watch for the end of a pause.
            self.wake_keeper();
        }
        Ok(Room::Yes)
    }

    /// Fails every task of `job` with [`Loss::Cancelled`]: those in the queue at once, and
    /// they never run; those that run are ended with their workers, and fail as soon as these are buried. Gives the
    /// seats of those workers.
    ///
    /// With `running` false those that run are left alone.
    pub fn cancel(&self, job: u64, running: bool) -> Result<Vec<u16>> {
        let mut ledger = self.ledger();
        let seats = ledger.cancel(&self.region, job, running, &Loss::Cancelled);
        // Under the lock: nobody may bury such a worker and fill its seat meanwhile.
        let killed = seats.iter().try_for_each(|seat| self.supervisor.kill(*seat));
        ledger.end_kin();
        drop(ledger);
        self.nudge();
        killed.map(|()| seats)
    }

    /// Whether the keeper is woken for outcomes of `job` from now on.
    pub fn keep(&self, job: u64, kept: bool) {
        self.ledger().keep(job, kept);
    }

    /// What was done so far.
    pub fn statistics(&self) -> Statistics {
        self.ledger().statistics
    }

    /// No task will be submitted any more: workers end when the queue is empty.
    pub fn close(&self) {
        self.region.doorbell().close();
    }

    /// Fails every task with [`Loss::Terminated`]. The caller ends the workers, and then [their kin](Pool::end_kin).
    pub fn terminate(&self) -> Result<()> {
        let mut ledger = self.ledger();
        ledger.broken.get_or_insert(Loss::Terminated);
        ledger.note_all_kin(&self.region);
        let lost = ledger.lose_all(&self.region, &Loss::Terminated);
        drop(ledger);
        self.close();
        self.nudge();
        lost
    }

    /// Ends the processes that the tasks have started which [`Pool::terminate`] has caught running.
    pub fn end_kin(&self) {
        self.ledger().end_kin();
    }

    /// Every worker has ended and been buried: gives the memory back that only
    /// they needed. What the caller still holds stays.
    pub fn retire(&self) -> Result<()> {
        self.region.retire()
    }

    /// To be called before this process forks; see [`Region::privatize`].
    pub fn before_fork(&self) -> Result<()> {
        self.collect()?;
        self.region.privatize(HELD_BY_CALLER)
    }

    /// Wakes all waiting threads, to look again.
    pub fn nudge(&self) {
        self.ledger().events += 1;
        self.tell();
    }

    /// What a thread waits with.
    pub(super) fn helm(&self) -> Helm<'_> {
        Helm::new(self)
    }
}

pub(super) fn has_room(ledger: &Ledger, priority: i32) -> bool {
    // Every worker may have one large payload in hand and one waiting, whatever its size.
    let few = ledger.in_flight() <= ledger.seats.len();
    ledger.vacant(priority) > 0 && (ledger.bytes < BYTES || few)
}

impl Ledger {
    /// How long seats that a kill has emptied stay so; zero when they may be filled. None: there are none such.
    pub(super) fn pause(&self) -> Option<Duration> {
        // Asked for every task, and nearly always None: the clock and the seats come last.
        let wanted = self.hiring.is_paused() && self.broken.is_none() && self.seats.iter().any(|seat| !seat.taken);
        if wanted { self.hiring.rest(Instant::now()) } else { None }
    }

    pub(super) fn note(&mut self, events: &[Event]) {
        self.exited.extend(events.iter().filter_map(|event| match event {
            Event::Exited(seat) => Some(*seat),
            Event::Rung => None,
        }));
    }
}
