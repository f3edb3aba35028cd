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
