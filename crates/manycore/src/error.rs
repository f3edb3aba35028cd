//! One error: predicates are for deciding, words are for reading.

use manycore_engine::pool::{Exit, Loss};
use std::fmt;

/// Why a call did not give what was asked for.
///
/// What it prints says what was tried, on what, and what to do about it.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: String,
    item: Option<usize>,
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Panic,
    WorkerLost,
    Start,
    Closed,
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
        Error { kind, message: message.into(), item: None }
    }

    pub(crate) fn at(mut self, item: usize) -> Error {
        self.item = Some(item);
        self
    }

    /// The task panicked. The message and the place of the panic are in the text.
    pub fn is_panic(&self) -> bool {
        self.kind == Kind::Panic
    }

    /// The worker process that ran the task ended: killed, crashed, or by
    /// `std::process::exit`. The pool goes on with another one.
    pub fn is_worker_lost(&self) -> bool {
        self.kind == Kind::WorkerLost
    }

    /// Worker processes do not start, or do not reach [`crate::init`].
    pub fn is_start(&self) -> bool {
        self.kind == Kind::Start
    }

    /// The pool was terminated, or belongs to the process this one was forked from.
    pub fn is_closed(&self) -> bool {
        self.kind == Kind::Closed
    }

    /// The function is not among those given to [`crate::tasks!`].
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

    /// The number of the item that failed, counted from zero, where one item is
    /// to blame. Of a lost worker's items it is the first.
    pub fn item(&self) -> Option<usize> {
        self.item
    }

    /// Why the items from `first` on, `count` of them, are lost.
    pub(crate) fn lost(loss: &Loss, task: &str, first: usize, count: usize) -> Error {
        match loss {
            Loss::Worker { pid, exit } => {
                let items = match count {
                    1 => format!("item {first}"),
                    _ => format!("items {first} to {}", first + count - 1),
                };
                let message = format!(
                    "`{task}` on {items} is lost: worker process {pid} {} while it ran; the pool goes on with another \
                     worker. {}",
                    ended(*exit),
                    advice(*exit)
                );
                Error::new(Kind::WorkerLost, message).at(first)
            }
            other => Error::ended(other),
        }
    }

    /// Why a pool answers nothing any more.
    pub(crate) fn ended(loss: &Loss) -> Error {
        match loss {
            Loss::Start { report: Some(report), .. } => {
                Error::new(Kind::Start, String::from_utf8_lossy(&report.to_vec()).into_owned())
            }
            Loss::Start { pid, exit, report: None } | Loss::Worker { pid, exit } => Error::new(
                Kind::Start,
                format!(
                    "the pool's worker processes do not start: the last one, process {pid}, {} before it was \
                     ready; make manycore::init() the first line of main, and see what the program writes to stderr",
                    ended(*exit)
                ),
            ),
            Loss::Terminated => Error::new(Kind::Closed, "the pool was terminated; make a new one to go on"),
        }
    }
}

impl From<manycore_engine::Error> for Error {
    fn from(error: manycore_engine::Error) -> Error {
        use manycore_engine::Kind as Engine;
        let kind = match error.kind() {
            Engine::Closed => Kind::Closed,
            Engine::TooLarge => Kind::TooLarge,
            Engine::Timeout | Engine::Interrupted | Engine::Corrupt | Engine::Os => Kind::System,
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

fn ended(exit: Exit) -> String {
    match exit {
        Exit::Code(code) => format!("exited with code {code}"),
        Exit::Signal(signal) => match signal_name(signal) {
            Some(name) => format!("was killed by signal {signal} ({name})"),
            None => format!("was killed by signal {signal}"),
        },
        Exit::Unknown => "ended, nobody can say how,".to_owned(),
    }
}

fn advice(exit: Exit) -> &'static str {
    match exit {
        Exit::Code(_) => "A task must return or panic, not end its process",
        Exit::Signal(9) => "If nobody killed it, the machine is out of memory: use fewer workers or smaller items",
        Exit::Signal(_) => "Run the task on these items in one process to find the fault",
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
        _ => return None,
    })
}
