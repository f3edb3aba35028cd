//! One running child and its end.

use crate::error::{Error, Kind, Result};
use crate::os::spawn::{self, Program};
use crate::os::watch;
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
    /// It is gone and nobody can say how.
    Unknown,
}

/// A child of this process that was not waited for yet.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: OwnedFd,
}

impl Child {
    /// Starts the program `path`; see [`Program`]. The standard streams are this
    /// process's own.
    pub fn launch(path: &OsStr, arguments: &[&OsStr], environment: &[&OsStr], inherit: &[RawFd]) -> Result<Child> {
        Child::start(&Program { path, arguments, environment, inherit, streams: [None; 3] })
    }

    /// Starts `program`.
    pub fn start(program: &Program<'_>) -> Result<Child> {
        let pid = spawn::spawn(program)?;
        // Nobody else waits for this child, so its number cannot be anybody else's yet.
        let pidfd = watch::open_process(pid)?;
        Ok(Child { pid, pidfd })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Becomes readable when the child ends.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Kills it with SIGKILL; one that has ended already is no error.
    pub fn kill(&self) -> Result<()> {
        watch::kill(&self.pidfd)
    }

    /// Asks it to end, with SIGTERM; one that has ended already is no error.
    pub fn terminate(&self) -> Result<()> {
        watch::terminate(&self.pidfd)
    }

    /// Waits for its end and says how it came. The child is gone afterwards.
    pub fn wait(self) -> Result<Exit> {
        loop {
            if let Some(exit) = self.reap(WaitIdOptions::EXITED)? {
                return Ok(exit);
            }
        }
    }

    /// How it ended, if it has. The child is gone afterwards: a second call
    /// says that nobody knows.
    pub fn try_wait(&self) -> Result<Option<Exit>> {
        self.reap(WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
    }

    fn reap(&self, options: WaitIdOptions) -> Result<Option<Exit>> {
        match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
            Ok(status) => Ok(status.map(|status| match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            })),
            Err(rustix::io::Errno::INTR) => Ok(None),
            Err(rustix::io::Errno::CHILD) => Ok(Some(Exit::Unknown)),
            Err(errno) => Err(Error::os("waiting for a child", errno.raw_os_error())),
        }
    }
}

/// What shells and interpreters return for a program that Ctrl-C ended: 128 and the number of SIGINT.
const INTERRUPTED: i32 = 130;

impl Exit {
    /// Whether somebody else ended the process: a person, the kernel that was out of memory, a service manager.
    /// The other signals are a program's own doing: an invalid access, an abort, a timer or a limit of its own.
    pub fn is_kill(self) -> bool {
        const FROM_OUTSIDE: [Signal; 7] =
            [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2];
        match self {
            Exit::Signal(number) => FROM_OUTSIDE.iter().any(|signal| signal.as_raw() == number),
            Exit::Code(code) => code == INTERRUPTED,
            // Somebody else took the status. To go on for ever is the worse mistake of the two.
            Exit::Unknown => false,
        }
    }

    /// An error for a process that ended like this while `doing` something.
    pub fn error(self, doing: &str) -> Error {
        let how = match self {
            Exit::Code(code) => format!("it returned {code}"),
            Exit::Signal(signal) => format!("signal {signal} killed it"),
            Exit::Unknown => "nobody can say how".to_owned(),
        };
        Error::new(Kind::Os, format!("a worker process ended while {doing}: {how}"))
    }
}
