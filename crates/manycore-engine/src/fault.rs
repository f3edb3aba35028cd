//! Named points of the protocols at which a test may end or stop the process.
//!
//! Compiled to nothing without the feature `fail-points`.

/// Kills this process with SIGKILL when the environment variable
/// `MANYCORE_FAIL_POINT` names `point`; stops it when `MANYCORE_STOP_POINT` does.
#[cfg(feature = "fail-points")]
pub fn point(point: &str) {
    use rustix::process::{Signal, getpid, kill_process};
    for (variable, signal) in [("MANYCORE_FAIL_POINT", Signal::KILL), ("MANYCORE_STOP_POINT", Signal::STOP)] {
        if std::env::var_os(variable).is_some_and(|wanted| wanted == *point) {
            let _ = kill_process(getpid(), signal);
        }
    }
}

/// Nothing: the feature `fail-points` is off.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn point(_point: &str) {}
