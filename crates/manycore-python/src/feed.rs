//! What has been accepted and is not in shared memory yet.
//!
//! A job larger than the room there is keeps the rest here. Whoever waits pumps:
//! the thread that wants a result, a join, or, when nobody waits, the keeper.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;

use crate::core::{Core, lock};
use crate::imap::Lazy;
use crate::result::{ApplyResult, Progress};

/// One job that has more to submit.
pub(crate) enum Feed {
    /// A map whose items are all there.
    Map(Py<ApplyResult>),
    /// A lazy map over an iterator.
    Lazy(Arc<Lazy>),
}

/// Everything one pool has still to submit or to call back.
#[derive(Default)]
pub(crate) struct Feeds {
    deferred: Mutex<VecDeque<Py<ApplyResult>>>,
    feeds: Mutex<Vec<Feed>>,
    /// Results with callbacks, by the number of their job.
    kept: Mutex<HashMap<u64, Py<ApplyResult>>>,
    /// Results with callbacks that failed before they could be submitted.
    failed: Mutex<Vec<Py<ApplyResult>>>,
    /// Jobs whose news came while another thread had them in hand.
    again: Mutex<Vec<u64>>,
}

impl Feeds {
    /// A call that waits for room, behind those that waited before.
    pub(crate) fn defer(&self, result: Py<ApplyResult>) {
        lock(&self.deferred).push_back(result);
    }

    /// Whether calls wait for room.
    pub(crate) fn has_deferred(&self) -> bool {
        !lock(&self.deferred).is_empty()
    }

    /// A job that has more to submit than there was room for.
    pub(crate) fn add(&self, feed: Feed) {
        lock(&self.feeds).push(feed);
    }

    /// The keeper calls back for `result`.
    pub(crate) fn keep(&self, key: u64, result: Py<ApplyResult>) {
        lock(&self.kept).insert(key, result);
    }

    /// The keeper need not call back for job `key` any more.
    pub(crate) fn release(&self, key: u64) {
        let kept = lock(&self.kept).remove(&key);
        drop(kept);
    }

    /// The keeper calls back for `result`, which failed without being submitted.
    pub(crate) fn fail(&self, result: Py<ApplyResult>) {
        lock(&self.failed).push(result);
    }

    /// Whether the keeper has results to call back for.
    pub(crate) fn has_kept(&self) -> bool {
        !lock(&self.kept).is_empty() || !lock(&self.failed).is_empty()
    }

    /// Whether everything accepted has been submitted.
    pub(crate) fn is_dry(&self) -> bool {
        lock(&self.deferred).is_empty() && lock(&self.feeds).is_empty()
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
            Feed::Map(result) => !ApplyResult::feed(result, py, core),
            Feed::Lazy(lazy) => !lazy.feed(py, core),
        });
        let mut kept = lock(&self.feeds);
        feeds.append(&mut kept);
        *kept = feeds;
    }

    fn pump_deferred(&self, py: Python<'_>, core: &Core) {
        loop {
            let Some(result) = lock(&self.deferred).pop_front() else { return };
            if !ApplyResult::submit(&result, py, core) {
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
        let kept: Vec<_> = lock(&self.kept).values().map(|result| result.clone_ref(py)).collect();
        for result in kept {
            if result.get().advance(py, core) == Progress::Open {
                result.get().give_up(py, core);
            }
        }
    }

    /// Something arrived for the kept job `key`.
    pub(crate) fn serve(&self, py: Python<'_>, core: &Core, key: u64) {
        let result = lock(&self.kept).get(&key).map(|result| result.clone_ref(py));
        if let Some(result) = result {
            result.get().advance(py, core);
        }
    }

    /// Calls back for what failed before it was submitted.
    pub(crate) fn serve_failed(&self, py: Python<'_>, core: &Core) {
        let failed = std::mem::take(&mut *lock(&self.failed));
        for result in failed {
            result.get().advance(py, core);
        }
    }

    /// The pool was terminated: what was not submitted never will be.
    pub(crate) fn abort(&self, py: Python<'_>, core: &Core) {
        self.open_windows();
        self.pump(py, core);
        let feeds = std::mem::take(&mut *lock(&self.feeds));
        // Outside the lock: what is dropped may run any code.
        drop(feeds);
    }
}
