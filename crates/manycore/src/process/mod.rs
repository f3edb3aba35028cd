//! `Process`: one task in a process of its own.

mod builder;
mod call;
mod child;
mod left;
mod wire;

pub use builder::{ProcessBuilder, Stdio};
use call::Call;
pub(crate) use child::{refuse_late, serve};

use crate::codec::{self, Reader};
use crate::error::{self, Error, Kind, Result};
use crate::passing::{self, Table};
use crate::start::START;
use crate::task::Task;
use crate::values::Arguments;
use manycore_engine::os::packets::Packets;
use manycore_engine::os::watch;
use manycore_engine::process::{Child, Exit};
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, ExitStatus};
use std::time::{Duration, Instant};
use wire::Says;

/// A task that runs in a process of its own, and in the end its result.
///
/// The process is this program, started again; see [`crate::init`]. It has nothing of
/// this process but the task, its arguments and the standard streams.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::Process;
///
/// let mut process = Process::spawn(|a: i64, b: i64| a + b, (40, 2))?;
/// assert_eq!(process.join()?, 42);
///
/// let error = Process::spawn(|| -> () { std::process::abort() }, ())?.join().unwrap_err();
/// assert!(error.is_worker_lost() && error.to_string().contains("SIGABRT"));
/// # Ok(())
/// # }
/// ```
///
/// **Dropping** it kills the process and waits for its end, unless it was built with
/// [`daemon(false)`](ProcessBuilder::daemon): then it lives on, and this process
/// reaps it when it has ended and another one is started.
///
/// The process also ends when this one does, by whatever way, unless built with
/// `daemon(false)`. A panic in the task is printed there, and is an error here.
pub struct Process<R> {
    /// The writing end of its standard input, if that is [`Stdio::Piped`].
    pub stdin: Option<ChildStdin>,
    /// The reading end of its standard output, if that is [`Stdio::Piped`].
    pub stdout: Option<ChildStdout>,
    /// The reading end of its standard error, if that is [`Stdio::Piped`].
    pub stderr: Option<ChildStderr>,
    name: String,
    task: &'static str,
    /// None once a drop has let go of it.
    child: Option<Child>,
    packets: Packets,
    /// As long as this is open, the process lives. None for one that outlives us.
    lifeline: Option<OwnedFd>,
    started: Instant,
    /// Whether it has said that it started, or will say nothing any more.
    has_started: bool,
    is_silent: bool,
    said: Option<Said>,
    exit: Option<Exit>,
    /// The process that may wait for it; a fork has a copy of this.
    owner: u32,
    result: PhantomData<fn() -> R>,
}

/// The last word of a process.
enum Said {
    Returned(Vec<u8>, Table),
    Failed(Error),
    /// What it said was given out.
    Taken,
}

impl Process<()> {
    /// Says how a process is to be started.
    pub fn builder() -> ProcessBuilder {
        ProcessBuilder::default()
    }
}

impl<R: DeserializeOwned + 'static> Process<R> {
    /// Starts a process that runs `task` with `arguments`, a tuple. Does not wait for it.
    ///
    /// # Errors
    /// See [`ProcessBuilder::spawn`].
    pub fn spawn<Args, F>(task: F, arguments: Args) -> Result<Process<R>>
    where
        Args: Arguments,
        F: Task<Args, Output = R>,
    {
        const { F::IS_SENDABLE };
        Process::builder().spawn(task, arguments)
    }

    /// Waits for the end of the process and gives the task's result, once.
    ///
    /// # Errors
    /// - [`Error::is_panic`]: the task panicked; [`Error::panic`] says where.
    /// - [`Error::is_worker_lost`]: the process was killed, crashed, or exited before
    ///   the task returned.
    /// - [`Error::is_start`]: it did not reach [`crate::init`]; [`Error::is_different_build`]: it is another program.
    /// - [`Error::is_encoding`]: the result cannot travel.
    pub fn join(&mut self) -> Result<R> {
        self.wait(None)?;
        self.take()
    }

    /// As [`Process::join`], and waits for `limit` at the longest.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// use manycore::Process;
    /// use std::time::Duration;
    ///
    /// let mut process = Process::spawn(|| std::thread::sleep(Duration::from_secs(60)), ())?;
    /// assert!(process.join_timeout(Duration::from_millis(1)).unwrap_err().is_timeout());
    /// process.kill()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Also [`Error::is_timeout`]: the process runs on, and can be joined again.
    pub fn join_timeout(&mut self, limit: Duration) -> Result<R> {
        if self.wait(Instant::now().checked_add(limit))? {
            return self.take();
        }
        let message = format!("process {} ({}) runs `{}` for longer than {limit:?}", self.id(), self.name, self.task);
        Err(Error::new(Kind::Timeout, message))
    }

    /// As [`Process::join`], and does not wait: None while the process runs.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// let mut process = manycore::Process::spawn(|| 42, ())?;
    /// let result = loop {
    ///     match process.try_join()? {
    ///         Some(result) => break result,
    ///         None => std::thread::yield_now(),
    ///     }
    /// };
    /// assert_eq!(result, 42);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Process::join`].
    pub fn try_join(&mut self) -> Result<Option<R>> {
        if self.wait(Some(Instant::now()))? { self.take().map(Some) } else { Ok(None) }
    }

    fn take(&mut self) -> Result<R> {
        match self.said.replace(Said::Taken) {
            Some(Said::Returned(bytes, table)) => passing::incoming(table, || Reader::new(&bytes)?.read_value()),
            Some(Said::Failed(error)) => Err(error),
            Some(Said::Taken) => Err(Error::new(
                Kind::Usage,
                format!("the result of process {} was taken by an earlier join", self.id()),
            )),
            None => Err(self.lost()),
        }
    }
}

impl<R> Process<R> {
    fn new(child: Child, packets: Packets, lifeline: Option<OwnedFd>, name: String, task: &'static str) -> Process<R> {
        Process {
            stdin: None,
            stdout: None,
            stderr: None,
            name,
            task,
            child: Some(child),
            packets,
            lifeline,
            started: Instant::now(),
            has_started: false,
            is_silent: false,
            said: None,
            exit: None,
            owner: std::process::id(),
            result: PhantomData,
        }
    }

    /// Its process number.
    pub fn id(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::pid)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has not ended yet.
    ///
    /// # Errors
    /// Where the kernel refuses to say.
    pub fn is_alive(&mut self) -> Result<bool> {
        Ok(!self.wait(Some(Instant::now()))?)
    }

    /// How it ended; None while it runs. A task that returned is code 0, one that
    /// panicked 101.
    ///
    /// ```
    /// # fn main() -> manycore::Result<()> {
    /// # manycore::init();
    /// use std::os::unix::process::ExitStatusExt;
    ///
    /// let mut process = manycore::Process::spawn(|| std::thread::park(), ())?;
    /// process.terminate()?;
    /// assert!(process.join().is_err());
    /// assert_eq!(process.exit_status()?.expect("it has ended").signal(), Some(15));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where the kernel refuses to say, or nobody knows since somebody else waited
    /// for the process.
    pub fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        if !self.wait(Some(Instant::now()))? {
            return Ok(None);
        }
        match self.exit {
            Some(Exit::Code(code)) => Ok(Some(ExitStatus::from_raw((code & 0xff) << 8))),
            Some(Exit::Signal(signal)) => Ok(Some(ExitStatus::from_raw(signal))),
            _ => Err(self.lost()),
        }
    }

    /// Kills it with SIGKILL. One that has ended already is no error.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        Ok(self.child.as_ref().map_or(Ok(()), Child::kill)?)
    }

    /// Asks it to end, with SIGTERM, which ends a program that does not handle it. One
    /// that has ended already is no error.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn terminate(&mut self) -> Result<()> {
        Ok(self.child.as_ref().map_or(Ok(()), Child::terminate)?)
    }

    /// Waits for its end, hearing what it says meanwhile; false when `deadline` came
    /// first.
    fn wait(&mut self, deadline: Option<Instant>) -> Result<bool> {
        if self.owner != std::process::id() {
            let message = "this process was started by the one that this one was forked from, which has to join it";
            return Err(Error::new(Kind::Closed, message));
        }
        while self.exit.is_none() {
            let Some(child) = &self.child else { return Ok(true) };
            let start = (!self.has_started).then(|| self.started + START);
            let until = [deadline, start].into_iter().flatten().min();
            let limit = until.map(|until| until.saturating_duration_since(Instant::now()));
            let (has_said, has_ended) = if self.is_silent {
                let [ended] = watch::readable([child.pidfd()], limit)?;
                (false, ended)
            } else {
                let [said, ended] = watch::readable([self.packets.as_fd(), child.pidfd()], limit)?;
                (said, ended)
            };
            if has_said {
                self.hear();
            } else if has_ended {
                let exit = child.try_wait()?;
                // Its last word may have come after the look at the socket, and before its end.
                while !self.is_silent && watch::readable([self.packets.as_fd()], Some(Duration::ZERO))? == [true] {
                    self.hear();
                }
                self.exit = exit;
            } else if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Ok(false);
            } else if !self.has_started && self.started.elapsed() > START {
                self.give_up(child.pid());
            }
        }
        Ok(true)
    }

    /// It does not come up, and is ended.
    fn give_up(&mut self, pid: u32) {
        self.has_started = true;
        self.said = Some(Said::Failed(Error::new(
            Kind::Start,
            format!(
                "process {pid} did not reach manycore::init() within {} seconds; make it the first line of main",
                START.as_secs()
            ),
        )));
        let _ = self.kill();
    }

    /// Takes what it has said off the socket.
    fn hear(&mut self) {
        let said = match wire::receive(&self.packets) {
            Ok(Some((Says::Started, ..))) => {
                self.has_started = true;
                return;
            }
            Ok(Some((Says::Returned, bytes, table))) => Some(Said::Returned(bytes, table)),
            Ok(Some((Says::Raised, bytes, _))) => Some(Said::Failed(
                codec::read_failure(&bytes).map_or_else(|error| error, |failure| failure.error_of_one(self.task)),
            )),
            Ok(Some((Says::Refused, bytes, _))) => Some(Said::Failed(Error::reported(&bytes))),
            Ok(Some((Says::Call, ..))) => {
                Some(Said::Failed(Error::new(Kind::System, "a process answered with a call; its memory is damaged")))
            }
            Ok(None) => None,
            Err(error) => Some(Said::Failed(error)),
        };
        self.is_silent = true;
        if self.said.is_none() {
            self.said = said;
        }
    }

    /// It ended and said nothing.
    fn lost(&self) -> Error {
        let how = error::ended(self.exit.unwrap_or(Exit::Unknown));
        let (pid, name, task) = (self.id(), &self.name, self.task);
        if self.has_started {
            let advice = error::advice(self.exit.unwrap_or(Exit::Unknown));
            let message = format!("`{task}` gave no result: process {pid} ({name}) {how} while it ran. {advice}");
            return Error::new(Kind::WorkerLost, message);
        }
        let message = format!(
            "process {pid} ({name}) {how} before it reached manycore::init(); make that the first line of main, and \
             see what the program writes to stderr"
        );
        Error::new(Kind::Start, message)
    }
}

impl<R> Drop for Process<R> {
    fn drop(&mut self) {
        let Some(child) = self.child.take() else { return };
        // A fork's copy has no children to wait for.
        if self.exit.is_some() || self.owner != std::process::id() {
            return;
        }
        if self.lifeline.is_none() {
            left::keep(child);
        } else if child.kill().is_ok() {
            let _ = child.wait();
        }
    }
}

impl<R> fmt::Debug for Process<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Process");
        shown.field("id", &self.id()).field("name", &self.name).field("exit", &self.exit).finish_non_exhaustive()
    }
}
