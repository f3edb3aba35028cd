//! Who owes what: the caller's private account of entries, jobs and seats.
//!
//! Everything here is under the pool's lock, which is held for moments only and
//! never while a thread waits for anything else.

use super::caller::Function;
use super::job::{Answer, Loss, Outcome};
use crate::error::Result;
use crate::process::Exit;
use crate::shm::arena::{Allocator, BlockRef, HELD_BY_CALLER};
use crate::shm::message::Payload;
use crate::shm::region::Region;
use crate::shm::state::Phase;
use crate::shm::task::Verdict;
use std::collections::VecDeque;
use std::sync::Arc;

/// The account of one pool.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Entries nobody uses, the last freed on top: its cache lines are warm.
    free: Vec<u32>,
    /// What is owed for each entry in use.
    owed: Vec<Option<Owed>>,
    jobs: Vec<Slot>,
    free_jobs: Vec<u32>,
    /// The caller's part of the arena.
    pub(super) allocator: Allocator,
    /// Payload bytes of tasks in flight.
    pub(super) bytes: u64,
    pub(super) seats: Vec<SeatAccount>,
    /// Seats whose worker has ended and was not buried yet.
    pub(super) exited: VecDeque<u16>,
    /// Workers that ended in a row before they were ready.
    pub(super) failed_starts: u32,
    /// Set once no task will be answered any more.
    pub(super) broken: Option<Loss>,
    /// Jobs that the keeper serves and that something arrived for.
    news: Vec<u64>,
    /// Counts what may let somebody go on: outcomes, deaths, nudges.
    pub(super) events: u64,
    taken: Vec<usize>,
}

#[derive(Debug)]
struct Owed {
    job: u64,
    index: u64,
    /// The arguments' block, to give back when its worker died.
    block: BlockRef,
    bytes: u64,
    /// Keeps the function's block until no task needs it.
    _function: Arc<Function>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    live: bool,
    kept: bool,
    owed: u64,
    arrived: VecDeque<Outcome>,
}

/// What the caller knows of one seat.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SeatAccount {
    /// The process that sits there; 0 for an empty seat.
    pub(super) pid: u32,
    pub(super) taken: bool,
}

impl Ledger {
    pub(super) fn new(region: &Region) -> Result<Ledger> {
        let shape = region.shape();
        Ok(Ledger {
            free: (0..shape.entries).rev().collect(),
            owed: (0..shape.entries).map(|_| None).collect(),
            jobs: Vec::new(),
            free_jobs: Vec::new(),
            allocator: Allocator::take_over(region.part(0)?)?,
            bytes: 0,
            seats: vec![SeatAccount::default(); shape.seats as usize],
            exited: VecDeque::new(),
            failed_starts: 0,
            broken: None,
            news: Vec::new(),
            events: 0,
            taken: Vec::new(),
        })
    }

    /// Entries that no task uses.
    pub(super) fn vacant(&self) -> usize {
        self.free.len()
    }

    /// Tasks in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.owed.len() - self.free.len()
    }

    pub(super) fn open_job(&mut self, kept: bool) -> u64 {
        let number = self.free_jobs.pop().unwrap_or_else(|| {
            self.jobs.push(Slot::default());
            self.jobs.len() as u32 - 1
        });
        let slot = &mut self.jobs[number as usize];
        slot.generation = slot.generation.wrapping_add(1);
        (slot.live, slot.kept, slot.owed) = (true, kept, 0);
        u64::from(slot.generation) << 32 | u64::from(number)
    }

    pub(super) fn forget_job(&mut self, key: u64) -> VecDeque<Outcome> {
        let Some(slot) = self.slot(key) else { return VecDeque::new() };
        slot.live = false;
        let arrived = std::mem::take(&mut slot.arrived);
        self.free_jobs.push(key as u32);
        arrived
    }

    fn slot(&mut self, key: u64) -> Option<&mut Slot> {
        self.jobs.get_mut(key as u32 as usize).filter(|slot| slot.live && u64::from(slot.generation) == key >> 32)
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

    /// Tasks of job `key` in flight.
    pub(super) fn owed(&mut self, key: u64) -> u64 {
        self.slot(key).map_or(0, |slot| slot.owed)
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
        self.owed[entry] = Some(Owed { job: key, index, block, bytes, _function: Arc::clone(function) });
        self.bytes += bytes;
        if let Some(slot) = self.slot(key) {
            slot.owed += 1;
        }
        Some(entry)
    }

    /// Settles entry `entry`: it is free again, and `answer` goes to its job.
    fn settle(&mut self, region: &Region, entry: usize, elapsed: u64, answer: impl FnOnce(&Owed) -> Answer) {
        let Some(owed) = self.owed.get_mut(entry).and_then(Option::take) else { return };
        self.events += 1;
        if let Some(entry) = region.queue().entry(entry) {
            entry.state.free();
        }
        self.free.push(entry as u32);
        self.bytes -= owed.bytes;
        let outcome = Outcome { index: owed.index, elapsed, answer: answer(&owed) };
        let Some(slot) = self.slot(owed.job) else { return };
        slot.owed -= 1;
        slot.arrived.push_back(outcome);
        if slot.kept {
            self.news.push(owed.job);
        }
    }

    /// Collects what workers have finished. Says how many tasks that were.
    pub(super) fn collect(&mut self, region: &Arc<Region>) -> Result<usize> {
        let queue = region.queue();
        if !queue.any_done() {
            return Ok(0);
        }
        let mut taken = std::mem::take(&mut self.taken);
        let outcome = queue.take_done(&mut taken);
        for entry in &taken {
            self.collect_one(region, *entry);
        }
        self.taken = taken;
        outcome.map(|()| self.taken.len())
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
            _ => Answer::Lost(Loss::Worker { pid: 0, exit: Exit::Unknown }),
        });
    }

    /// Fails the tasks that the dead worker in `seat` ran, and takes back what it held.
    pub(super) fn bury(&mut self, region: &Arc<Region>, seat: u16, loss: &Loss) -> Result<()> {
        // What it finished and pushed comes first; after that, a finished entry of
        // its own that is still in use is one it did not live to push.
        let collected = self.collect(region).map(drop);
        let queue = region.queue();
        for index in 0..self.owed.len() {
            if self.owed[index].is_none() {
                continue;
            }
            let Some(entry) = queue.entry(index) else { continue };
            match entry.state.phase() {
                Phase::Done(holder) if holder == seat => self.collect_one(region, index),
                Phase::Running(holder) if holder == seat => self.lose(region, index, loss),
                _ => {}
            }
        }
        let part = region.part(0)?;
        for block in part.held_by(u32::from(seat) + 1) {
            region.give_back(block)?;
        }
        region.doorbell().bury(seat, &queue);
        collected
    }

    fn lose(&mut self, region: &Arc<Region>, index: usize, loss: &Loss) {
        self.settle(region, index, 0, |owed| {
            if !owed.block.is_null() {
                // The worker may have given it back already; then this does nothing.
                let _ = region.give_back(owed.block);
            }
            Answer::Lost(loss.clone())
        });
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
