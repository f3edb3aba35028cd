//! Chunks of a lazy map of which a part is run again: a worker was lost in them, or a call may be retried.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex};

use manycore_engine::dispatch::{self, Again};
use manycore_engine::pool::{Answer, Outcome};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::answers::{Each, left_behind, outcomes_of};
use crate::codec::{self, Incoming};
use crate::core::{Core, lock};
use crate::hooks;
use crate::lazy::Lazy;
use crate::options::Wishes;

/// Marks the number of a task that is a part of a chunk.
pub(crate) const PART: u64 = 1 << 63;

/// Where a task's items are: which chunk, and which of its items.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) chunk: u64,
    pub(crate) items: Range<usize>,
}

/// The items of chunks in flight that may be needed again, by the chunks' numbers.
#[derive(Default)]
pub(crate) struct Lists(Mutex<HashMap<u64, Py<PyList>>>);

impl Lists {
    /// Chunk `index` has the items `list`.
    pub(crate) fn keep(&self, py: Python<'_>, index: u64, list: &Py<PyList>) {
        lock(&self.0).insert(index, list.clone_ref(py));
    }

    fn get(&self, py: Python<'_>, index: u64) -> Option<Py<PyList>> {
        lock(&self.0).get(&index).map(|list| list.clone_ref(py))
    }

    fn len_of(&self, py: Python<'_>, index: u64) -> Option<usize> {
        lock(&self.0).get(&index).map(|list| list.bind(py).len())
    }

    /// Chunk `index` is answered.
    fn forget(&self, index: u64) {
        let list = lock(&self.0).remove(&index);
        drop(list);
    }
}

/// The chunks of one lazy map that are not whole yet. Belongs to the thread that takes results, since reading what a
/// worker has left may run any code.
pub(crate) struct Parts {
    wishes: Arc<Wishes>,
    open: HashMap<u64, Open>,
    /// Parts in flight, by the numbers of their tasks.
    tasks: HashMap<u64, Part>,
    waiting: VecDeque<u64>,
    submitted: u64,
}

struct Open {
    answers: Vec<Option<Each>>,
    missing: usize,
    again: Again,
}

/// What an outcome of a lazy map leads to.
pub(crate) enum Heard {
    /// The chunk is answered, as a whole.
    Whole(u64, Answer),
    /// The chunk is answered, item by item.
    Items(u64, Vec<Each>),
    /// Something of the chunk is still to come.
    Partly,
}

impl Parts {
    pub(crate) fn new(wishes: Arc<Wishes>) -> Parts {
        Parts { wishes, open: HashMap::new(), tasks: HashMap::new(), waiting: VecDeque::new(), submitted: 0 }
    }

    /// Whether chunks of `size` items may be needed again.
    pub(crate) fn needs_lists(wishes: &Wishes, size: usize) -> bool {
        wishes.retries > 0 || size > 1
    }

    /// Takes an outcome of chunks of `size` items, or of parts of them.
    pub(crate) fn hear(&mut self, py: Python<'_>, outcome: Outcome, lazy: &Lazy, core: &Core) -> Heard {
        let is_lost = matches!(&outcome.answer, Answer::Lost(_));
        if self.open.is_empty() && !is_lost && !self.wishes.is_each() {
            // Nearly always.
            if lazy.keeps_lists() {
                lazy.lists.forget(outcome.index);
            }
            return Heard::Whole(outcome.index, outcome.answer);
        }
        let lists = &lazy.lists;
        let is_part = outcome.index & PART != 0;
        let part = match self.tasks.remove(&outcome.index) {
            Some(part) => part,
            None if is_part => return Heard::Partly,
            None => {
                let count = lists.len_of(py, outcome.index).unwrap_or(1);
                Part { chunk: outcome.index, items: 0..count }
            }
        };
        let is_simple = match &outcome.answer {
            Answer::Returned(_) => !self.wishes.is_each(),
            Answer::Raised(_) => !self.wishes.as_values,
            Answer::Lost(loss) => !loss.may_be_retried() || lists.len_of(py, part.chunk).is_none(),
        };
        if !is_part && is_simple && !self.wishes.as_values {
            lists.forget(part.chunk);
            return Heard::Whole(part.chunk, outcome.answer);
        }
        let (count, retries) = (lists.len_of(py, part.chunk).unwrap_or(1), self.wishes.retries);
        let open = self.open.entry(part.chunk).or_insert_with(|| Open {
            answers: (0..count).map(|_| None).collect(),
            missing: count,
            again: Again::new(retries),
        });
        open.hear(py, &self.wishes, outcome, &part, core.goes_on(), &|part| lazy.name(py, part));
        self.after(part.chunk, lists)
    }

    /// The next part to be run again, and the list that its items are in.
    pub(crate) fn next(&mut self, py: Python<'_>, lists: &Lists) -> Option<(Part, Py<PyList>)> {
        loop {
            let chunk = *self.waiting.front()?;
            let next = self.open.get_mut(&chunk).and_then(|open| open.again.take());
            match (next, lists.get(py, chunk)) {
                (Some(items), Some(list)) => return Some((Part { chunk, items }, list)),
                _ => self.waiting.pop_front(),
            };
        }
    }

    /// There was no room for a part.
    pub(crate) fn put_back(&mut self, part: Part) {
        if let Some(open) = self.open.get_mut(&part.chunk) {
            open.again.put_back(part.items);
        }
    }

    /// The number for the task of a part that is about to be submitted; it counts from [`Parts::sent`] on.
    pub(crate) fn number(&self) -> u64 {
        PART | self.submitted
    }

    /// A part was submitted under [`Parts::number`].
    pub(crate) fn sent(&mut self, part: Part) {
        self.tasks.insert(self.number(), part);
        self.submitted += 1;
    }

    /// A part cannot be sent.
    pub(crate) fn refused(&mut self, py: Python<'_>, lists: &Lists, part: &Part, error: &PyErr) -> Heard {
        if let Some(open) = self.open.get_mut(&part.chunk) {
            open.fail(py, part.items.clone(), error);
        }
        self.after(part.chunk, lists)
    }

    /// Whether parts wait to be submitted.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn after(&mut self, chunk: u64, lists: &Lists) -> Heard {
        match self.open.get(&chunk) {
            Some(open) if open.missing > 0 => {
                if !open.again.is_empty() && !self.waiting.contains(&chunk) {
                    self.waiting.push_back(chunk);
                }
                Heard::Partly
            }
            _ => {
                lists.forget(chunk);
                let answers = self.open.remove(&chunk).map(|open| open.answers).unwrap_or_default();
                Heard::Items(chunk, answers.into_iter().flatten().collect())
            }
        }
    }
}

impl Open {
    fn hear(
        &mut self,
        py: Python<'_>,
        wishes: &Wishes,
        outcome: Outcome,
        part: &Part,
        goes_on: bool,
        name: &dyn Fn(&Part) -> String,
    ) {
        let items = part.items.clone();
        match &outcome.answer {
            Answer::Lost(loss) => {
                let values = hooks::whole(py, || Ok(left_behind(py, outcome.left.as_deref(), wishes.is_each())))
                    .unwrap_or_default();
                let verdict = self.again.lost(&dispatch::Loss {
                    chunk: items,
                    left: values.len(),
                    reached: outcome.reached,
                    repeats: false,
                    goes_on: goes_on && loss.may_be_retried(),
                });
                verdict.done.zip(values).for_each(|(item, value)| self.hear_one(py, wishes, item, value));
                let failed = Part { chunk: part.chunk, items: verdict.failed };
                if !failed.items.is_empty() {
                    let error = hooks::lost(py, loss, wishes.limit, || name(&failed));
                    self.fail(py, failed.items, &error);
                }
            }
            Answer::Returned(payload) => {
                let values = hooks::whole(py, || match wishes.is_each() {
                    true => outcomes_of(py, &Incoming::of(payload), items.len()),
                    false => {
                        let list = codec::decode(py, &Incoming::of(payload))?.cast_into::<PyList>();
                        let list = list.map_err(|_| hooks::bug("a chunk that is no list"))?;
                        Ok(list.iter().take(items.len()).map(|value| Ok(value.unbind())).collect())
                    }
                });
                match values {
                    Ok(values) => {
                        let done = items.start + values.len();
                        items.clone().zip(values).for_each(|(item, value)| self.hear_one(py, wishes, item, value));
                        // A worker that could not read an argument has answered that item, and none behind it.
                        self.again.wait(done..items.end);
                    }
                    Err(error) => self.fail(py, items, &error),
                }
            }
            Answer::Raised(payload) => {
                let error = hooks::whole(py, || Ok(hooks::raised(py, payload))).unwrap_or_else(|error| error);
                self.fail(py, items, &error);
            }
        }
    }

    fn hear_one(&mut self, py: Python<'_>, wishes: &Wishes, item: usize, answer: Each) {
        if let Err(error) = &answer
            && wishes.may_retry(py, error).unwrap_or(false)
            && self.again.retry(item)
        {
            return;
        }
        if let Some(place @ None) = self.answers.get_mut(item) {
            *place = Some(answer);
            self.missing -= 1;
        }
    }

    fn fail(&mut self, py: Python<'_>, items: Range<usize>, error: &PyErr) {
        for item in items {
            if let Some(place @ None) = self.answers.get_mut(item) {
                *place = Some(Err(error.clone_ref(py)));
                self.missing -= 1;
            }
        }
    }
}
