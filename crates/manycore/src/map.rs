//! One map: cut the items into chunks, submit, put the results in order.

use crate::again::Retries;
use crate::codec::{Reader, Writer, head_of, read_failure};
use crate::error::{Error, Kind, Result};
use crate::options::CallOptions;
use crate::shared::{Placed, Shared};
use crate::values::Arguments;
use manycore_engine::pool::{Answer, Chunks, Job, Keeping, Outcome, Payload, Room, Segments, Work};
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::sync::Arc;

/// How far a job has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Everything is answered.
    Done,
    /// Everything is submitted; outcomes are owed.
    Owed,
    /// Outcomes are owed, and there is more to submit.
    Hungry,
    /// There is no room for more tasks, and none of this job's is in flight.
    Full,
}

/// A job that whoever looks after it brings on, step by step, without ever sleeping.
pub(crate) trait Machine<T>: Send {
    /// Takes what has arrived and submits what there is room for.
    fn advance(&mut self) -> Step;

    /// Takes back what was not run yet, and ends what runs: the job fails with `Cancelled`,
    /// once it is done.
    fn cancel(&mut self);

    /// Whether somebody has to look after it though everything is submitted: its tasks may ask for descriptors, which
    /// go with the job, or have to be run again.
    fn needs_care(&self) -> bool;

    /// The result of a job that is done.
    fn finish(self: Box<Self>) -> Result<T>;
}

/// The caller's half of a map over calls with `Args` that give `R`.
pub(crate) struct Map<Args, R> {
    shared: Arc<Shared>,
    job: Job,
    task: Placed,
    /// One call, not a map of one: messages speak of no item.
    single: bool,
    items: std::vec::IntoIter<Args>,
    total: usize,
    chunks: Chunks,
    /// Which items each chunk has, by its number.
    ranges: Vec<Range<usize>>,
    /// The results of each chunk; empty until they have arrived.
    results: Vec<Vec<R>>,
    /// A chunk that is encoded and found no room yet, in `writer`.
    pending: Option<Range<usize>>,
    writer: Writer,
    /// The failure of the earliest item.
    failure: Option<(usize, Error)>,
    priority: i32,
    /// Where calls may be run again, each chunk is one call.
    retries: Retries,
}

impl<Args: Arguments, R: DeserializeOwned + 'static> Map<Args, R> {
    pub(crate) fn new(shared: &Arc<Shared>, options: &CallOptions, task: Placed, items: Vec<Args>) -> Map<Args, R> {
        Map {
            job: shared.open_job(options),
            priority: options.priority,
            retries: Retries::new(options),
            task,
            single: false,
            total: items.len(),
            items: items.into_iter(),
            chunks: Chunks::new(None, shared.workers),
            ranges: Vec::new(),
            results: Vec::new(),
            pending: None,
            writer: Writer::in_parts(),
            failure: None,
            shared: Arc::clone(shared),
        }
    }

    /// One call.
    pub(crate) fn single(shared: &Arc<Shared>, options: &CallOptions, task: Placed, arguments: Args) -> Map<Args, R> {
        Map { single: true, ..Map::new(shared, options, task, vec![arguments]) }
    }

    /// The job's number in its pool.
    pub(crate) fn key(&self) -> u64 {
        self.job.key()
    }

    /// Runs the map: the results, or the failure of the earliest item that failed.
    ///
    /// After a failure nothing more is submitted, and what was is waited for: so
    /// the earliest failure is found whatever the timing, since chunks are
    /// submitted in order.
    pub(crate) fn run(mut self) -> Result<Vec<R>> {
        let (shared, key) = (Arc::clone(&self.shared), self.key());
        shared.drive(key, None, || self.step())?;
        self.end()
    }

    /// See [`Machine::advance`].
    fn step(&mut self) -> Step {
        loop {
            self.submit();
            let Some(outcome) = self.job.take_one() else {
                let owes = self.job.owed() > 0;
                let waiting = self.pending.is_some() || self.items.len() > 0 || self.retries.are_waiting();
                let has_more = self.failure.is_none() && waiting;
                return match (owes, has_more) {
                    (false, false) => Step::Done,
                    (true, false) => Step::Owed,
                    (true, true) => Step::Hungry,
                    (false, true) => Step::Full,
                };
            };
            // What is learned may allow more to be submitted.
            self.absorb(outcome);
        }
    }

    fn end(self) -> Result<Vec<R>> {
        match self.failure {
            Some((_, error)) => Err(error),
            None => Ok(assemble(self.results, self.total)),
        }
    }

    fn submit(&mut self) {
        self.submit_again();
        while self.failure.is_none() && !self.retries.are_waiting() {
            let Some(range) = self.pending.take().or_else(|| self.cut()) else { break };
            let index = self.ranges.len() as u64;
            let message = self.writer.message();
            let work = Work { index, mode: 0, keeps: Keeping::Nothing, function: &self.task.function, message };
            match self.shared.submit(&self.job, self.priority, work) {
                Ok(Room::Yes) => {
                    self.ranges.push(range);
                    self.results.push(Vec::new());
                    self.retries.submitted(index as usize, &mut self.writer);
                }
                Ok(Room::No) => {
                    self.pending = Some(range);
                    break;
                }
                Err(error) => self.fail(range.start, error),
            }
        }
    }

    /// Submits the calls that are to be run again, as far as there is room.
    fn submit_again(&mut self) {
        while let Some((number, writer)) = self.retries.next() {
            let (index, message) = (number as u64, writer.message());
            let work = Work { index, mode: 0, keeps: Keeping::Nothing, function: &self.task.function, message };
            match self.shared.submit(&self.job, self.priority, work) {
                Ok(Room::Yes) => {}
                Ok(Room::No) => return self.retries.put_back(number),
                Err(error) => self.fail(number, error),
            }
        }
    }

    /// Encodes the next chunk. None: there is none, or outcomes must come first.
    fn cut(&mut self) -> Option<Range<usize>> {
        let size = self.chunks.next(self.items.len(), self.job.owed() as usize);
        let size = self.retries.limit(size.min(self.shared.most_calls));
        if size == 0 {
            return None;
        }
        let start = self.total - self.items.len();
        let mut item = start;
        let (writer, items) = (&mut self.writer, self.items.by_ref());
        // One that is run again asks for its descriptors again.
        let once = !self.retries.are_on();
        let encoded = self.shared.crew.porter().lend(&mut self.task.lent, once, || {
            writer.begin(size);
            items.take(size).try_for_each(|arguments| {
                arguments.write(writer)?;
                item += 1;
                Ok(())
            })
        });
        self.chunks.weigh_arguments(size, self.writer.len());
        match encoded {
            Ok(()) => Some(start..start + size),
            Err(error) => {
                self.fail(item, self.task.refused(&error, (!self.single).then_some(item)));
                None
            }
        }
    }

    fn fail(&mut self, item: usize, error: Error) {
        self.retries.abandon();
        if self.failure.as_ref().is_none_or(|(earliest, _)| item < *earliest) {
            self.failure = Some((item, error));
        }
    }

    fn absorb(&mut self, outcome: Outcome) {
        let Some(range) = usize::try_from(outcome.index).ok().and_then(|index| self.ranges.get(index)).cloned() else {
            return;
        };
        self.chunks.learn(range.len(), outcome.elapsed);
        let first = (!self.single).then_some(range.start);
        let settled = match outcome.answer {
            Answer::Returned(payload) => {
                self.chunks.weigh_results(range.len(), payload.len());
                read(&payload, range.len(), |offset, error| self.task.unread(&error, first.map(|first| first + offset)))
            }
            Answer::Raised(payload) => {
                read_failure(&head_of(&payload)).and_then(|failure| Err(failure.error(self.task.name, first)))
            }
            Answer::Lost(loss) => Err(self.shared.lost(&loss, self.task.name, first, outcome.reached, range.len())),
        };
        let number = outcome.index as usize;
        if self.failure.is_none() && self.retries.answered(number, settled.as_ref().err()) {
            return;
        }
        match settled {
            Ok(values) => self.results[number] = values,
            Err(error) => self.fail(error.item().unwrap_or(range.start), error),
        }
    }
}

impl<Args, R> Machine<Vec<R>> for Map<Args, R>
where
    Args: Arguments + Send,
    R: DeserializeOwned + Send + 'static,
{
    fn advance(&mut self) -> Step {
        self.step()
    }

    fn cancel(&mut self) {
        self.retries.abandon();
        // No other failure counts: who cancels wants to hear that it was cancelled.
        self.failure = Some((0, self.task.cancelled()));
        self.pending = None;
        // A worker that cannot be killed has ended, or nothing works any more and whoever waits is told.
        let _ = self.shared.engine.cancel(self.job.key(), true);
    }

    fn needs_care(&self) -> bool {
        !self.task.lent.is_empty() || self.retries.are_on()
    }

    fn finish(self: Box<Self>) -> Result<Vec<R>> {
        self.end()
    }
}

/// One call, as a machine.
pub(crate) struct Single<Args, R>(pub(crate) Map<Args, R>);

impl<Args, R> Machine<R> for Single<Args, R>
where
    Args: Arguments + Send,
    R: DeserializeOwned + Send + 'static,
{
    fn advance(&mut self) -> Step {
        self.0.step()
    }

    fn cancel(&mut self) {
        Machine::cancel(&mut self.0);
    }

    fn needs_care(&self) -> bool {
        self.0.needs_care()
    }

    fn finish(self: Box<Self>) -> Result<R> {
        only(self.0.end()?)
    }
}

/// The result of one call.
pub(crate) fn only<R>(mut results: Vec<R>) -> Result<R> {
    results.pop().ok_or_else(|| Error::new(Kind::System, "a call was answered without a result; this is a bug"))
}

/// The results in `payload`; `refused` makes the error of one that cannot be read.
fn read<R: DeserializeOwned + 'static>(
    payload: &Payload,
    count: usize,
    refused: impl Fn(usize, Error) -> Error,
) -> Result<Vec<R>> {
    let head = head_of(payload);
    let mut reader = Reader::in_parts(&head, Segments::of(payload))?;
    if reader.count != count {
        return Err(Error::new(
            Kind::System,
            format!("{} results came for {count} items; this is a bug", reader.count),
        ));
    }
    (0..count).map(|at| reader.read_value().map_err(|error| refused(at, error))).collect()
}

fn assemble<R>(mut chunks: Vec<Vec<R>>, total: usize) -> Vec<R> {
    if chunks.len() == 1 {
        return chunks.pop().unwrap_or_default();
    }
    let mut results = Vec::with_capacity(total);
    chunks.into_iter().for_each(|chunk| results.extend(chunk));
    results
}
