//! What is looked up once: objects of other modules, names of attributes.
//!
//! PyO3's `PyOnceLock` and `intern!` do this, too; but while they look, their lock is taken and
//! the interpreter may be another thread's. If that one forks, the child waits for the lock for ever.

use std::sync::OnceLock;

use pyo3::PyTypeCheck;
use pyo3::prelude::*;

/// A value that whoever needs it first makes. Two threads may both make it; one of the two values is kept.
///
/// The lock inside is held only while the value is put down: by a thread that is attached, for as
/// long as a move takes. So it is free whenever another thread forks.
pub(crate) struct Known<T>(OnceLock<T>);

impl<T> Known<T> {
    pub(crate) const fn new() -> Known<T> {
        Known(OnceLock::new())
    }

    /// The value, if it was made.
    #[inline]
    pub(crate) fn get(&self, _py: Python<'_>) -> Option<&T> {
        self.0.get()
    }

    /// The value; `make` makes it if nobody has.
    #[inline]
    pub(crate) fn get_or_init(&self, py: Python<'_>, make: impl FnOnce() -> T) -> &T {
        match self.get(py) {
            Some(value) => value,
            None => self.keep(make()),
        }
    }

    /// As `get_or_init`, where to make it may fail; then it is made another time.
    #[inline]
    pub(crate) fn get_or_try_init<E>(&self, py: Python<'_>, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        match self.get(py) {
            Some(value) => Ok(value),
            None => Ok(self.keep(make()?)),
        }
    }

    fn keep(&self, value: T) -> &T {
        self.0.get_or_init(|| value)
    }
}

impl<T: PyTypeCheck> Known<Py<T>> {
    /// The attribute `name` of `module`.
    ///
    /// The module is kept, too. A function keeps the variables of its module, and at its end the interpreter clears
    /// those of modules that are still there: else nothing in them would be finalized, nor what they refer to in a program.
    #[inline]
    pub(crate) fn import<'py>(&self, py: Python<'py>, module: &str, name: &str) -> PyResult<&Bound<'py, T>> {
        let found = self.get_or_try_init(py, || {
            let module = py.import(module)?;
            let found = module.getattr(name)?.cast_into::<T>()?;
            std::mem::forget(module);
            Ok::<_, PyErr>(found.unbind())
        })?;
        Ok(found.bind(py))
    }
}

/// The name of an attribute, as an object that is made once.
macro_rules! name {
    ($py:expr, $text:literal) => {{
        static NAME: $crate::known::Known<pyo3::Py<pyo3::types::PyString>> = $crate::known::Known::new();
        NAME.get_or_init($py, || pyo3::types::PyString::intern($py, $text).unbind()).bind($py)
    }};
}
pub(crate) use name;
