//! What has been accepted and is not in shared memory yet.
//!
//! A job larger than the room there is keeps the rest here. Whoever waits pumps:
//! the thread that wants a result, a join, or, when nobody waits, the keeper.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};

use pyo3::prelude::*;

use crate::core::{Core, lock};
use crate::lazy::Lazy;
use crate::map::Map;
use crate::result::{ApplyResult, Progress};

/// One job that has more to submit.
pub(crate) enum Feed {
    /// A map whose items are all there.
    Map(Py<ApplyResult>),
    /// A lazy map over an iterator.
    Lazy(Arc<Lazy>),
    /// A map that has to run something again.
    Rest(Arc<Map>),
}

impl Feed {
    fn priority(&self) -> i32 {
        match self {
            Feed::Map(result) => result.get().priority(),
            Feed::Lazy(lazy) => lazy.wishes.priority,
            Feed::Rest(map) => map.priority(),
        }
    }
}

/// Puts `feed` behind those that are as urgent.
fn insert(feeds: &mut Vec<Feed>, feed: Feed) {
    let at = feeds.partition_point(|before| before.priority() >= feed.priority());
    feeds.insert(at, feed);
}

/// Everything one pool has still to submit or to call back.
#[derive(Default)]
pub(crate) struct Feeds {
    deferred: Mutex<VecDeque<Py<ApplyResult>>>,
    feeds: Mutex<Vec<Feed>>,
    /// Results with callbacks, by the number of their job.
    kept: Mutex<HashMap<u64, Py<ApplyResult>>>,
    /// Maps that are not done, by the number of their job: if a worker dies in a chunk, the keeper has the rest of it run.
    minded: Mutex<HashMap<u64, Weak<Map>>>,
    /// Maps whose results nobody will take, until everything of them is done.
    orphans: Mutex<HashMap<u64, Arc<Map>>>,
    /// Called once when something arrives for a lazy map, by the number of its job.
    watchers: Mutex<HashMap<u64, Py<PyAny>>>,
    /// Results with callbacks that failed before they could be submitted.
    failed: Mutex<Vec<Py<ApplyResult>>>,
    /// Jobs whose news came while another thread had them in hand.
    again: Mutex<Vec<u64>>,
}

/// How much is open.
pub(crate) struct Open {
    /// Calls that wait for room.
    pub(crate) calls: usize,
    /// Maps of which a part waits for room.
    pub(crate) maps: usize,
    /// Results that are to be called back for.
    pub(crate) kept: usize,
}

impl Feeds {
    /// A call that waits for room, behind those that waited before and are as urgent.
    pub(crate) fn defer(&self, result: Py<ApplyResult>) {
        let (mut deferred, priority) = (lock(&self.deferred), result.get().priority());
        let behind = deferred.iter().rev().take_while(|waiting| waiting.get().priority() < priority).count();
        let at = deferred.len() - behind;
        deferred.insert(at, result);
    }

    /// Whether calls wait for room that come before one of `priority`.
    pub(crate) fn has_deferred_before(&self, priority: i32) -> bool {
        lock(&self.deferred).front().is_some_and(|waiting| waiting.get().priority() >= priority)
    }

    /// Whether calls wait for room.
    pub(crate) fn has_deferred(&self) -> bool {
        !lock(&self.deferred).is_empty()
    }

    /// A job that has more to submit than there was room for.
    pub(crate) fn add(&self, feed: Feed) {
        insert(&mut lock(&self.feeds), feed);
    }

    /// The keeper calls back for `result`.
    pub(crate) fn keep(&self, key: u64, result: &Bound<'_, ApplyResult>) {
        lock(&self.kept).insert(key, result.clone().unbind());
    }

    /// The keeper looks after `map` when a task of it is lost.
    pub(crate) fn mind(&self, map: &Arc<Map>) {
        lock(&self.minded).insert(map.job().key(), Arc::downgrade(map));
    }

    /// Nobody will take the result of `map`, and all of it is run all the same.
    pub(crate) fn adopt(&self, map: &Arc<Map>) {
        lock(&self.orphans).insert(map.job().key(), Arc::clone(map));
    }

    /// Job `key` is done: the keeper need not look after it any more.
    pub(crate) fn release(&self, key: u64) {
        let kept = lock(&self.kept).remove(&key);
        lock(&self.minded).remove(&key);
        drop(kept);
    }

    /// The keeper calls back for `result`, which failed without being submitted.
    pub(crate) fn fail(&self, result: Py<ApplyResult>) {
        lock(&self.failed).push(result);
    }

    /// Has `call` called when something arrives for the lazy map with job `key`. Gives who waited before.
    pub(crate) fn watch(&self, key: u64, call: Py<PyAny>) -> Option<Py<PyAny>> {
        lock(&self.watchers).insert(key, call)
    }

    /// Something has arrived for the lazy map with job `key`, or nothing will.
    pub(crate) fn tell_watcher(&self, py: Python<'_>, key: u64) {
        let watcher = lock(&self.watchers).remove(&key);
        if let Some(watcher) = watcher
            && let Err(error) = watcher.call0(py)
        {
            error.write_unraisable(py, Some(watcher.bind(py)));
        }
    }

    /// Whether the keeper has results to call back for.
    pub(crate) fn has_kept(&self) -> bool {
        !lock(&self.kept).is_empty() || !lock(&self.failed).is_empty()
    }

    /// Whether the keeper waits for anything else: somebody awaits the results of a lazy map, or a map has nobody else.
    pub(crate) fn has_wards(&self) -> bool {
        !lock(&self.watchers).is_empty() || !lock(&self.orphans).is_empty()
    }

    /// Whether everything accepted has been submitted.
    pub(crate) fn is_dry(&self) -> bool {
        lock(&self.deferred).is_empty() && lock(&self.feeds).is_empty()
    }

    /// What has been accepted and is not answered, as far as it is known here.
    pub(crate) fn open(&self) -> Open {
        let maps = lock(&self.feeds).iter().filter(|feed| matches!(feed, Feed::Map(_))).count();
        Open { calls: lock(&self.deferred).len(), maps, kept: lock(&self.kept).len() + lock(&self.failed).len() }
    }

    /// Lazy maps submit everything from now on, whether anybody takes results or not.
    pub(crate) fn open_windows(&self) {
        for feed in lock(&self.feeds).iter() {
            if let Feed::Lazy(lazy) = feed {
                lazy.open_window();
            }
        }
    }

    /// Submits what there is room for.
    pub(crate) fn pump(&self, py: Python<'_>, core: &Core) {
        self.pump_deferred(py, core);
        if lock(&self.feeds).is_empty() {
            return;
        }
        // Taken out, because pumping runs Python code that may come back here.
        let mut feeds = std::mem::take(&mut *lock(&self.feeds));
        feeds.retain(|feed| match feed {
            Feed::Map(result) => !ApplyResult::feed(result.bind(py), core),
            Feed::Lazy(lazy) => !lazy.feed(py, core),
            Feed::Rest(map) => !(map.tend(py, core) && map.is_dry()),
        });
        let mut kept = lock(&self.feeds);
        kept.drain(..).for_each(|feed| insert(&mut feeds, feed));
        *kept = feeds;
    }

    fn pump_deferred(&self, py: Python<'_>, core: &Core) {
        loop {
            let Some(result) = lock(&self.deferred).pop_front() else { return };
            if !ApplyResult::submit(result.bind(py), core) {
                lock(&self.deferred).push_front(result);
                return;
            }
        }
    }

    /// The keeper looks at job `key` once more.
    pub(crate) fn look_again(&self, key: u64) {
        lock(&self.again).push(key);
    }

    /// Jobs to look at once more.
    pub(crate) fn take_again(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.again))
    }

    /// Calls back for everything that is left, after the pool has ended.
    pub(crate) fn serve_all(&self, py: Python<'_>, core: &Core) {
        let watchers: Vec<u64> = lock(&self.watchers).keys().copied().collect();
        watchers.into_iter().for_each(|key| self.tell_watcher(py, key));
        let kept: Vec<_> = lock(&self.kept).values().map(|result| result.clone_ref(py)).collect();
        for result in kept {
            let result = result.bind(py);
            if ApplyResult::advance(result, core) == Progress::Open {
                ApplyResult::give_up(result, core);
            }
        }
    }

    /// Something arrived for job `key`, which is kept or minded.
    pub(crate) fn serve(&self, py: Python<'_>, core: &Core, key: u64) {
        self.tell_watcher(py, key);
        let kept = lock(&self.kept).get(&key).map(|result| result.clone_ref(py));
        if let Some(result) = &kept {
            ApplyResult::advance(result.bind(py), core);
        }
        let orphan = { lock(&self.orphans).get(&key).cloned() };
        let minded = || lock(&self.minded).get(&key).and_then(Weak::upgrade);
        let Some(map) = orphan.clone().or_else(minded) else { return };
        if kept.is_none() && !map.tend(py, core) {
            // Whoever has it in hand may have looked before the loss.
            self.look_again(key);
            core.call_keeper();
        }
        if orphan.is_some() && map.is_answered() {
            let over = lock(&self.orphans).remove(&key);
            drop(over);
        } else if !map.is_dry() {
            let mut feeds = lock(&self.feeds);
            let known = feeds.iter().any(|feed| match feed {
                Feed::Map(result) => result.get().key() == key,
                Feed::Rest(map) => map.job().key() == key,
                Feed::Lazy(_) => false,
            });
            if !known {
                insert(&mut feeds, Feed::Rest(map));
            }
        }
    }

    /// Calls back for what failed before it was submitted.
    pub(crate) fn serve_failed(&self, py: Python<'_>, core: &Core) {
        let failed = std::mem::take(&mut *lock(&self.failed));
        for result in failed {
            ApplyResult::advance(result.bind(py), core);
        }
    }

    /// The pool was terminated: what was not submitted never will be.
    pub(crate) fn abort(&self, py: Python<'_>, core: &Core) {
        self.open_windows();
        self.pump(py, core);
        let feeds = std::mem::take(&mut *lock(&self.feeds));
        let orphans = std::mem::take(&mut *lock(&self.orphans));
        // Outside the lock: what is dropped may run any code.
        drop((feeds, orphans));
    }
}
