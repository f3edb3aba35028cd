//! Who owes what: the caller's private account of entries, jobs and seats.
//!
//! Everything here is under the pool's lock, which is held for moments only and
//! never while a thread waits for anything else.

use super::caller::Function;
use super::hiring::Hiring;
use super::job::{Answer, JobOptions, Loss, Outcome, Statistics};
use super::ranks::Ranks;
use crate::dispatch::{Deadlines, Running};
use crate::error::Result;
use crate::os::{clock, kin, watch};
use crate::process::{Exit, Supervisor};
use crate::shm::arena::{Allocator, BlockRef, HELD_BY_CALLER};
use crate::shm::blocks::Home;
use crate::shm::journal::Left;
use crate::shm::message::Payload;
use crate::shm::region::Region;
use crate::shm::state::Phase;
use crate::shm::task::Verdict;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Entries for urgent tasks alone.
pub(super) const RESERVE: usize = 64;

/// Nanoseconds that a worker has to say where it is before it is killed: a hundred times what that takes.
const LAST_WORDS: u64 = 100_000_000;

/// The account of one pool.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Entries nobody uses, the last freed on top: its cache lines are warm.
    free: Vec<u32>,
    /// What is owed for each entry in use.
    owed: Vec<Option<Owed>>,
    /// Entries whose task was withdrawn, with its position: free once the head is past it.
    withdrawn: Vec<(u32, u64)>,
    jobs: Vec<Slot>,
    free_jobs: Vec<u32>,
    /// The caller's part of the arena.
    pub(super) allocator: Allocator,
    /// How many tasks of each priority are in flight.
    ranks: Ranks,
    /// Payload bytes of tasks in flight.
    pub(super) bytes: u64,
    pub(super) seats: Vec<SeatAccount>,
    /// Seats whose worker has ended and was not buried yet.
    pub(super) exited: VecDeque<u16>,
    /// When a worker may be started in place of one that has ended.
    pub(super) hiring: Hiring,
    /// When tasks have had their time.
    pub(super) deadlines: Deadlines,
    /// What tasks have started that are being ended: it ends with their workers.
    pub(super) kin: Vec<OwnedFd>,
    /// Workers can say where they are before they are ended for a task that takes too long.
    pub(super) has_last_words: bool,
    /// Set once no task will be answered any more.
    pub(super) broken: Option<Loss>,
    /// Jobs that the keeper serves and that something arrived for.
    news: Vec<u64>,
    /// Counts what may let somebody go on: outcomes, deaths, nudges.
    pub(super) events: u64,
    pub(super) statistics: Statistics,
    taken: Vec<usize>,
}

/// What the tasks of a job have in common.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// Nanoseconds that each stretch of a task may take.
    pub(super) limit: Option<u64>,
    pub(super) priority: i32,
}

#[derive(Debug)]
struct Owed {
    job: u64,
    index: u64,
    /// The arguments' block, to give back when its worker died.
    block: BlockRef,
    bytes: u64,
    /// Under which it was published.
    position: u64,
    terms: Terms,
    /// Why the task was revoked, if it was.
    revoked: Option<Loss>,
    /// Keeps the function's block until no task needs it.
    _function: Arc<Function>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    live: bool,
    kept: bool,
    minds_losses: bool,
    terms: Terms,
    owed: u64,
    arrived: VecDeque<Outcome>,
}

/// What the caller knows of one seat.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SeatAccount {
    /// The process that sits there; 0 for an empty seat.
    pub(super) pid: u32,
    pub(super) taken: bool,
    /// The process must be killed; where it is not watched yet, as soon as it is.
    pub(super) doomed: bool,
}

impl Ledger {
    pub(super) fn new(region: &Region) -> Result<Ledger> {
        let shape = region.shape();
        Ok(Ledger {
            free: (0..shape.entries).rev().collect(),
            owed: (0..shape.entries).map(|_| None).collect(),
            withdrawn: Vec::new(),
            jobs: Vec::new(),
            free_jobs: Vec::new(),
            allocator: Allocator::take_over(region.part(0)?)?,
            ranks: Ranks::default(),
            bytes: 0,
            seats: vec![SeatAccount::default(); shape.seats as usize],
            exited: VecDeque::new(),
            hiring: Hiring::default(),
            deadlines: Deadlines::default(),
            kin: Vec::new(),
            has_last_words: false,
            broken: None,
            news: Vec::new(),
            events: 0,
            statistics: Statistics::default(),
            taken: Vec::new(),
        })
    }

    /// Entries that a task of `priority` can use. Some are kept for urgent ones, which would otherwise wait, in a table
    /// full of long tasks, until one of them is done.
    pub(super) fn vacant(&self, priority: i32) -> usize {
        let kept = if priority > 0 { 0 } else { RESERVE.min(self.owed.len() / 16) };
        self.free.len().saturating_sub(kept)
    }

    /// Tasks in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.owed.len() - self.free.len() - self.withdrawn.len()
    }

    pub(super) fn open_job(&mut self, options: JobOptions) -> u64 {
        let number = self.free_jobs.pop().unwrap_or_else(|| {
            self.jobs.push(Slot::default());
            self.jobs.len() as u32 - 1
        });
        let slot = &mut self.jobs[number as usize];
        slot.generation = slot.generation.wrapping_add(1);
        (slot.live, slot.kept, slot.owed) = (true, options.kept, 0);
        slot.minds_losses = options.minds_losses;
        let limit = options.limit.map(|limit| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX));
        slot.terms = Terms { limit, priority: options.priority };
        u64::from(slot.generation) << 32 | u64::from(number)
    }

    pub(super) fn forget_job(&mut self, key: u64) -> VecDeque<Outcome> {
        let Some(slot) = self.slot(key) else { return VecDeque::new() };
        slot.live = false;
        // The memory stays with the slot, for the next job in it.
        let arrived = slot.arrived.drain(..).collect();
        self.free_jobs.push(key as u32);
        arrived
    }

    fn slot(&mut self, key: u64) -> Option<&mut Slot> {
        self.jobs.get_mut(key as u32 as usize).filter(|slot| slot.live && u64::from(slot.generation) == key >> 32)
    }

    /// Whether the keeper serves job `key`; if it does now, what has arrived is news.
    pub(super) fn keep(&mut self, key: u64, kept: bool) {
        let Some(slot) = self.slot(key) else { return };
        slot.kept = kept;
        if kept && !slot.arrived.is_empty() {
            self.news.push(key);
        }
    }

    pub(super) fn any_news(&self) -> bool {
        !self.news.is_empty()
    }

    pub(super) fn take_news(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.news)
    }

    /// Whether so little is in flight that workers may soon have nothing to do.
    pub(super) fn runs_dry(&self) -> bool {
        self.in_flight() <= (self.owed.len() / 8).min(64.max(2 * self.seats.len()))
    }

    /// Whether an outcome of job `key` has arrived, or none is owed.
    pub(super) fn is_ready(&mut self, key: u64) -> bool {
        self.slot(key).is_none_or(|slot| slot.owed == 0 || !slot.arrived.is_empty())
    }

    /// How many jobs have tasks in flight.
    pub(super) fn open_jobs(&self) -> usize {
        self.jobs.iter().filter(|slot| slot.live && slot.owed > 0).count()
    }

    /// Tasks of job `key` in flight.
    pub(super) fn owed(&mut self, key: u64) -> u64 {
        self.slot(key).map_or(0, |slot| slot.owed)
    }

    pub(super) fn take_outcome(&mut self, key: u64) -> Option<Outcome> {
        self.slot(key)?.arrived.pop_front()
    }

    pub(super) fn take_outcomes(&mut self, key: u64, outcomes: &mut VecDeque<Outcome>) {
        if let Some(slot) = self.slot(key) {
            if outcomes.is_empty() {
                std::mem::swap(outcomes, &mut slot.arrived);
            } else {
                outcomes.append(&mut slot.arrived);
            }
        }
    }

    /// What the tasks of job `key` have in common.
    pub(super) fn terms(&mut self, key: u64) -> Terms {
        self.slot(key).map_or_else(Terms::default, |slot| slot.terms)
    }

    /// Whether a task of `priority` must be claimed before some that was published before.
    pub(super) fn outranks(&self, priority: i32) -> bool {
        self.ranks.lowest().is_some_and(|lowest| lowest < priority)
    }

    /// Publishes the entry `index`, which has just been filled, and puts all that wait in the order in which they are to
    /// be claimed. Says how many tasks wait.
    ///
    /// Everything that waits is withdrawn, so that the queue's head can pass all positions up to its tail; nobody's task
    /// is stepped over. Then all of it is published anew.
    pub(super) fn publish_ranked(&mut self, region: &Region, index: usize) -> usize {
        let queue = region.queue();
        let mut waiting: Vec<(i32, u64, usize)> = Vec::new();
        for (at, owed) in self.owed.iter().enumerate() {
            let Some(owed) = owed.as_ref().filter(|_| at != index) else { continue };
            if queue.withdraw(at, owed.position) {
                waiting.push((-owed.terms.priority, owed.position, at));
            }
        }
        let priority = self.owed.get(index).and_then(|owed| Some(owed.as_ref()?.terms.priority)).unwrap_or(0);
        waiting.push((-priority, u64::MAX, index));
        // Claims go in the order of positions, and no position is left that nobody has claimed.
        queue.pass_all();
        waiting.sort_unstable();
        for (_, _, entry) in &waiting {
            let position = queue.publish(*entry);
            self.published(*entry, position);
        }
        waiting.len()
    }

    /// Takes a free entry into use for a task of job `key`.
    pub(super) fn engage(
        &mut self,
        key: u64,
        index: u64,
        block: BlockRef,
        bytes: u64,
        function: &Arc<Function>,
    ) -> Option<usize> {
        let entry = self.free.pop()? as usize;
        let function = Arc::clone(function);
        let mut terms = Terms::default();
        if let Some(slot) = self.slot(key) {
            slot.owed += 1;
            terms = slot.terms;
        }
        self.ranks.enter(terms.priority);
        self.owed[entry] =
            Some(Owed { job: key, index, block, bytes, position: 0, terms, revoked: None, _function: function });
        self.bytes += bytes;
        self.statistics.submitted += 1;
        Some(entry)
    }

    /// The task in entry `entry` was published under `position`.
    pub(super) fn published(&mut self, entry: usize, position: u64) {
        if let Some(Some(owed)) = self.owed.get_mut(entry) {
            owed.position = position;
        }
    }

    fn free(&mut self, region: &Region, entry: usize) {
        if let Some(entry) = region.queue().entry(entry) {
            entry.state.free();
        }
        self.free.push(entry as u32);
    }

    /// Frees the entries of withdrawn tasks that no worker can come across any more.
    /// Says how many.
    fn sweep(&mut self, region: &Region) -> usize {
        let (queue, before) = (region.queue(), self.withdrawn.len());
        let mut withdrawn = std::mem::take(&mut self.withdrawn);
        // In the order of positions, so that the head is helped over a row of them.
        withdrawn.retain(|(entry, position)| {
            let passed = queue.pass(*position);
            if passed {
                self.free(region, *entry as usize);
            }
            !passed
        });
        self.withdrawn = withdrawn;
        before - self.withdrawn.len()
    }

    /// Settles entry `entry`: it is free again, and `answer` goes to its job.
    fn settle(&mut self, region: &Region, entry: usize, elapsed: u64, answer: impl FnOnce(&Owed) -> Answer) {
        let Some(owed) = self.owed.get_mut(entry).and_then(Option::take) else { return };
        self.free(region, entry);
        let answer = answer(&owed);
        self.deliver(&owed, Outcome { index: owed.index, elapsed, reached: 0, left: None, answer });
    }

    /// Gives the outcome of a task that is owed no longer to its job.
    fn deliver(&mut self, owed: &Owed, outcome: Outcome) {
        self.events += 1;
        self.ranks.leave(owed.terms.priority);
        self.bytes -= owed.bytes;
        let statistics = &mut self.statistics;
        // A number of another process: it may be any.
        statistics.running = statistics.running.wrapping_add(outcome.elapsed);
        *match &outcome.answer {
            Answer::Returned(_) => &mut statistics.returned,
            Answer::Raised(_) => &mut statistics.raised,
            Answer::Lost(Loss::Cancelled) => &mut statistics.cancelled,
            Answer::Lost(Loss::Expired { .. }) => &mut statistics.expired,
            Answer::Lost(_) => &mut statistics.lost,
        } += 1;
        let is_loss = matches!(outcome.answer, Answer::Lost(Loss::Worker { .. } | Loss::Expired { .. }));
        let Some(slot) = self.slot(owed.job) else { return };
        let minded = slot.minds_losses && is_loss;
        slot.owed -= 1;
        slot.arrived.push_back(outcome);
        if slot.kept || minded {
            self.news.push(owed.job);
        }
    }

    /// Collects what workers have finished. Says how many entries became free.
    pub(super) fn collect(&mut self, region: &Arc<Region>) -> Result<usize> {
        let queue = region.queue();
        let swept = if self.withdrawn.is_empty() { 0 } else { self.sweep(region) };
        if !queue.any_done() {
            return Ok(swept);
        }
        let mut taken = std::mem::take(&mut self.taken);
        let outcome = queue.take_done(&mut taken);
        for entry in &taken {
            self.collect_one(region, *entry);
        }
        self.taken = taken;
        outcome.map(|()| self.taken.len() + swept)
    }

    fn collect_one(&mut self, region: &Arc<Region>, index: usize) {
        let Some(entry) = region.queue().entry(index) else { return };
        // An entry on the stack that owes nothing: a late answer after `lose_all`,
        // or damage. There is nobody to tell.
        if self.owed.get(index).is_none_or(Option::is_none) {
            return;
        }
        // One that says of itself that it is not finished is damage; it will not
        // come again, so it is answered now.
        let finished = matches!(entry.state.phase(), Phase::Done(_));
        let (elapsed, verdict, payload) = entry.take_outcome(|slip| {
            (slip.elapsed, Verdict::from_number(slip.verdict), Payload::take(region, slip, HELD_BY_CALLER))
        });
        self.settle(region, index, elapsed, |_| match (verdict.filter(|_| finished), payload) {
            (Some(Verdict::Returned), Ok(payload)) => Answer::Returned(payload),
            (Some(Verdict::Raised), Ok(payload)) => Answer::Raised(payload),
            _ => Answer::Lost(Loss::Worker { pid: 0, exit: Exit::Unknown, words: None }),
        });
    }

    /// Fails the tasks that the dead worker in `seat` ran, and takes back what it held.
    pub(super) fn bury(&mut self, region: &Arc<Region>, seat: u16, loss: &Loss) -> Result<()> {
        // What it finished and pushed comes first; after that, a finished entry of
        // its own that is still in use is one it did not live to push.
        let collected = self.collect(region).map(drop);
        let queue = region.queue();
        self.statistics.ended += 1;
        self.deadlines.ended(seat);
        for index in 0..self.owed.len() {
            if self.owed[index].is_none() {
                continue;
            }
            let Some(entry) = queue.entry(index) else { continue };
            match entry.state.phase() {
                Phase::Done(holder) if holder == seat => self.collect_one(region, index),
                Phase::Running(holder) if holder == seat => self.lose_with(region, index, seat, loss),
                Phase::Revoked(holder) if holder == seat => {
                    let revoked = self.owed[index].as_ref().and_then(|owed| owed.revoked.clone());
                    self.lose_with(
                        region,
                        index,
                        seat,
                        &revoked.map_or_else(|| loss.clone(), |why| why.with_words(loss)),
                    );
                }
                _ => {}
            }
        }
        let part = region.part(0)?;
        for block in part.held_by(u64::from(seat) + 1) {
            region.give_back(block)?;
        }
        region.doorbell().bury(seat, &queue);
        collected
    }

    fn lose(&mut self, region: &Arc<Region>, index: usize, loss: &Loss) {
        let Some(owed) = self.owed.get_mut(index).and_then(Option::take) else { return };
        self.free(region, index);
        self.fail(region, &owed, 0, None, loss);
    }

    /// As `lose`, for a task that the dead worker in `seat` ran: with what it has left.
    fn lose_with(&mut self, region: &Arc<Region>, index: usize, seat: u16, loss: &Loss) {
        let Some(owed) = self.owed.get_mut(index).and_then(Option::take) else { return };
        let reached = region.stretch(seat, owed.position).map_or(0, |(reached, _)| reached);
        let left = region.left(seat, owed.position).filter(|left| !left.is_empty()).map(Box::new);
        self.free(region, index);
        self.fail(region, &owed, reached, left, loss);
    }

    /// Answers a task that is owed no longer with `loss`, and takes its arguments' block back.
    fn fail(&mut self, region: &Region, owed: &Owed, reached: u64, left: Option<Box<Left>>, loss: &Loss) {
        if !owed.block.is_null() {
            // The worker may have given it back already; then this does nothing.
            let _ = region.give_back(owed.block);
        }
        let answer = Answer::Lost(loss.clone());
        self.deliver(owed, Outcome { index: owed.index, elapsed: 0, reached, left, answer });
    }

    /// Fails every task of job `key` with `loss`. A task that no worker has claimed fails at once. With `running`, tasks
    /// that run are revoked as well; they fail when their worker has been buried. Returns the seats of those workers: the
    /// caller must kill them now.
    pub(super) fn cancel(&mut self, region: &Arc<Region>, key: u64, running: bool, loss: &Loss) -> Vec<u16> {
        let queue = region.queue();
        let mut seats = Vec::new();
        for index in 0..self.owed.len() {
            let Some(owed) = self.owed[index].as_ref().filter(|owed| owed.job == key) else { continue };
            let position = owed.position;
            if queue.withdraw(index, position) {
                let Some(owed) = self.owed[index].take() else { continue };
                self.withdrawn.push((index as u32, position));
                self.fail(region, &owed, 0, None, loss);
            } else if running {
                seats.extend(self.revoke(region, index, |_| true, loss));
            }
        }
        self.withdrawn.sort_unstable_by_key(|(_, position)| *position);
        self.sweep(region);
        seats
    }

    /// Revokes the task in entry `index` where it runs in a seat that is `meant`. Gives the seat.
    fn revoke(&mut self, region: &Region, index: usize, meant: impl FnOnce(u16) -> bool, loss: &Loss) -> Option<u16> {
        let owed = self.owed.get_mut(index)?.as_mut()?;
        let state = &region.queue().entry(index)?.state;
        let Phase::Running(seat) = state.phase() else { return None };
        // A seat that is not there is damage; the burial of the true holder answers the task.
        let there = usize::from(seat) < self.seats.len();
        let revoked = there && meant(seat) && state.revoke(seat, owed.position);
        if !revoked {
            return None;
        }
        owed.revoked = Some(loss.clone());
        let position = owed.position;
        if let Some(account) = self.seats.get_mut(usize::from(seat)) {
            account.doomed = true;
        }
        self.note_kin(region, seat, position);
        Some(seat)
    }

    /// Notes what the task at `position` has started, while its worker is still there: afterwards nobody knows whose
    /// it was. That takes some tenths of a millisecond, under the lock; but only where a task is ended.
    fn note_kin(&mut self, region: &Region, seat: u16, position: u64) {
        let pid = self.seats.get(usize::from(seat)).map_or(0, |account| account.pid);
        if let Some((_, since)) = region.stretch(seat, position).filter(|_| pid != 0) {
            self.kin.extend(kin::started_since(pid, since));
        }
    }

    /// As [`Ledger::note_kin`], of every task that runs.
    pub(super) fn note_all_kin(&mut self, region: &Region) {
        for Running { seat, position, .. } in self.timed(region).0 {
            self.note_kin(region, seat, position);
        }
    }

    /// Ends what the tasks have started whose workers were told to end just now. Not before: a task would see it, and
    /// might start it again.
    pub(super) fn end_kin(&mut self) {
        for pidfd in self.kin.drain(..) {
            // Whoever has changed its user may be out of our reach.
            let _ = watch::kill(pidfd);
        }
    }

    /// What the workers run, and the shortest limit of a task that none of them runs.
    fn timed(&self, region: &Region) -> (Vec<Running>, Option<u64>) {
        let (queue, mut running, mut waiting) = (region.queue(), Vec::new(), None::<u64>);
        for (index, owed) in self.owed.iter().enumerate() {
            let Some((owed, entry)) = owed.as_ref().zip(queue.entry(index)) else { continue };
            let Phase::Running(seat) = entry.state.phase() else {
                waiting = waiting.into_iter().chain(owed.terms.limit).min();
                continue;
            };
            let (position, limit, stretch) = (owed.position, owed.terms.limit, region.stretch(seat, owed.position));
            let (reached, since) = (stretch.map_or(0, |(reached, _)| reached), stretch.map(|(_, since)| since));
            running.push(Running { seat, position, reached, since, limit });
        }
        (running, waiting)
    }

    /// How long no deadline can pass; zero: it is time to [look](Ledger::look). None: there is none.
    pub(super) fn rest(&self) -> Option<Duration> {
        if self.deadlines.is_idle() { None } else { self.deadlines.rest(clock::now()) }
    }

    /// Revokes the tasks that have had their time, and ends their workers, where it is time to look for such. Says whether it was.
    pub(super) fn look(&mut self, region: &Region, supervisor: &Supervisor) -> Result<bool> {
        if !self.rest().is_some_and(|rest| rest.is_zero()) {
            return Ok(false);
        }
        let (running, waiting) = self.timed(region);
        // After the look at what runs: a stretch that begins meanwhile has not begun before it.
        let now = clock::now();
        for seat in self.deadlines.take_late(now) {
            supervisor.kill(seat)?;
        }
        for over in self.deadlines.look(now, &running, waiting) {
            if !self.expire(region, over.seat, over.position) {
                continue;
            }
            if self.has_last_words {
                self.deadlines.asked(over.seat, now.saturating_add(LAST_WORDS));
                supervisor.ask_to_end(over.seat)?;
            } else {
                supervisor.kill(over.seat)?;
            }
        }
        self.end_kin();
        Ok(true)
    }

    /// Revokes the task that was published under `position`, if `seat` runs it still.
    fn expire(&mut self, region: &Region, seat: u16, position: u64) -> bool {
        let is_it = |owed: &Option<Owed>| owed.as_ref().is_some_and(|owed| owed.position == position);
        let Some(index) = self.owed.iter().position(is_it) else { return false };
        let pid = self.seats.get(usize::from(seat)).map_or(0, |account| account.pid);
        self.revoke(region, index, |holder| holder == seat, &Loss::Expired { pid, words: None }).is_some()
    }

    /// Fails every task that no worker has claimed yet.
    pub(super) fn withdraw(&mut self, region: &Arc<Region>, loss: &Loss) -> Result<()> {
        while let Some(index) = region.queue().claim(crate::shm::state::CALLER)? {
            self.lose(region, index, loss);
        }
        Ok(())
    }

    /// Fails every task, also those that run; their workers are dead or about to be.
    pub(super) fn lose_all(&mut self, region: &Arc<Region>, loss: &Loss) -> Result<()> {
        // Nothing is owed afterwards, also where the queue is damaged.
        let collected = self.collect(region).map(drop);
        let withdrawn = self.withdraw(region, loss);
        for index in 0..self.owed.len() {
            if self.owed[index].is_some() {
                self.lose(region, index, loss);
            }
        }
        collected.and(withdrawn)
    }
}
