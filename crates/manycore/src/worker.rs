//! The worker's side: reach the pool, then take a task, run it, give its outcome.

use crate::code::{self, Call};
use crate::codec;
use crate::error::{Error, Result};
use crate::failure::{self, Failure};
use crate::invitation::Invitation;
use crate::registry::Registry;
use manycore_engine::pool::{Message, Next, Payload, Task, Verdict, Worker};
use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::RawFd;

/// Takes the seat of `invitation` and runs tasks until the pool is closed.
pub(crate) fn serve(invitation: &Invitation, seat: u16, bell: RawFd) -> ! {
    let mut worker = sit(invitation, seat, bell);
    match Registry::get().and_then(|registry| invitation.check(registry.fingerprint)) {
        Err(error) => refuse(&mut worker, &error),
        Ok(()) => {
            failure::listen(false);
            let ran = Loop { worker, known: HashMap::new(), output: Vec::new() }.run();
            if let Err(error) = ran {
                say(&error);
                std::process::exit(1);
            }
            std::process::exit(0)
        }
    }
}

/// For a worker whose main starts processes before it reached [`crate::init`]: tells
/// the caller, and ends.
pub(crate) fn refuse_late(invitation: &Invitation, seat: u16, bell: RawFd, error: &Error) -> ! {
    refuse(&mut sit(invitation, seat, bell), error)
}

fn sit(invitation: &Invitation, seat: u16, bell: RawFd) -> Worker {
    match invitation.sit(seat, bell) {
        Ok(Some(worker)) => worker,
        // Whoever started this process is gone.
        Ok(None) => std::process::exit(1),
        Err(error) => {
            say(&error.into());
            std::process::exit(1)
        }
    }
}

fn refuse(worker: &mut Worker, error: &Error) -> ! {
    say(error);
    // The caller sees the end of this process in any case.
    let _ = worker.fail(Message::of(&error.report()));
    std::process::exit(1)
}

fn say(error: &Error) {
    // Not eprintln: it panics where stderr is closed.
    let _ = writeln!(std::io::stderr(), "manycore worker {}: {error}", std::process::id());
}

struct Loop {
    worker: Worker,
    /// Tasks by the number the pool gave them: those without captures for good, the
    /// others until the pool says that their job is over.
    known: HashMap<u64, Box<dyn Call>>,
    output: Vec<u8>,
}

impl Loop {
    fn run(mut self) -> Result<()> {
        self.worker.ready()?;
        loop {
            match self.worker.wait() {
                Ok(Next::Task(task)) => {
                    self.execute(task)?;
                    self.trim();
                }
                Ok(Next::Again) => {}
                Ok(Next::End) => return Ok(()),
                Err(error) if error.kind() == manycore_engine::Kind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn execute(&mut self, mut task: Task) -> Result<()> {
        let body = task.take_body();
        let ran = match self.learn(&task) {
            Ok(()) => self.known[&task.function].run(&bytes_of(&body), &mut self.output),
            Err(error) => Err(Failure::of(&error, 0)),
        };
        drop(body);
        let failure = match ran {
            Ok(()) => match self.worker.finish(&task, Verdict::Returned, Message::of(&self.output)) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == manycore_engine::Kind::TooLarge => Failure::of(&error.into(), 0),
                Err(error) => return Err(error.into()),
            },
            Err(failure) => failure,
        };
        codec::write_failure(&failure, &mut self.output)?;
        self.worker.finish(&task, Verdict::Raised, Message::of(&self.output))?;
        Ok(())
    }

    /// Keeps the buffer for the next result, unless it is a burden.
    fn trim(&mut self) {
        if self.output.capacity() > KEEP {
            self.output = Vec::new();
        }
    }

    /// Makes the task's function known.
    fn learn(&mut self, task: &Task) -> Result<()> {
        if self.known.contains_key(&task.function) {
            return Ok(());
        }
        let oldest = self.worker.oldest_function();
        self.known.retain(|number, _| number % 2 == 1 || *number >= oldest);
        let (bytes, _) = self.worker.function(task)?;
        self.known.insert(task.function, code::open(&bytes)?);
        Ok(())
    }
}

/// Bytes of the largest buffer that is kept between two tasks.
pub(crate) const KEEP: usize = 4 << 20;

/// What a payload holds. One that lies in shared memory is copied first: others
/// may write there while serde reads.
pub(crate) fn bytes_of(payload: &Payload) -> Cow<'_, [u8]> {
    match payload {
        Payload::Inline(bytes) => Cow::Borrowed(bytes),
        Payload::Block(_) => Cow::Owned(payload.to_vec()),
    }
}
