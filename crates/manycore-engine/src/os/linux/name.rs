//! The name of a process: a word that fits no other process, ever.
//!
//! A process number alone is given again to somebody else. Together with the
//! time its process was started at (in ticks of the kernel, a hundredth of a
//! second) it is not: the numbers cannot all be used up within one tick.
//!
//! # Why this file is unsafe
//!
//! `pthread_atfork` is a C function; rustix has none of the kind.

#![allow(unsafe_code)]

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getpid, pidfd_open, test_kill_process};
use std::os::fd::AsFd;

/// Bit 0 of a name is free for whoever keeps names in a word of its own.
const PID_SHIFT: u32 = 1;
/// The kernel gives no process number of more bits.
const PID_BITS: u32 = 22;
const BORN_SHIFT: u32 = PID_SHIFT + PID_BITS;

/// The name of this process. Reads a file: remember it, and ask again after a fork.
///
/// Where `/proc` is not mounted, or shows other numbers than ours, the time of birth is 0.
pub fn read_own() -> u64 {
    let pid = getpid().as_raw_nonzero().get() as u64;
    let born = stat("self").and_then(|stat| (stat.pid == pid).then_some(stat.born)).unwrap_or(0);
    pid << PID_SHIFT | born << BORN_SHIFT
}

/// Whether the process called `name` has ended, if only a moment ago and nobody
/// has waited for it yet. `own` is this process's name.
///
/// A word that is nobody's name counts as gone. In doubt (the kernel refuses to
/// tell) a process counts as alive.
pub fn is_gone(name: u64, own: u64) -> bool {
    let number = |name: u64| (name >> PID_SHIFT) & ((1 << PID_BITS) - 1);
    let born = |name: u64| name >> BORN_SHIFT;
    if number(name) == number(own) {
        return name != own;
    }
    let Some(pid) = i32::try_from(number(name)).ok().and_then(Pid::from_raw) else { return true };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        // The last two: the number is that of a thread now.
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return true,
        Err(_) => return test_kill_process(pid) == Err(Errno::SRCH),
    };
    let mut ends = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    if matches!(poll(&mut ends, Some(&Timespec::default())), Ok(1..)) {
        return true;
    }
    // Somebody lives under that number. The pidfd does not keep it from being given
    // away, but a name that no longer fits is the name of a process that is gone.
    born(name) != 0
        && born(own) != 0
        && stat(&pid.as_raw_nonzero().to_string()).is_some_and(|stat| stat.born != born(name))
}

struct Stat {
    pid: u64,
    born: u64,
}

/// What `/proc` says about a process.
fn stat(process: &str) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{process}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    let pid = text.split_once(' ')?.0.parse().ok()?;
    // The second field is the program's name in parentheses and may hold anything.
    let (_, fields) = text.rsplit_once(") ")?;
    let born = fields.split(' ').nth(22 - 3)?.parse().ok()?;
    Some(Stat { pid, born })
}

/// From now on has `before` called before each fork of this process, and after it
/// `in_parent` in this process and `in_child` in the child, all by the thread that forks.
pub fn at_fork(before: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
    // SAFETY: the three are functions of this library, which is never unloaded while
    // the process can still fork through it; the kernel's side keeps only their addresses.
    let refused = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    // Out of memory, at the start of a process: nothing that comes would work either.
    assert_eq!(refused, 0, "registering what to do at a fork failed with error {refused}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_is_its_processes_alone() {
        let own = read_own();
        assert!(!is_gone(own, own));
        assert!(is_gone(own + (1 << BORN_SHIFT), own), "the same number, born later");
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let born = stat(&child.id().to_string()).unwrap().born;
        let name = u64::from(child.id()) << PID_SHIFT | born << BORN_SHIFT;
        assert!(!is_gone(name, own));
        assert!(is_gone(name + (1 << BORN_SHIFT), own), "its number belongs to another");
        assert!(!is_gone(u64::from(child.id()) << PID_SHIFT, own), "born nobody knows when");
        child.kill().unwrap();
        // Ended, not waited for.
        while !is_gone(name, own) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_gone(name, own));
    }

    #[test]
    fn a_damaged_name_is_nobodys() {
        let own = read_own();
        assert!(is_gone(0, own));
        assert!(is_gone(1 << BORN_SHIFT, own));
        assert!(is_gone(((1 << PID_BITS) - 1) << PID_SHIFT, own));
    }
}
