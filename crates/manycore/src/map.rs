//! One map: cut the items into chunks, submit, put the results in order.

use crate::codec::{self, Reader};
use crate::crew::Crew;
use crate::error::{Error, Kind, Result};
use crate::worker::{KEEP, bytes_of};
use manycore_engine::pool::{Answer, Chunks, Function, Job, Message, Outcome, Pool, Room, Work};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// The caller's half of a map from `A` to `R`.
pub(crate) struct Map<'a, A, R> {
    crew: &'a Crew,
    pool: &'a Pool,
    job: Job,
    task: &'static str,
    function: Arc<Function>,
    items: std::vec::IntoIter<A>,
    total: usize,
    chunks: Chunks,
    /// Which items each chunk has, by its number.
    ranges: Vec<Range<usize>>,
    /// The results of each chunk; empty until they have arrived.
    results: Vec<Vec<R>>,
    /// Chunks that are answered.
    answered: usize,
    /// A chunk that is encoded and found no room yet, in `buffer`.
    pending: Option<Range<usize>>,
    buffer: Vec<u8>,
    /// The failure of the earliest item.
    failure: Option<(usize, Error)>,
}

impl<'a, A: Serialize, R: DeserializeOwned> Map<'a, A, R> {
    pub(crate) fn new(
        (crew, pool): (&'a Crew, &'a Arc<Pool>),
        (task, function): (&'static str, Arc<Function>),
        items: Vec<A>,
        workers: usize,
    ) -> Map<'a, A, R> {
        Map {
            crew,
            pool,
            job: pool.open_job(false),
            task,
            function,
            total: items.len(),
            items: items.into_iter(),
            chunks: Chunks::new(None, workers),
            ranges: Vec::new(),
            results: Vec::new(),
            answered: 0,
            pending: None,
            buffer: Vec::new(),
            failure: None,
        }
    }

    /// Runs the map: the results, or the failure of the earliest item that failed.
    ///
    /// After a failure nothing more is submitted, and what was is waited for: so
    /// the earliest failure is found whatever the timing, since chunks are
    /// submitted in order.
    pub(crate) fn run(mut self) -> Result<Vec<R>> {
        let mut arrived = VecDeque::new();
        loop {
            let seen = self.pool.events();
            self.submit()?;
            self.job.take(&mut arrived);
            if let Some(outcome) = arrived.pop_front() {
                self.absorb(outcome);
                arrived.drain(..).for_each(|outcome| self.absorb(outcome));
                // What was learned may allow more to be submitted.
                continue;
            }
            if self.answered < self.ranges.len() {
                let key = self.job.key();
                self.crew.wait(|pool| pool.wait_for(key, None)).or_else(|error| self.unless_answered(error))?;
            } else if self.pending.is_some() && self.failure.is_none() {
                // Others fill the pool.
                self.crew.wait(|pool| pool.wait_for_event(seen, None))?;
            } else {
                break;
            }
        }
        match self.failure {
            Some((_, error)) => Err(error),
            None => Ok(assemble(self.results, self.total)),
        }
    }

    /// A pool that breaks answers every task first: those answers say more.
    fn unless_answered(&self, error: Error) -> Result<()> {
        if self.job.owed() == 0 { Ok(()) } else { Err(error) }
    }

    fn submit(&mut self) -> Result<()> {
        while self.failure.is_none() {
            let Some(range) = self.pending.take().or_else(|| self.cut()) else { break };
            let index = self.ranges.len() as u64;
            let work = Work { index, mode: 0, function: &self.function, message: Message::of(&self.buffer) };
            let room = match self.pool.room()? {
                Room::Yes => self.pool.submit(&self.job, work),
                Room::No => Ok(Room::No),
            };
            match room {
                Ok(Room::Yes) => {
                    self.ranges.push(range);
                    self.results.push(Vec::new());
                    if self.buffer.capacity() > KEEP {
                        self.buffer = Vec::new();
                    }
                }
                Ok(Room::No) => {
                    self.pending = Some(range);
                    break;
                }
                Err(error) => {
                    let closed = (error.kind() == manycore_engine::Kind::Closed).then(|| self.crew.broken()).flatten();
                    self.fail(range.start, closed.unwrap_or_else(|| error.into()));
                }
            }
        }
        Ok(())
    }

    /// Encodes the next chunk. None: there is none, or outcomes must come first.
    fn cut(&mut self) -> Option<Range<usize>> {
        let size = self.chunks.next(self.items.len(), self.job.owed() as usize);
        if size == 0 {
            return None;
        }
        let start = self.total - self.items.len();
        let mut item = start;
        let encoded = codec::begin(&mut self.buffer, size).and_then(|()| {
            self.items.by_ref().take(size).try_for_each(|value| {
                codec::push(&mut self.buffer, &value)?;
                item += 1;
                Ok(())
            })
        });
        match encoded {
            Ok(()) => Some(start..start + size),
            Err(error) => {
                let message = format!("item {item} for `{}`: {error}", self.task);
                self.fail(item, Error::new(Kind::Encoding, message).at(item));
                None
            }
        }
    }

    fn fail(&mut self, item: usize, error: Error) {
        if self.failure.as_ref().is_none_or(|(earliest, _)| item < *earliest) {
            self.failure = Some((item, error));
        }
    }

    fn absorb(&mut self, outcome: Outcome) {
        let Some(range) = usize::try_from(outcome.index).ok().and_then(|index| self.ranges.get(index)).cloned() else {
            return;
        };
        self.answered += 1;
        self.chunks.learn(range.len(), outcome.elapsed);
        let settled = match outcome.answer {
            Answer::Returned(payload) => read(&bytes_of(&payload), range.len()),
            Answer::Raised(payload) => {
                codec::read_failure(&bytes_of(&payload)).and_then(|failure| Err(failure.error(self.task, range.start)))
            }
            Answer::Lost(loss) => Err(match self.pool.broken() {
                Some(_) => self.crew.broken().unwrap_or_else(|| Error::ended(&loss)),
                None => Error::lost(&loss, self.task, range.start, range.len()),
            }),
        };
        match settled {
            Ok(values) => self.results[outcome.index as usize] = values,
            Err(error) => self.fail(error.item().unwrap_or(range.start), error),
        }
    }
}

fn read<R: DeserializeOwned>(bytes: &[u8], count: usize) -> Result<Vec<R>> {
    let mut reader = Reader::new(bytes)?;
    if reader.count != count {
        return Err(Error::new(
            Kind::System,
            format!("{} results came for {count} items; this is a bug", reader.count),
        ));
    }
    (0..count).map(|_| reader.read()).collect()
}

fn assemble<R>(mut chunks: Vec<Vec<R>>, total: usize) -> Vec<R> {
    if chunks.len() == 1 {
        return chunks.pop().unwrap_or_default();
    }
    let mut results = Vec::with_capacity(total);
    chunks.into_iter().for_each(|chunk| results.extend(chunk));
    results
}
