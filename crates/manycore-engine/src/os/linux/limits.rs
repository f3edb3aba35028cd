//! What this process may use, from now on.

use super::refused;
use crate::error::Result;
use rustix::process::{Resource, Rlimit, setrlimit};

/// At most `bytes` of memory of its own: data, heap, stacks, private mappings. Memory that is shared
/// with other processes does not count.
pub fn data(bytes: u64) -> Result<()> {
    set(Resource::Data, bytes, bytes).map_err(refused("limiting a process's own memory"))
}

/// At most `seconds` of a processor's time: then SIGXCPU, a second later SIGKILL.
pub fn processor(seconds: u64) -> Result<()> {
    set(Resource::Cpu, seconds, seconds.saturating_add(1)).map_err(refused("limiting a process's time"))
}

fn set(resource: Resource, current: u64, maximum: u64) -> rustix::io::Result<()> {
    setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
}
