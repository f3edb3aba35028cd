//! Named points of the protocols at which a test may end the process.
//!
//! Compiled to nothing without the feature `fail-points`.

/// Kills this process with SIGKILL when the environment variable
/// `MANYCORE_FAIL_POINT` names `point`.
#[cfg(feature = "fail-points")]
pub fn point(point: &str) {
    if std::env::var_os("MANYCORE_FAIL_POINT").is_some_and(|wanted| wanted == *point) {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing: the feature `fail-points` is off.
#[cfg(not(feature = "fail-points"))]
#[inline(always)]
pub fn point(_point: &str) {}
