//! What this process may use, from now on.

use super::refused;
use crate::error::{Error, Result};
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

/// How many bytes of memory this process has now.
pub fn resident() -> Result<u64> {
    let attempt = "asking how much memory this process has";
    let text =
        std::fs::read("/proc/self/statm").map_err(|error| Error::os(attempt, error.raw_os_error().unwrap_or(0)))?;
    let pages =
        std::str::from_utf8(&text).ok().and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    let pages =
        pages.ok_or_else(|| Error::corrupt("/proc/self/statm does not say how much memory this process has"))?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn set(resource: Resource, current: u64, maximum: u64) -> rustix::io::Result<()> {
    setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })
}
