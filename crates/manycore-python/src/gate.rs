//! The one way from Python into an engine call that may take time.

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

/// The exception for an error of the engine.
pub(crate) fn raise(error: Error) -> PyErr {
    match error.kind() {
        Kind::Timeout => crate::hooks::timeout_error(error.to_string()),
        Kind::Interrupted | Kind::Corrupt => PyRuntimeError::new_err(error.to_string()),
        Kind::Closed => PyValueError::new_err(error.to_string()),
        Kind::TooLarge => PyMemoryError::new_err(error.to_string()),
        Kind::Os => PyOSError::new_err((error.os_code(), error.to_string())),
    }
}
