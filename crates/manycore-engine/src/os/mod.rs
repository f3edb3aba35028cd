//! What we ask of the kernel, made safe.
//!
//! Another platform is another folder that fills the same files: `memory` (shared
//! mappings), `park` (sleep on a shared word), `watch` (one wait over processes and
//! a bell), `transfer` (bytes through sockets and pipes), `spawn` (start a program), `inherit` (descriptors that came from the
//! starter), `packets` (descriptors that travel later), `lifeline` (die with another
//! process), `limits` (what this process may use), `image` (the program in memory),
//! `cpus` (how many processors this process may use) and `clock` (the time, the same in every process). No policy, no retry, no
//! logging here.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub use linux::*;
