//! Functions in shared memory, as the caller remembers them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use manycore_engine::pool::Function;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::core::lock;

/// How many functions of modules are kept in shared memory.
const FUNCTIONS: usize = 256;

/// A function of a module, kept alive so that its address stays its own, and
/// where it is in shared memory.
type Placed = (Py<PyAny>, Arc<Function>);

/// The functions of modules that one pool has placed.
#[derive(Default)]
pub(crate) struct Functions(Mutex<HashMap<usize, Placed>>);

impl Functions {
    /// Where `function` is, if it was placed.
    pub(crate) fn get(&self, function: &Bound<'_, PyAny>) -> Option<Arc<Function>> {
        lock(&self.0).get(&(function.as_ptr() as usize)).map(|(_, placed)| Arc::clone(placed))
    }

    /// Remembers where `function` is.
    pub(crate) fn keep(&self, function: &Bound<'_, PyAny>, placed: &Arc<Function>) {
        let mut functions = lock(&self.0);
        let full = functions.len() >= FUNCTIONS;
        let old = if full { std::mem::take(&mut *functions) } else { HashMap::new() };
        functions.insert(function.as_ptr() as usize, (function.clone().unbind(), Arc::clone(placed)));
        drop(functions);
        // Only now: what is dropped may run any code.
        drop(old);
    }

    /// Shows the collector what is kept.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(functions) = self.0.try_lock() {
            functions.values().try_for_each(|(function, _)| visit.call(function))?;
        }
        Ok(())
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let functions = std::mem::take(&mut *lock(&self.0));
        drop(functions);
    }
}
