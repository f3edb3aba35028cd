//! Processes whose handles are gone and that live on: they are reaped when they
//! have ended and another process is started.

use manycore_engine::process::Child;
use std::sync::{Mutex, PoisonError};

static LEFT: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Keeps a process until it has ended.
pub(super) fn keep(child: Child) {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner).push(child);
}

/// Reaps those that have ended.
pub(super) fn reap() {
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.retain(|child| matches!(child.try_wait(), Ok(None)));
}
