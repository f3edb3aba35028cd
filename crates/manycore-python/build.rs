//! Hands the interpreter's `cfg`s (`Py_3_12`, `Py_LIMITED_API`, ...) to this crate.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
