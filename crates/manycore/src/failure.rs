//! What another process says of a task that gave no result, and how a panic is caught.

use crate::error::{Error, Kind, Panic, Place};
use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook, take_hook};

/// Why an item of a chunk has no result.
#[derive(Clone, Debug)]
pub struct Failure {
    pub(crate) reason: Reason,
    /// The item's number in its chunk.
    pub(crate) offset: usize,
    pub(crate) message: String,
    /// More about a panic.
    pub(crate) panic: Option<Panic>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    Panic = 0,
    Encoding = 1,
    TooLarge = 2,
    System = 3,
}

impl Reason {
    pub(crate) fn from_number(number: u8) -> Reason {
        [Reason::Panic, Reason::Encoding, Reason::TooLarge].get(usize::from(number)).copied().unwrap_or(Reason::System)
    }
}

impl Failure {
    /// `error` befell the item `offset`.
    pub(crate) fn of(error: &Error, offset: usize) -> Failure {
        let reason = match error {
            _ if error.is_encoding() => Reason::Encoding,
            _ if error.is_too_large() => Reason::TooLarge,
            _ => Reason::System,
        };
        Failure { reason, offset, message: error.to_string(), panic: None }
    }

    /// The item `offset` panicked.
    pub(crate) fn panicked(panic: Panic, offset: usize) -> Failure {
        Failure { reason: Reason::Panic, offset, message: panic.to_string(), panic: Some(panic) }
    }

    /// The caller's error for it, in a chunk that starts with item `first`; None where there
    /// are no items, but one call.
    pub(crate) fn error(&self, task: &str, first: Option<usize>) -> Error {
        let Some(first) = first else { return self.error_of_one(task) };
        let item = first.saturating_add(self.offset);
        self.describe(task, &format!(" on item {item}")).at(item)
    }

    /// The error of a task that is alone.
    pub(crate) fn error_of_one(&self, task: &str) -> Error {
        self.describe(task, "")
    }

    fn describe(&self, task: &str, which: &str) -> Error {
        let (kind, verb) = match self.reason {
            Reason::Panic => (Kind::Panic, " panicked"),
            Reason::Encoding => (Kind::Encoding, ""),
            Reason::TooLarge => (Kind::TooLarge, ""),
            Reason::System => (Kind::System, ""),
        };
        Error::new(kind, format!("`{task}`{verb}{which}: {}", self.message)).with_panic(self.panic.clone())
    }
}

thread_local! {
    /// Whether this thread runs a task.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
    /// What the last panic of a task said, and where.
    static SAID: RefCell<Option<Panic>> = const { RefCell::new(None) };
}

/// From now on panics of tasks are remembered: the caller gets them as errors. They
/// are not printed, unless they are to be: by `print`, or by RUST_BACKTRACE, for
/// the backtrace. Those of other threads are printed as ever, and all of them
/// where a panic aborts.
pub(crate) fn listen(print: bool) {
    if cfg!(panic = "abort") {
        return;
    }
    let hook = take_hook();
    let print = print || std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
    set_hook(Box::new(move |panic| {
        let running = RUNNING.get();
        if running {
            SAID.set(Some(describe(panic)));
        }
        if !running || print {
            hook(panic);
        }
    }));
}

/// Runs `task`; a panic in it becomes what it said and where.
pub(crate) fn catch<R>(task: impl FnOnce() -> R) -> Result<R, Panic> {
    // A panic that an earlier task caught by itself is not this one's.
    SAID.set(None);
    RUNNING.set(true);
    // The values a panic may leave half changed are the task's own and statics of
    // the worker, as after any panic that a thread survives.
    let outcome = catch_unwind(AssertUnwindSafe(task));
    RUNNING.set(false);
    outcome.map_err(|payload| {
        let said = said(&*payload);
        // Its destructor is the task's code, and might panic in turn.
        std::mem::forget(payload);
        // The hook knows the place, unless the program has another hook by now, or the panic was another
        // thread's first, and goes on here without it. What it heard last may be another panic.
        let heard = SAID.take().filter(|panic| panic.message() == said);
        heard.unwrap_or_else(|| Panic::new(said, None, None))
    })
}

/// What a panic with this payload says.
pub(crate) fn said(payload: &(dyn Any + Send)) -> String {
    if let Some(inner) = payload.downcast_ref::<Box<dyn Any + Send>>() {
        // What `join` gave, thrown as it was.
        return said(&**inner);
    }
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let text = text.or_else(|| payload.downcast_ref::<Cow<'static, str>>().map(Cow::as_ref));
    let text = text.or_else(|| payload.downcast_ref::<Box<str>>().map(Box::as_ref));
    text.unwrap_or("a payload that is no text").to_owned()
}

fn describe(panic: &PanicHookInfo<'_>) -> Panic {
    let text = said(panic.payload());
    let place = panic.location().map(|place| Place::new(place.file().to_owned(), place.line(), place.column()));
    // Costs nothing unless RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    let backtrace = (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    Panic::new(text, place, backtrace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{panic_any, resume_unwind};

    #[test]
    fn the_message_of_a_panic_is_its_payloads() {
        let says = |task: fn()| catch(task).unwrap_err().message().to_owned();
        // Without a hook, as where the program has set one of its own.
        assert_eq!(says(|| panic!("{} is odd", 3)), "3 is odd");
        assert_eq!(says(|| panic_any("a text")), "a text");
        assert_eq!(says(|| panic_any(Cow::Borrowed("a cow"))), "a cow");
        assert_eq!(says(|| panic_any(7u8)), "a payload that is no text");
        let elsewhere = || {
            let payload = std::thread::scope(|scope| scope.spawn(|| panic!("from afar")).join().unwrap_err());
            resume_unwind(payload);
        };
        assert_eq!(says(elsewhere), "from afar");
        assert_eq!(
            says(|| resume_unwind(Box::new(std::thread::spawn(|| panic!("boxed")).join().unwrap_err()))),
            "boxed"
        );
        // One that the task has caught is not the one that ended it.
        let second = || {
            let _ = catch_unwind(|| panic!("the first"));
            resume_unwind(Box::new("the second".to_owned()));
        };
        assert_eq!(says(second), "the second");
    }
}
