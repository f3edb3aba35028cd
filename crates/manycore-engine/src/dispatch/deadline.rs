//! When a task has had its time.
//!
//! A worker notes the moment at which it claimed a task, and the moment at which it went on to the next item of a
//! chunk. The note is a hint: it is held against what the caller has seen itself, so that a worker that writes
//! nonsense changes the end of its own task by no more than the time between two looks. See "Deadlines" in README.md.

use std::collections::HashMap;
use std::time::Duration;

/// A task that a worker runs, as the shared words say it. Times are nanoseconds of the machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// The worker's seat.
    pub seat: u16,
    /// The position under which the task was published: no two tasks of a pool have the same.
    pub position: u64,
    /// How far the task has come. Each stretch has the whole limit for itself.
    pub reached: u64,
    /// Since when, if the worker has noted it.
    pub since: Option<u64>,
    /// How long each stretch may take; `None`: for ever.
    pub limit: Option<u64>,
}

/// A task that has had its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// The seat of the worker that runs it.
    pub seat: u16,
    /// The position under which the task was published.
    pub position: u64,
}

/// The stretch of a task that was seen in one seat.
#[derive(Clone, Copy, Debug)]
struct Seen {
    position: u64,
    reached: u64,
    since: u64,
}

/// The deadlines of one pool's tasks.
#[derive(Debug, Default)]
pub struct Deadlines {
    seen: HashMap<u16, Seen>,
    /// The last look. A stretch that was not seen then has begun after it.
    looked: u64,
    /// When to look next: no stretch can be over earlier.
    next: Option<u64>,
    /// Workers that were asked to end by themselves, and when they are to be killed.
    asked: Vec<(u16, u64)>,
}

impl Deadlines {
    /// A task whose stretches may take `limit` was submitted. Says whether the next look is earlier for that:
    /// whoever sleeps until the next look must then be woken.
    #[must_use]
    pub fn expect(&mut self, limit: u64, now: u64) -> bool {
        let due = now.saturating_add(limit);
        let earlier = self.next.is_none_or(|next| due < next);
        if earlier {
            self.next = Some(due);
        }
        earlier
    }

    /// How long nothing needs to be looked at; zero: now. None: no task has a limit.
    pub fn rest(&self, now: u64) -> Option<Duration> {
        let asked = self.asked.iter().map(|(_, at)| *at).min();
        let due = self.next.into_iter().chain(asked).min();
        due.map(|due| Duration::from_nanos(due.saturating_sub(now)))
    }

    /// Whether any task has a limit: nearly never, so this is asked before the clock is.
    pub fn is_idle(&self) -> bool {
        self.next.is_none() && self.asked.is_empty()
    }

    /// Looks at what the workers run. `waiting` is the shortest limit of a task that is submitted and not claimed.
    /// Gives the tasks that have had their time.
    pub fn look(&mut self, now: u64, running: &[Running], waiting: Option<u64>) -> Vec<Over> {
        let before = std::mem::take(&mut self.seen);
        let (mut over, mut next) = (Vec::new(), waiting.map(|limit| now.saturating_add(limit)));
        for task in running {
            let same = |seen: &&Seen| (seen.position, seen.reached) == (task.position, task.reached);
            let since = match before.get(&task.seat).filter(same) {
                Some(seen) => seen.since,
                // Within what can be true: it was not seen at the last look, and it is seen now.
                None => task.since.map_or(now, |since| since.clamp(self.looked.min(now), now)),
            };
            self.seen.insert(task.seat, Seen { position: task.position, reached: task.reached, since });
            let Some(limit) = task.limit else { continue };
            let end = since.saturating_add(limit);
            if end <= now {
                over.push(Over { seat: task.seat, position: task.position });
            } else {
                next = Some(next.map_or(end, |next| next.min(end)));
            }
        }
        (self.looked, self.next) = (now, next);
        over
    }

    /// The worker in `seat` was asked to end by itself: it is killed at the moment `at` if it lives then.
    pub fn asked(&mut self, seat: u16, at: u64) {
        self.asked.push((seat, at));
    }

    /// The workers that were asked to end and have had their time for it.
    pub fn take_late(&mut self, now: u64) -> Vec<u16> {
        let late = self.asked.iter().filter(|(_, at)| *at <= now).map(|(seat, _)| *seat).collect();
        self.asked.retain(|(_, at)| *at > now);
        late
    }

    /// The worker in `seat` has ended.
    pub fn ended(&mut self, seat: u16) {
        self.seen.remove(&seat);
        self.asked.retain(|(asked, _)| *asked != seat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: u64 = 100;

    /// A worker in virtual time: it runs tasks one after the other, each with some stretches.
    #[derive(Debug)]
    struct Worker {
        seat: u16,
        /// When each stretch begins, with the task's position and the number of the stretch.
        stretches: Vec<(u64, u64, u64)>,
    }

    impl Worker {
        fn new(seat: u16, tasks: &[Vec<u64>]) -> Worker {
            let (mut at, mut stretches) = (0, Vec::new());
            for (position, task) in tasks.iter().enumerate() {
                for (number, length) in task.iter().enumerate() {
                    stretches.push((at, position as u64 * 8 + u64::from(seat), number as u64));
                    at += length;
                }
            }
            stretches.push((at, u64::MAX, 0));
            Worker { seat, stretches }
        }

        /// What it runs at `now`, and when that stretch began and will end.
        fn at(&self, now: u64) -> Option<(Running, u64, u64)> {
            let index = self.stretches.iter().rposition(|(begin, ..)| *begin <= now)?;
            let (begin, position, reached) = self.stretches[index];
            let (end, ..) = *self.stretches.get(index + 1)?;
            let running = Running { seat: self.seat, position, reached, since: Some(begin), limit: Some(LIMIT) };
            Some((running, begin, end))
        }
    }

    proptest! {
        /// Nothing ends before its time, and what takes longer is found at the first moment that the machine asked
        /// to look at after its time was over, whatever else runs and whenever it begins.
        #[test]
        fn a_stretch_ends_at_its_time_and_never_earlier(
            tasks in prop::collection::vec(prop::collection::vec(prop::collection::vec(1u64..150, 1..4), 1..6), 1..3),
            noted in any::<bool>(),
            lag in 0u64..5,
        ) {
            let workers: Vec<_> = tasks.iter().enumerate().map(|(seat, tasks)| Worker::new(seat as u16, tasks)).collect();
            let mut deadlines = Deadlines::default();
            prop_assert!(deadlines.expect(LIMIT, 0) && !deadlines.expect(LIMIT, 1));
            let mut now = 0;
            for _ in 0..200 {
                let Some(rest) = deadlines.rest(now) else { break };
                now += rest.as_nanos() as u64 + lag;
                let seen: Vec<_> = workers.iter().filter_map(|worker| worker.at(now)).collect();
                let hidden = |task: &Running| Running { since: task.since.filter(|_| noted), ..*task };
                let running: Vec<_> = seen.iter().map(|(task, ..)| hidden(task)).collect();
                let waiting = workers.iter().any(|worker| now < worker.stretches.last().unwrap().0).then_some(LIMIT);
                let over = deadlines.look(now, &running, waiting);
                for (task, begin, _) in &seen {
                    let ended = over.contains(&Over { seat: task.seat, position: task.position });
                    prop_assert!(!ended || now - begin >= LIMIT, "early");
                    // The look that a note allows comes at the end, late only by the lag.
                    prop_assert!(!noted || ended == (now - begin >= LIMIT), "late");
                }
                if !over.is_empty() { return Ok(()); }
            }
            let longest = workers.iter().flat_map(|worker| worker.stretches.windows(2)).map(|pair| pair[1].0 - pair[0].0).max();
            prop_assert!(!noted || longest < Some(LIMIT + 2 * lag + 1), "a stretch of {longest:?} was never ended");
        }

        /// A worker that writes any time at all changes nothing about another's task, and about its own only within
        /// the two looks between which it began.
        #[test]
        fn a_note_counts_only_where_it_can_be_true(noise in any::<u64>(), first in 1u64..1000) {
            let mut deadlines = Deadlines::default();
            let run = |position, since| Running { seat: 0, position, reached: 0, since: Some(since), limit: Some(LIMIT) };
            prop_assert_eq!(deadlines.look(first, &[run(1, first)], None), []);
            prop_assert_eq!(deadlines.look(first + 50, &[run(2, noise)], None), []);
            prop_assert_eq!(deadlines.look(first + 99, &[run(2, noise)], None), []);
            prop_assert_eq!(deadlines.look(first + 150, &[run(2, noise)], None).len(), 1);
        }
    }

    #[test]
    fn a_worker_that_was_asked_to_end_is_killed_once_and_only_if_it_lives() {
        let mut deadlines = Deadlines::default();
        assert!(deadlines.is_idle() && deadlines.rest(5).is_none());
        deadlines.asked(3, 20);
        deadlines.asked(4, 30);
        assert_eq!(deadlines.rest(5), Some(Duration::from_nanos(15)));
        assert_eq!(deadlines.take_late(19), []);
        deadlines.ended(4);
        assert_eq!((deadlines.take_late(100), deadlines.take_late(100)), (vec![3], vec![]));
        assert!(deadlines.is_idle());
    }
}
