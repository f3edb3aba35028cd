//! The threads that feed a pool from an input which may block, while they are inside the engine.

use std::sync::Mutex;
use std::time::Duration;

use pyo3::prelude::*;

use crate::core::lock;
use crate::gate;

/// A thread that waits for another looks again this often.
const LOOK_AROUND: Duration = Duration::from_millis(50);

/// How many feeding threads are inside.
pub(crate) struct Feeders {
    /// None once no more may enter.
    inside: Mutex<Option<u32>>,
    left: gate::Changes,
}

/// A feeding thread is inside the engine.
pub(crate) struct Inside<'a>(&'a Feeders);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        if let Some(inside) = &mut *lock(&self.0.inside) {
            *inside -= 1;
        }
        self.0.left.announce();
    }
}

impl Feeders {
    /// None is inside yet.
    pub(crate) fn new() -> Feeders {
        Feeders { inside: Mutex::new(Some(0)), left: gate::Changes::default() }
    }

    /// Lets a feeding thread in, unless the pool has ended.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        let mut inside = lock(&self.inside);
        *inside.as_mut()? += 1;
        Some(Inside(self))
    }

    /// Waits until no feeding thread is inside. The interpreter ends such threads
    /// at exit wherever they take its lock again, which must not be here.
    pub(crate) fn expel(&self, py: Python<'_>) {
        loop {
            let seen = self.left.seen();
            {
                let mut inside = lock(&self.inside);
                if inside.is_none_or(|count| count == 0) {
                    *inside = None;
                    return;
                }
            }
            self.left.wait(py, seen, LOOK_AROUND);
        }
    }
}
