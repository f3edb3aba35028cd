//! Which items of a job are run again: those that a lost worker had not begun, and those that may be retried.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

/// How a chunk was lost.
#[derive(Clone, Debug)]
pub struct Loss {
    /// The items of the chunk, by their numbers in the job.
    pub chunk: Range<usize>,
    /// How many results the worker has left, of the first items.
    pub left: usize,
    /// How many items it had done when it was lost; not checked.
    pub reached: u64,
    /// Items that were done and of which nothing is left may be run once more: they are so short that nobody kept
    /// their results, and for the same reason nobody will notice.
    pub repeats: bool,
    /// Whether the pool goes on, so that anything can be run again at all.
    pub goes_on: bool,
}

/// What becomes of the items of a chunk that was lost. Items that are named by neither are run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Their results are there.
    pub done: Range<usize>,
    /// They fail.
    pub failed: Range<usize>,
}

/// The items of one job that wait to be run again.
#[derive(Debug, Default)]
pub struct Again {
    /// How often an item may be run after its first time.
    retries: u32,
    /// How often each item was run again so far; those that never were are missing.
    spent: HashMap<usize, u32>,
    waiting: VecDeque<Range<usize>>,
}

impl Again {
    /// Nothing waits; each item may be retried `retries` times.
    pub fn new(retries: u32) -> Again {
        Again { retries, ..Again::default() }
    }

    /// A chunk was lost. The item that was running is to blame: it is retried, alone, or it fails. What was not begun
    /// is run again without being counted.
    pub fn lost(&mut self, loss: &Loss) -> Verdict {
        let Range { start, end } = loss.chunk.clone();
        let last = end.saturating_sub(1).max(start);
        // Another process's word: it may say anything.
        let reached = usize::try_from(loss.reached).unwrap_or(usize::MAX);
        let done = start + loss.left.min(end - start);
        if !loss.goes_on {
            return Verdict { done: start..done, failed: done..end };
        }
        let blamed = start.saturating_add(reached).clamp(done.min(last), last);
        if done == end {
            // The worker had done everything but to say so.
            return Verdict { done: start..end, failed: end..end };
        }
        self.wait(blamed + 1..end);
        let mut failed = done..blamed + 1;
        if loss.repeats {
            self.wait(done..blamed);
            failed.start = blamed;
        }
        // Retried where all of them may be; most often it is one.
        if failed.clone().all(|item| self.may_retry(item)) {
            for item in failed.clone() {
                let _ = self.retry(item);
            }
            failed.start = failed.end;
        }
        Verdict { done: start..done, failed }
    }

    fn may_retry(&self, item: usize) -> bool {
        self.spent.get(&item).copied().unwrap_or(0) < self.retries
    }

    /// An item has failed in a way that may be retried. Says whether it is run again.
    #[must_use]
    pub fn retry(&mut self, item: usize) -> bool {
        let may = self.may_retry(item);
        if may {
            *self.spent.entry(item).or_default() += 1;
            self.wait(item..item + 1);
        }
        may
    }

    /// These items are run again, whatever was counted.
    pub fn wait(&mut self, items: Range<usize>) {
        if !items.is_empty() {
            self.waiting.push_back(items);
        }
    }

    /// The items to run next, as one task.
    pub fn take(&mut self) -> Option<Range<usize>> {
        self.waiting.pop_front()
    }

    /// Items from [`Again::take`] for which there was no room.
    pub fn put_back(&mut self, items: Range<usize>) {
        self.waiting.push_front(items);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Nothing is run again any more: gives how many items waited.
    pub fn abandon(&mut self) -> usize {
        self.retries = 0;
        self.waiting.drain(..).map(|items| items.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever workers die at, each item is answered once; an item is begun no more often than it may be, and only
        /// items during which a worker died are begun twice or fail.
        #[test]
        fn each_item_is_answered_once(
            total in 1usize..60,
            size in 1usize..20,
            retries in 0u32..3,
            deaths in prop::collection::vec(prop::option::of((any::<u64>(), 0usize..20)), 0..40),
            repeats in any::<bool>(),
        ) {
            let mut again = Again::new(retries);
            let (mut begun, mut answered, mut killed) = (vec![0u32; total], vec![0u32; total], vec![0u32; total]);
            let (mut cut, mut deaths) = (0, deaths.into_iter());
            while let Some(chunk) = again.take().or_else(|| (cut < total).then(|| cut..(cut + size).min(total))) {
                cut = cut.max(chunk.end);
                let Some((at, unkept)) = deaths.next().flatten() else {
                    chunk.for_each(|item| { begun[item] += 1; answered[item] += 1 });
                    continue;
                };
                // The worker dies in item `reached`; of the last `unkept` before it, it has left nothing.
                let reached = (at % chunk.len() as u64) as usize;
                (chunk.start..=chunk.start + reached).for_each(|item| begun[item] += 1);
                let left = reached.saturating_sub(unkept);
                (chunk.start + left..=chunk.start + reached).for_each(|item| killed[item] += 1);
                let loss = Loss { chunk, left, reached: reached as u64, repeats, goes_on: true };
                let verdict = again.lost(&loss);
                verdict.done.chain(verdict.failed.clone()).for_each(|item| answered[item] += 1);
                prop_assert!(!repeats || verdict.failed.len() <= 1, "one death costs one item");
            }
            prop_assert!(answered.iter().all(|times| *times == 1), "{answered:?}");
            prop_assert!(begun.iter().zip(&killed).all(|(begun, killed)| *begun <= killed + 1), "{begun:?}");
            prop_assert!(repeats || begun.iter().all(|begun| *begun <= retries + 1), "{begun:?}");
        }

        /// A damaged worker's numbers cost the items of its own chunk at most.
        #[test]
        fn numbers_that_cannot_be_true_stay_in_their_chunk(left in any::<usize>(), reached in any::<u64>(), len in 1usize..9) {
            let mut again = Again::new(0);
            let verdict = again.lost(&Loss { chunk: 5..5 + len, left, reached, repeats: false, goes_on: true });
            let mut items: Vec<usize> = verdict.done.chain(verdict.failed).collect();
            items.extend(std::iter::from_fn(|| again.take()).flatten());
            prop_assert_eq!(items, (5..5 + len).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_pool_that_has_ended_runs_nothing_again() {
        let mut again = Again::new(5);
        let verdict = again.lost(&Loss { chunk: 0..9, left: 2, reached: 4, repeats: true, goes_on: false });
        assert_eq!(verdict, Verdict { done: 0..2, failed: 2..9 });
        assert!(again.is_empty() && again.retry(3) && !again.is_empty());
        assert_eq!((again.abandon(), again.retry(3)), (1, false));
    }
}
