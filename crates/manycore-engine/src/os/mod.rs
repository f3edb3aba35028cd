//! What we ask of the kernel, made safe.
//!
//! Another platform is another folder that fills the same nine files: `memory`
//! (shared mappings), `park` (sleep on a shared word), `watch` (one wait over
//! processes and a bell), `spawn` (start a program), `inherit` (descriptors that
//! came from the starter), `lifeline` (die with another process), `image` (the
//! program in memory), `name` (who a process is, and whether it lives) and `cpus`
//! (how many processors this process may use). No policy, no retry, no logging here.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::*;
