//! One error: predicates are for deciding, words are for reading.

use manycore_engine::pool::{Exit, Loss};
use std::fmt;
use std::sync::Arc;

/// Why a call did not give what was asked for.
///
/// What it prints says what was tried, on what, and what to do about it.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    item: Option<usize>,
    panic: Option<Arc<Panic>>,
}

/// A panic in another process.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::{Process, Stdio};
///
/// let fail = |x: u32| -> u32 { panic!("{x} is too much") };
/// let error = Process::builder().stderr(Stdio::Null).spawn(fail, (7,))?.join().unwrap_err();
/// let panic = error.panic().expect("a panic");
/// assert_eq!(panic.message(), "7 is too much");
/// assert!(panic.place().is_some_and(|place| place.line() > 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panic {
    message: String,
    place: Option<Place>,
    backtrace: Option<String>,
}

/// A place in the source of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    file: String,
    line: u32,
    column: u32,
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Panic,
    WorkerLost,
    Expired,
    Cancelled,
    Start,
    DifferentBuild,
    Closed,
    Disconnected,
    Broken,
    Timeout,
    Unregistered,
    Encoding,
    TooLarge,
    /// The program does something it should not.
    Usage,
    /// The kernel refused, or shared memory is damaged.
    System,
}

impl Error {
    #[cold]
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into(), item: None, panic: None }
    }

    pub(crate) fn at(mut self, item: usize) -> Error {
        self.item = Some(item);
        self
    }

    /// The same error, which says where.
    pub(crate) fn within(&self, place: &str) -> Error {
        Error { message: format!("{place}: {}", self.message), ..self.clone() }
    }

    pub(crate) fn with_panic(mut self, panic: Option<Panic>) -> Error {
        self.panic = panic.map(Arc::new);
        self
    }

    /// The task panicked; see [`Error::panic`]. Message and place are in the text, too.
    pub fn is_panic(&self) -> bool {
        self.kind == Kind::Panic
    }

    /// What the task said when it panicked, if it did.
    pub fn panic(&self) -> Option<&Panic> {
        self.panic.as_deref()
    }

    /// The process that ran the task ended: killed, crashed, or by
    /// `std::process::exit`. A pool goes on with another one.
    pub fn is_worker_lost(&self) -> bool {
        self.kind == Kind::WorkerLost
    }

    /// The task ran longer than the pool's tasks may
    /// ([`task_timeout`](crate::PoolBuilder::task_timeout)), so its worker was killed. The pool goes on with
    /// another one.
    pub fn is_expired(&self) -> bool {
        self.kind == Kind::Expired
    }

    /// The call was cancelled ([`Ticket::cancel`](crate::Ticket::cancel)).
    pub fn is_cancelled(&self) -> bool {
        self.kind == Kind::Cancelled
    }

    /// Worker processes do not start, or do not reach [`crate::init`].
    pub fn is_start(&self) -> bool {
        self.kind == Kind::Start
    }

    /// The other process is another build of this program, or has not loaded the same
    /// libraries: it does not have the same tasks.
    pub fn is_different_build(&self) -> bool {
        self.kind == Kind::DifferentBuild
    }

    /// Nobody is left at the other end of a channel.
    pub fn is_disconnected(&self) -> bool {
        self.kind == Kind::Disconnected
    }

    /// A [`Barrier`](crate::sync::Barrier) that not all will come to any more.
    pub fn is_broken(&self) -> bool {
        self.kind == Kind::Broken
    }

    /// The time given was over before the result was there.
    pub fn is_timeout(&self) -> bool {
        self.kind == Kind::Timeout
    }

    /// The pool was terminated, or belongs to the process this one was forked from.
    pub fn is_closed(&self) -> bool {
        self.kind == Kind::Closed
    }

    /// The function stands in a shared library and is not marked
    /// [`#[manycore::task]`](crate::task), so that other processes do not find it.
    pub fn is_unregistered(&self) -> bool {
        self.kind == Kind::Unregistered
    }

    /// serde could not turn a value into bytes, or bytes into the value.
    pub fn is_encoding(&self) -> bool {
        self.kind == Kind::Encoding
    }

    /// A value does not fit into the shared memory that is left.
    pub fn is_too_large(&self) -> bool {
        self.kind == Kind::TooLarge
    }

    /// The number of the item that failed, counted from zero, where one item is to blame.
    pub fn item(&self) -> Option<usize> {
        self.item
    }

    /// Why the call of `task` on `item` is lost; None where there are no items, but one call.
    pub(crate) fn lost(loss: &Loss, task: &str, item: Option<usize>) -> Error {
        let which = item.map_or_else(String::new, |item| format!(" on item {item}"));
        let error = match loss {
            Loss::Worker { pid, exit, .. } => Error::new(
                Kind::WorkerLost,
                format!(
                    "`{task}`{which} is lost: worker process {pid} {} while it ran; the pool goes on with another \
                     worker. {}",
                    ended(*exit),
                    advice(*exit)
                ),
            ),
            Loss::Expired { pid, .. } => Error::new(
                Kind::Expired,
                format!(
                    "`{task}`{which} ran longer than the pool's tasks may, so worker process {pid} was killed; the pool \
                     goes on with another worker. Give the task more time, or less to do"
                ),
            ),
            Loss::Cancelled => Error::new(Kind::Cancelled, format!("`{task}`{which} was cancelled")),
            Loss::Start { .. } | Loss::Terminated => return Error::ended(loss),
        };
        Error { item, ..error }
    }

    /// Why a pool answers nothing any more.
    pub(crate) fn ended(loss: &Loss) -> Error {
        match loss {
            Loss::Start { report: Some(report), .. } => Error::reported(&report.to_vec()),
            Loss::Start { pid, exit, report: None } | Loss::Worker { pid, exit, .. } => Error::new(
                Kind::Start,
                format!(
                    "the pool's worker processes do not start: the last one, process {pid}, {} before it was \
                     ready; make manycore::init() the first line of main, and see what the program writes to stderr",
                    ended(*exit)
                ),
            ),
            // The other two befall tasks, not pools.
            Loss::Terminated | Loss::Cancelled | Loss::Expired { .. } => {
                Error::new(Kind::Closed, "the pool was terminated; make a new one to go on")
            }
        }
    }
}

impl Error {
    /// What a process that cannot start sends instead of a sign of life: a byte, and
    /// the text. See [`Error::reported`].
    pub(crate) fn report(&self) -> Vec<u8> {
        let mut report = vec![u8::from(self.kind == Kind::DifferentBuild)];
        report.extend(self.message.bytes());
        report
    }

    /// Why a process says that it cannot start.
    pub(crate) fn reported(report: &[u8]) -> Error {
        let (kind, text) = report.split_first().unwrap_or((&0, &[]));
        let kind = if *kind == 1 { Kind::DifferentBuild } else { Kind::Start };
        Error::new(kind, String::from_utf8_lossy(text))
    }
}

impl Panic {
    pub(crate) fn new(message: String, place: Option<Place>, backtrace: Option<String>) -> Panic {
        Panic { message, place, backtrace }
    }

    /// What it said.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where in the source it was.
    pub fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }

    /// The calls that led to it, where `RUST_BACKTRACE` is set.
    pub fn backtrace(&self) -> Option<&str> {
        self.backtrace.as_deref()
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => write!(f, "{} (at {place})", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl Place {
    pub(crate) fn new(file: String, line: u32, column: u32) -> Place {
        Place { file, line, column }
    }

    /// The file, as the compiler was given it.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, from 1.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The column, from 1.
    pub fn column(&self) -> u32 {
        self.column
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

impl From<manycore_engine::Error> for Error {
    fn from(error: manycore_engine::Error) -> Error {
        use manycore_engine::Kind as Engine;
        let kind = match error.kind() {
            Engine::Closed => Kind::Closed,
            Engine::TooLarge => Kind::TooLarge,
            Engine::Timeout => Kind::Timeout,
            Engine::Interrupted | Engine::Corrupt | Engine::Os => Kind::System,
        };
        Error::new(kind, error.to_string())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

pub(crate) fn ended(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(signal) => match signal_name(signal) {
            Some(name) => format!("was killed by signal {signal} ({name})"),
            None => format!("was killed by signal {signal}"),
        },
        Exit::Unknown => "ended, nobody can say how,".to_owned(),
    }
}

pub(crate) fn advice(exit: Exit) -> &'static str {
    match exit {
        Exit::Code(_) => "A task must return or panic, not end its process",
        Exit::Signal(9) => "If nobody killed it, the machine is out of memory: use fewer workers or smaller items",
        Exit::Signal(24) => "It took more of a processor's time than it may",
        Exit::Signal(_) => "To find the fault, run the task on the same values without other processes",
        Exit::Unknown => "Does the program ignore SIGCHLD, or wait for children that are not its own?",
    }
}

/// The signals that end processes in practice, by their numbers on x86, ARM and RISC-V.
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        _ => return None,
    })
}
