//! What a caller gets back.

use super::caller::Pool;
use crate::process::Exit;
use crate::shm::message::Payload;
use std::collections::VecDeque;
use std::sync::Arc;

/// What came of one task.
#[derive(Debug)]
pub struct Outcome {
    /// The task's number in its job, as it was submitted.
    pub index: u64,
    /// Nanoseconds the task ran in its worker; 0 for a lost one.
    pub elapsed: u64,
    /// Of a task lost with its worker: what the worker last said with
    /// [`Worker::reach`](super::Worker::reach). Not checked: it may say anything.
    pub reached: u64,
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
    /// The task ran longer than it may, so its worker was [ended](Pool::expire).
    Expired {
        /// The worker's process number.
        pid: u32,
    },
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
