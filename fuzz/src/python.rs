//! The binding in an interpreter of this program's own.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;
use std::ffi::CStr;
use std::sync::Once;

// Links the binding, whose entry is named below.
use _engine as _;

unsafe extern "C" {
    /// What an interpreter calls when it loads the binding.
    fn PyInit__engine() -> *mut ffi::PyObject;
}

static INTERPRETER: Once = Once::new();
static ONE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Calls the function `one` of `harness` with the input. What it raises is a finding.
pub fn call(harness: &CStr, data: &[u8]) {
    INTERPRETER.call_once(|| {
        // SAFETY: there is no interpreter yet; the name is a constant, the function the binding's own.
        let code = unsafe { ffi::PyImport_AppendInittab(c"_engine".as_ptr(), Some(PyInit__engine)) };
        assert_eq!(code, 0, "the interpreter takes the binding");
    });
    let run = |py: Python<'_>| {
        let one = ONE.get_or_try_init(py, || {
            let names = PyDict::new(py);
            py.run(c"import sys, _engine as engine; sys.modules['manycore._engine'] = engine", Some(&names), None)?;
            py.run(harness, Some(&names), Some(&names))?;
            PyResult::Ok(names.get_item("one")?.expect("the harness has a function of this name").unbind())
        })?;
        one.call1(py, (data,))
    };
    Python::attach(|py| {
        if let Err(error) = run(py) {
            error.print(py);
            std::process::abort();
        }
    });
}
