//! What a caller gets back.

use super::caller::Pool;
use crate::process::Exit;
use crate::shm::journal::Left;
use crate::shm::message::Payload;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// What came of one task.
#[derive(Debug)]
pub struct Outcome {
    /// The task's number in its job, as it was submitted.
    pub index: u64,
    /// Nanoseconds the task ran in its worker; 0 for a lost one.
    pub elapsed: u64,
    /// Of a task lost with its worker: what the worker last said with
    /// [`Progress::reach`](super::Progress::reach). Not checked: it may say anything.
    pub reached: u64,
    /// Of a task lost with its worker: the results that the worker [left](super::Worker::journal) before.
    pub left: Option<Box<Left>>,
    /// The result, the exception, or how the task was lost.
    pub answer: Answer,
}

/// The three ends a task can come to.
#[derive(Debug)]
pub enum Answer {
    /// It returned this.
    Returned(Payload),
    /// It raised this.
    Raised(Payload),
    /// No worker will ever answer it.
    Lost(Loss),
}

/// Why no worker will answer a task.
#[derive(Clone, Debug)]
pub enum Loss {
    /// The worker that ran it ended.
    Worker {
        /// Its process number.
        pid: u32,
        /// How it ended.
        exit: Exit,
        /// Where it was, as it has said itself.
        words: Option<Arc<str>>,
    },
    /// Workers could not start: what the last one reported, if it could.
    Start {
        /// Its process number.
        pid: u32,
        /// How it ended.
        exit: Exit,
        /// The message it left.
        report: Option<Arc<Payload>>,
    },
    /// The pool was terminated first.
    Terminated,
    /// The job was [cancelled](Pool::cancel): the task never ran, or its worker was ended.
    Cancelled,
    /// The task ran longer than its job's [limit](JobOptions::limit), so its worker was ended.
    Expired {
        /// The worker's process number.
        pid: u32,
        /// Where it was, as it has said itself.
        words: Option<Arc<str>>,
    },
}

impl Loss {
    /// This reason for a worker's end, with the words that it left when it `ended`.
    pub(super) fn with_words(self, ended: &Loss) -> Loss {
        match (self, ended) {
            (Loss::Expired { pid, .. }, Loss::Worker { words, .. }) => Loss::Expired { pid, words: words.clone() },
            (why, _) => why,
        }
    }

    /// Whether another worker may run the task.
    pub fn may_be_retried(&self) -> bool {
        matches!(self, Loss::Worker { .. } | Loss::Expired { .. })
    }
}

/// What a pool has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Tasks submitted.
    pub submitted: u64,
    /// Tasks that returned.
    pub returned: u64,
    /// Tasks that raised.
    pub raised: u64,
    /// Tasks lost with their worker, with the pool's termination, or for want of workers.
    pub lost: u64,
    /// Tasks cancelled.
    pub cancelled: u64,
    /// Tasks that ran longer than they may.
    pub expired: u64,
    /// Nanoseconds that tasks which returned or raised ran in their workers.
    pub running: u64,
    /// Workers that have ended.
    pub ended: u64,
}

/// What a job wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobOptions {
    /// The keeper is woken for its outcomes.
    pub kept: bool,
    /// The keeper is woken when a task is lost with its worker: what was not begun must be run again.
    pub minds_losses: bool,
    /// Tasks of a job with a higher number are claimed first; among equals, those that were submitted first.
    pub priority: i32,
    /// How long each stretch of a task may take: a task, or an item of it ([`Progress`](super::Progress)).
    pub limit: Option<Duration>,
}

/// One map or apply: the caller's half of any number of tasks.
///
/// Dropping it forgets the tasks: those that run go on, and their outcomes are
/// thrown away on arrival.
#[derive(Debug)]
pub struct Job {
    pub(super) pool: Arc<Pool>,
    pub(super) key: u64,
}

impl Job {
    /// The job's number in its pool.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The pool it belongs to.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Takes the outcomes that have arrived, oldest first.
    pub fn take(&self, outcomes: &mut VecDeque<Outcome>) {
        self.pool.take_outcomes(self.key, outcomes);
    }

    /// Takes the oldest outcome that has arrived.
    pub fn take_one(&self) -> Option<Outcome> {
        self.pool.take_outcome(self.key)
    }

    /// Tasks submitted and not answered yet.
    pub fn owed(&self) -> u64 {
        self.pool.owed(self.key)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.pool.forget(self.key);
    }
}
