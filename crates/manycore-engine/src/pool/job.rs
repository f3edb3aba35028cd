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
