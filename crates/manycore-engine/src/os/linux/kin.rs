//! The processes that a process has started.

use super::clock;
use super::watch::open_process;
use std::os::fd::OwnedFd;

/// What a process calls itself that serves the whole program, whichever task has started it: the tracker of shared memory.
pub const SPARED: &str = "manycore-serves";

/// Processes that descend from process `pid` by way of a child that was started at the moment `since` of
/// [`clock::now`] or later; pidfds of them. Not among them is what has detached itself: a process whose parent has
/// ended is nobody's descendant any more. Nor is what calls itself [`SPARED`].
///
/// What cannot be looked at, because it ends meanwhile or the kernel keeps no lists of children, is left out.
pub fn started_since(pid: u32, since: u64) -> Vec<OwnedFd> {
    // The kernel tells the start of a process in ticks since the machine's start, rounded down.
    let ago = clock::now().saturating_sub(since);
    let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second().max(1);
    let earliest = clock::since_boot().saturating_sub(ago) / tick.max(1);
    let (mut found, mut parents) = (Vec::new(), vec![(pid, earliest)]);
    while let Some((parent, earliest)) = parents.pop() {
        for child in children(parent) {
            // The process is held before it is looked at, so that its number cannot become another's.
            let Ok(pidfd) = open_process(child) else { continue };
            if birth(child).is_some_and(|(of, started)| of == parent && started >= earliest) {
                found.push(pidfd);
                parents.push((child, 0));
            }
        }
    }
    found
}

/// The children of every thread of a process.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_ascii_whitespace().flat_map(str::parse).collect::<Vec<_>>()).collect()
}

/// The parent of a process, and when it was started, in ticks. None for one that is to be spared.
fn birth(pid: u32) -> Option<(u32, u64)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name may have anything in it, also parentheses.
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    if stat[..name_end].ends_with(SPARED.as_bytes()) {
        return None;
    }
    let rest = std::str::from_utf8(&stat[name_end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    Some((parent, fields.nth(17)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::watch;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    fn shell(program: &str) -> std::process::Child {
        Command::new("sh").args(["-c", program]).stdout(Stdio::piped()).stdin(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn descendants_are_found_and_end() {
        // A child, and a child of that in a session of its own; both have the output open.
        let mut parent = shell("sh -c 'setsid sleep 1000 & echo there; wait' & wait");
        let mut output = BufReader::new(parent.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let kin = started_since(parent.id(), 0);
        assert!(kin.len() >= 2, "{kin:?}");
        kin.iter().for_each(|pidfd| watch::kill(pidfd).unwrap());
        line.clear();
        // The end of the output: nobody has it open.
        assert_eq!(output.read_line(&mut line).unwrap(), 0, "{line}");
        parent.wait().unwrap();
    }

    #[test]
    fn those_from_before_are_not() {
        let mut parent = shell("sleep 1000 & echo there; read line; sleep 1000 & echo there; wait");
        let mut output = BufReader::new(parent.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let tick = std::time::Duration::from_secs(1) / rustix::param::clock_ticks_per_second() as u32;
        std::thread::sleep(2 * tick);
        let later = clock::now();
        drop(parent.stdin.take());
        output.read_line(&mut line).unwrap();
        let (all, some) = (started_since(parent.id(), 0), started_since(parent.id(), later));
        assert_eq!((all.len(), some.len()), (2, 1));
        all.iter().for_each(|pidfd| watch::kill(pidfd).unwrap());
        parent.wait().unwrap();
    }
}
