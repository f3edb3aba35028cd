//! Calls that are run again.
//!
//! They travel one by one, so a lost worker costs the call that it ran and no other. What was written of a call's
//! arguments is kept until the call is answered: its worker has a copy.

use crate::codec::Writer;
use crate::error::Error;
use crate::options::CallOptions;
use manycore_engine::dispatch::Again;
use std::collections::HashMap;

/// The calls of one job that may be run again, by their numbers in the job.
pub(crate) struct Retries {
    options: CallOptions,
    again: Again,
    /// What was written of each call that is not answered.
    written: HashMap<usize, Writer>,
}

impl Retries {
    pub(crate) fn new(options: &CallOptions) -> Retries {
        Retries { options: options.clone(), again: Again::new(options.retries), written: HashMap::new() }
    }

    /// Whether any call may be run again.
    pub(crate) fn are_on(&self) -> bool {
        self.options.retries > 0
    }

    /// So many calls travel together, where it would be `size`.
    pub(crate) fn limit(&self, size: usize) -> usize {
        if self.are_on() { size.min(1) } else { size }
    }

    /// Call `number` was submitted as it stands in `writer`, which is free for the next one afterwards.
    pub(crate) fn submitted(&mut self, number: usize, writer: &mut Writer) {
        if self.are_on() {
            self.written.insert(number, std::mem::replace(writer, Writer::in_parts()));
        } else {
            writer.clear();
        }
    }

    /// Call `number` was answered, by `error` if it failed. Says whether it is run again; if not, it is over.
    pub(crate) fn answered(&mut self, number: usize, error: Option<&Error>) -> bool {
        if !self.are_on() {
            return false;
        }
        let is_again = error.is_some_and(|error| self.options.may_retry(error)) && self.again.retry(number);
        if !is_again {
            self.written.remove(&number);
        }
        is_again
    }

    /// The next call to run again, and what was written of it.
    pub(crate) fn next(&mut self) -> Option<(usize, &mut Writer)> {
        let number = self.again.take()?.start;
        Some((number, self.written.get_mut(&number)?))
    }

    /// A call from [`Retries::next`] for which there was no room.
    pub(crate) fn put_back(&mut self, number: usize) {
        self.again.put_back(number..number + 1);
    }

    /// Whether calls wait to be run again.
    pub(crate) fn are_waiting(&self) -> bool {
        !self.again.is_empty()
    }

    /// Nothing is run again any more.
    pub(crate) fn abandon(&mut self) {
        self.written.clear();
        self.again.abandon();
    }
}
