//! The one way from Python into an engine call that may take time.

use std::time::{Duration, Instant};

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
