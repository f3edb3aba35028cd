//! The one way from Python into an engine call that may take time.

use std::time::{Duration, Instant};

use manycore_engine::sync::{AtomicU32, Ordering, full_fence, futex_wait, futex_wake};
use manycore_engine::{Error, Kind, Result};
use pyo3::exceptions::{PyMemoryError, PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// Runs `call` detached from the interpreter. A signal that arrives meanwhile
/// runs its Python handler, whose exception ends the call; otherwise the call is
/// made again.
pub(crate) fn enter<T: Send>(py: Python<'_>, mut call: impl FnMut() -> Result<T> + Send) -> PyResult<T> {
    loop {
        match py.detach(&mut call) {
            Ok(value) => return Ok(value),
            Err(error) if error.kind() == Kind::Interrupted => py.check_signals()?,
            Err(error) => return Err(raise(error)),
        }
    }
}

/// Bytes from which on a copy is worth giving the interpreter away for: a tenth of
/// a millisecond, a thousand times what that costs.
const LARGE: usize = 1 << 20;

/// Runs `copy`, which copies `bytes` bytes; detached where that takes long.
pub(crate) fn copying<T: Send>(py: Python<'_>, bytes: usize, copy: impl FnOnce() -> T + Send) -> T {
    if bytes < LARGE { copy() } else { py.detach(copy) }
}

/// What threads of this process wait for: a number that grows with each change.
///
/// Nobody holds a lock while waiting. Locks of the binding are held only by a thread that is
/// attached to the interpreter, so none is taken when another thread forks, and a forked
/// child finds all of them free.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    count: AtomicU32,
    sleepers: AtomicU32,
}

impl Changes {
    /// How many changes there were: to be asked before the look at what may have changed.
    pub(crate) fn seen(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Something has changed.
    pub(crate) fn announce(&self) {
        self.count.fetch_add(1, Ordering::Release);
        full_fence(); // Pairs with `wait`: a sleeper is counted, or sees the new number.
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            futex_wake(&self.count, u32::MAX >> 1);
        }
    }

    /// Waits, detached, until there was a change after `seen`, for `limit` at the longest. May end for nothing.
    pub(crate) fn wait(&self, py: Python<'_>, seen: u32, limit: Duration) {
        py.detach(|| {
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            full_fence(); // Pairs with `announce`.
            // Whatever ends it, the caller looks again.
            let _ = futex_wait(&self.count, seen, Some(limit));
            self.sleepers.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// When a wait of `timeout` seconds must end; None, or more than a clock can tell: never.
pub(crate) fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() {
        return Err(PyValueError::new_err("timeout must be a number of seconds or None, not nan"));
    }
    Ok(Duration::try_from_secs_f64(seconds.max(0.0)).ok().and_then(|limit| Instant::now().checked_add(limit)))
}

/// The exception for an error of the engine.
pub(crate) fn raise(error: Error) -> PyErr {
    match error.kind() {
        Kind::Timeout => crate::hooks::timeout_error(error.to_string()),
        Kind::Interrupted | Kind::Corrupt => PyRuntimeError::new_err(error.to_string()),
        Kind::Closed => PyValueError::new_err(error.to_string()),
        Kind::TooLarge => PyMemoryError::new_err(error.to_string()),
        Kind::Os => {
            let (code, text) = (error.os_code(), error.to_string());
            // OSError prints the number itself.
            let number = code.map(|code| format!(" (os error {code})")).unwrap_or_default();
            PyOSError::new_err((code, text.strip_suffix(&number).unwrap_or(&text).to_owned()))
        }
    }
}
