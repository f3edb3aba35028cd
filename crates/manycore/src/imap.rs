//! Lazy maps: items are read as results are taken.

use crate::again::Retries;
use crate::codec::{Reader, Writer, head_of, read_failure};
use crate::error::{Error, Kind, Result};
use crate::options::CallOptions;
use crate::shared::{Placed, Shared};
use crate::values::Arguments;
use manycore_engine::pool::{Answer, Job, Keeping, Outcome, Payload, Room, Segments, Work};
use serde::de::DeserializeOwned;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Calls under way or done whose results were not taken yet, unless the user says otherwise.
const WINDOW: usize = 1024;

/// The results of [`Pool::imap`](crate::Pool::imap) or [`imap_unordered`](crate::Pool::imap_unordered),
/// as they come.
///
/// Each result is a [`Result`] of its own: after an error the next item's follows. Items are read, and
/// calls submitted, when results are taken; how far ahead, says [`buffersize`](Imap::buffersize).
/// When this is dropped, calls that wait in the queue never run.
#[must_use = "nothing is read and nothing runs until results are taken"]
pub struct Imap<'p, Args, R> {
    shared: Arc<Shared>,
    job: Job,
    task: Placed,
    items: Box<dyn Iterator<Item = Args> + 'p>,
    /// Items that were read and not encoded yet.
    backlog: VecDeque<Args>,
    is_exhausted: bool,
    ordered: bool,
    chunksize: usize,
    window: usize,
    /// Items that were read so far.
    read: usize,
    /// Items whose results are in flight or were not taken yet.
    held: usize,
    /// Which items each chunk in flight has, by its number.
    ranges: HashMap<u64, Range<usize>>,
    /// Chunks so far.
    cut: u64,
    /// A chunk that is encoded and found no room yet, in `writer`.
    pending: Option<Range<usize>>,
    writer: Writer,
    arrived: VecDeque<Outcome>,
    /// Results of chunks that came before their turn, by the chunk's first item.
    early: HashMap<usize, Vec<Result<R>>>,
    /// The item whose result is to follow those in `ready`.
    next: usize,
    ready: VecDeque<Result<R>>,
    priority: i32,
    /// Where calls may be run again, each chunk is one call.
    retries: Retries,
}

impl<'p, Args: Arguments, R: DeserializeOwned + 'static> Imap<'p, Args, R> {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        options: &CallOptions,
        task: Placed,
        items: impl Iterator<Item = Args> + 'p,
        ordered: bool,
    ) -> Imap<'p, Args, R> {
        Imap {
            job: shared.open_job(options),
            priority: options.priority,
            retries: Retries::new(options),
            shared: Arc::clone(shared),
            task,
            items: Box::new(items),
            backlog: VecDeque::new(),
            is_exhausted: false,
            ordered,
            chunksize: 1,
            window: WINDOW,
            read: 0,
            held: 0,
            ranges: HashMap::new(),
            cut: 0,
            pending: None,
            writer: Writer::in_parts(),
            arrived: VecDeque::new(),
            early: HashMap::new(),
            next: 0,
            ready: VecDeque::new(),
        }
    }

    /// At most so many items are read ahead of the results that were taken; 1024 unless it is said, and
    /// never less than 1.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// let mut read = 0;
    /// let items = (0..).inspect(|_| read += 1);
    /// let first: Vec<u64> = pool.imap(|x: u64| x, items)?.buffersize(4).take(2).collect::<manycore::Result<_>>()?;
    /// assert!(first == [0, 1] && read <= 6);
    /// # Ok(())
    /// # }
    /// ```
    pub fn buffersize(mut self, items: usize) -> Self {
        self.window = items.max(1);
        self
    }

    /// So many items travel together, 1 unless it is said. More of them cost less each, and come later; and
    /// a worker that is lost takes all results of its chunk along.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let pool = manycore::Pool::with_workers(2)?;
    /// let squares = pool.imap(|x: u64| x * x, 0..1000)?.chunksize(100);
    /// assert_eq!(squares.filter(Result::is_ok).count(), 1000);
    /// # Ok(())
    /// # }
    /// ```
    pub fn chunksize(mut self, items: usize) -> Self {
        self.chunksize = items.clamp(1, self.shared.most_calls);
        self
    }

    fn fill(&mut self) {
        self.submit_again();
        while !self.retries.are_waiting() {
            let Some(range) = self.pending.take().or_else(|| self.encode()) else { return };
            let message = self.writer.message();
            let work =
                Work { index: self.cut, mode: 1, keeps: Keeping::Nothing, function: &self.task.function, message };
            match self.shared.submit(&self.job, self.priority, work) {
                Ok(Room::Yes) => {
                    self.ranges.insert(self.cut, range);
                    self.retries.submitted(self.cut as usize, &mut self.writer);
                    self.cut += 1;
                }
                Ok(Room::No) => {
                    self.pending = Some(range);
                    return;
                }
                Err(error) => {
                    self.settle(range.clone(), range.map(|_| Err(error.clone())).collect());
                    self.is_exhausted = true;
                    self.backlog.clear();
                }
            }
        }
    }

    /// Submits the calls that are to be run again, as far as there is room.
    fn submit_again(&mut self) {
        while let Some((number, writer)) = self.retries.next() {
            let (index, message) = (number as u64, writer.message());
            let work = Work { index, mode: 1, keeps: Keeping::Nothing, function: &self.task.function, message };
            match self.shared.submit(&self.job, self.priority, work) {
                Ok(Room::Yes) => {}
                Ok(Room::No) => return self.retries.put_back(number),
                Err(error) => {
                    self.retries.answered(number, None);
                    if let Some(range) = self.ranges.remove(&index) {
                        self.settle(range.clone(), range.map(|item| Err(error.clone().at(item))).collect());
                    }
                }
            }
        }
    }

    /// Reads and encodes the next chunk, if there is one and it may be in flight.
    fn encode(&mut self) -> Option<Range<usize>> {
        loop {
            let size = self.retries.limit(self.chunksize).min(self.window.saturating_sub(self.held));
            while self.backlog.len() < size && !self.is_exhausted {
                match self.items.next() {
                    Some(item) => self.backlog.push_back(item),
                    None => self.is_exhausted = true,
                }
            }
            let size = size.min(self.backlog.len());
            if size == 0 {
                return None;
            }
            let start = self.read;
            let (mut count, mut refused) = (0, None);
            self.writer.begin(size);
            while count < size
                && refused.is_none()
                && let Some(arguments) = self.backlog.pop_front()
            {
                let mark = self.writer.mark();
                let (porter, writer) = (self.shared.crew.porter(), &mut self.writer);
                // One that is run again asks for its descriptors again.
                let once = !self.retries.are_on();
                match porter.lend(&mut self.task.lent, once, || arguments.write(writer)) {
                    Ok(()) => count += 1,
                    Err(error) => {
                        self.writer.reset(mark);
                        refused = Some(self.task.refused(&error, Some(start + count)));
                    }
                }
            }
            let taken = count + usize::from(refused.is_some());
            self.held += taken;
            self.read += taken;
            if let Some(error) = refused {
                // It fails alone; those before it travel.
                self.settle(start + count..start + taken, vec![Err(error)]);
                self.writer.recount(count);
            }
            if count > 0 {
                return Some(start..start + count);
            }
        }
    }

    /// The results of the items `range` are there.
    fn settle(&mut self, range: Range<usize>, results: Vec<Result<R>>) {
        if !self.ordered {
            self.ready.extend(results);
            return;
        }
        self.early.insert(range.start, results);
        while let Some(results) = self.early.remove(&self.next) {
            self.next += results.len();
            self.ready.extend(results);
        }
    }

    fn absorb(&mut self, outcome: Outcome) {
        let Some(range) = self.ranges.remove(&outcome.index) else { return };
        let results = match outcome.answer {
            Answer::Returned(payload) => self.unpack(&payload, &range),
            Answer::Raised(payload) => read_failure(&head_of(&payload))
                .and_then(|failure| Err(failure.error(self.task.name, Some(range.start)))),
            Answer::Lost(loss) => {
                let lost = |item| Err(self.shared.lost(&loss, self.task.name, Some(item), 0, 1));
                Ok(range.clone().map(lost).collect())
            }
        };
        // Each says its own number: a caller who tries again goes by that.
        let results: Vec<Result<R>> =
            results.unwrap_or_else(|error| range.clone().map(|item| Err(error.clone().at(item))).collect());
        let failure = results.first().and_then(|result| result.as_ref().err());
        if self.retries.answered(outcome.index as usize, failure) {
            self.ranges.insert(outcome.index, range);
            return;
        }
        self.settle(range, results);
    }

    fn unpack(&self, payload: &Payload, range: &Range<usize>) -> Result<Vec<Result<R>>> {
        let head = head_of(payload);
        let mut reader = Reader::in_parts(&head, Segments::of(payload))?;
        if reader.count != range.len() {
            let message = format!("{} results came for {} items; this is a bug", reader.count, range.len());
            return Err(Error::new(Kind::System, message));
        }
        let mut results = Vec::with_capacity(range.len());
        for _ in range.clone() {
            if !reader.read::<bool>()? {
                results.push(Err(reader.read_failure()?.error(self.task.name, Some(range.start))));
                continue;
            }
            let spot = reader.spot();
            let result = reader.read_value();
            if result.is_err() {
                // The results behind it are whole.
                reader.pass(spot, 1)?;
            }
            let item = range.start + results.len();
            results.push(result.map_err(|error| self.task.unread(&error, Some(item))));
        }
        Ok(results)
    }
}

impl<Args: Arguments, R: DeserializeOwned + 'static> Iterator for Imap<'_, Args, R> {
    type Item = Result<R>;

    /// The next result; waits for it.
    fn next(&mut self) -> Option<Result<R>> {
        loop {
            let seen = self.shared.engine.events();
            self.fill();
            self.job.take(&mut self.arrived);
            while let Some(outcome) = self.arrived.pop_front() {
                self.absorb(outcome);
            }
            self.submit_again();
            if let Some(result) = self.ready.pop_front() {
                self.held -= 1;
                return Some(result);
            }
            let waited = match () {
                () if self.job.owed() > 0 => {
                    let key = self.job.key();
                    self.shared.crew.wait(|pool| pool.wait_for(key, None))
                }
                () if self.pending.is_some() || self.retries.are_waiting() => {
                    self.shared.crew.wait(|pool| pool.wait_for_event(seen, None))
                }
                () => return None,
            };
            // A pool that breaks answers every task first; and refuses what is submitted after.
            if let Err(error) = waited
                && self.job.owed() > 0
            {
                self.ranges.clear();
                self.retries.abandon();
                (self.pending, self.is_exhausted) = (None, true);
                self.backlog.clear();
                return Some(Err(error));
            }
        }
    }
}

impl<Args, R> Drop for Imap<'_, Args, R> {
    fn drop(&mut self) {
        if self.shared.engine.is_ours() {
            // Those that run are left alone, so nothing can fail.
            let _ = self.shared.engine.cancel(self.job.key(), false);
        }
    }
}

impl<Args, R> fmt::Debug for Imap<'_, Args, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imap").field("task", &self.task.name).field("read", &self.read).finish_non_exhaustive()
    }
}
