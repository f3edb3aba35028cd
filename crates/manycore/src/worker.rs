//! The worker's side: reach the pool, then take a task, run it, give its outcome.

use crate::code::{self, Call, Chunk};
use crate::codec::{Reader, Writer, head_of};
use crate::error::{Error, Result};
use crate::failure::{self, Failure};
use crate::invitation::{Chair, Invitation};
use crate::passing;
use crate::registry::Registry;
use crate::welcome::Welcome;
use manycore_engine::os::memory::Birthmark;
use manycore_engine::pool::{Message, Next, Segments, Task, Verdict, Worker};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

/// Takes the seat of `invitation` and runs tasks until the pool is closed.
pub(crate) fn serve(invitation: &Invitation, chair: Chair) -> ! {
    // Started through a link of the kernel's, whose name lists of processes would show.
    if let Some(name) = std::env::current_exe().ok().and_then(|program| program.file_name().map(OsStr::to_owned)) {
        let name = name.as_bytes();
        // Only for lists; a refusal costs nothing.
        let _ = std::fs::write("/proc/self/comm", name.strip_suffix(b" (deleted)").unwrap_or(name));
    }
    let mut worker = sit(invitation, chair);
    match Registry::get().and_then(|registry| invitation.check(registry.fingerprint)) {
        Err(error) => refuse(&mut worker, &error),
        Ok(()) => {
            failure::listen(false);
            let welcome = worker.welcome().map_err(Error::from);
            let welcome = welcome.and_then(|bytes| Welcome::from_bytes(bytes.as_deref()));
            let most_calls = match welcome.and_then(|welcome| welcome.obey().map(|()| welcome.most_calls)) {
                Ok(most_calls) => most_calls.unwrap_or(usize::MAX),
                Err(error) => refuse(&mut worker, &error),
            };
            let ran = Loop::new(worker, most_calls).and_then(Loop::run);
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
pub(crate) fn refuse_late(invitation: &Invitation, chair: Chair, error: &Error) -> ! {
    refuse(&mut sit(invitation, chair), error)
}

fn sit(invitation: &Invitation, chair: Chair) -> Worker {
    match invitation.sit(chair) {
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
    /// others until the pool says that their job is over, at the latest.
    known: HashMap<u64, Box<dyn Call>>,
    /// Those of them that have captured descriptors.
    holding: HashSet<u64>,
    output: Writer,
    /// Calls until this worker goes and another comes.
    calls_left: usize,
    birthmark: Birthmark,
}

impl Loop {
    fn new(worker: Worker, calls_left: usize) -> Result<Loop> {
        let (known, holding, output) = (HashMap::new(), HashSet::new(), Writer::in_parts());
        Ok(Loop { worker, known, holding, output, calls_left, birthmark: Birthmark::new()? })
    }

    /// The next task. What waits long for one holds no descriptors of an earlier job: somebody
    /// may wait for the end of a pipe or a channel. If the job goes on, they are asked for again.
    fn next(&mut self) -> manycore_engine::Result<Next> {
        if !self.holding.is_empty() {
            if let Some(task) = self.worker.try_next()? {
                return Ok(Next::Task(task));
            }
            self.holding.drain().for_each(|number| drop(self.known.remove(&number)));
        }
        self.worker.wait()
    }

    fn run(mut self) -> Result<()> {
        self.worker.ready()?;
        loop {
            match self.next() {
                Ok(Next::Task(task)) => {
                    match self.execute(task) {
                        // The task was taken back, or is the parent's: this process says nothing more.
                        Err(error) if error.kind() == manycore_engine::Kind::Closed => return Ok(()),
                        done => done?,
                    }
                    self.output.clear();
                    if self.calls_left == 0 {
                        return Ok(());
                    }
                }
                Ok(Next::Again) => {}
                Ok(Next::End) => return Ok(()),
                Err(error) if error.kind() == manycore_engine::Kind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn execute(&mut self, mut task: Task) -> manycore_engine::Result<()> {
        let ran = match self.learn(&task) {
            Ok(()) => self.call(&mut task),
            Err(error) => Err(Failure::of(&error, 0)),
        };
        if !self.birthmark.is_here() {
            // The task has forked, and this is the child, which has come back, too: one answer is enough.
            return Err(manycore_engine::Error::new(manycore_engine::Kind::Closed, "the task is another process's"));
        }
        let failure = match ran {
            Ok(()) => match self.worker.finish(&task, Verdict::Returned, self.output.message()) {
                Err(error) if error.kind() == manycore_engine::Kind::TooLarge => Failure::of(&error.into(), 0),
                finished => return finished,
            },
            Err(failure) => failure,
        };
        if let Err(error) = self.output.failure(&failure) {
            // Text and numbers: there is nothing in it that could not be written.
            say(&error);
        }
        self.worker.finish(&task, Verdict::Raised, self.output.message())
    }

    fn call(&mut self, task: &mut Task) -> std::result::Result<(), Failure> {
        let body = task.take_body();
        let head = head_of(&body);
        let mut input = Reader::in_parts(&head, Segments::of(&body)).map_err(|error| Failure::of(&error, 0))?;
        self.calls_left = self.calls_left.saturating_sub(input.count);
        let progress = self.worker.progress(task);
        let reach = |item| progress.reach(item as u64);
        let chunk = Chunk { each: task.mode == 1, reach: Some(&reach) };
        self.known[&task.function].run_chunk(&mut input, &mut self.output, chunk)
    }

    /// Makes the task's function known.
    fn learn(&mut self, task: &Task) -> Result<()> {
        if self.known.contains_key(&task.function) {
            return Ok(());
        }
        let oldest = self.worker.oldest_function();
        self.known.retain(|number, _| number % 2 == 1 || *number >= oldest);
        self.holding.retain(|number| self.known.contains_key(number));
        let (bytes, _) = self.worker.function(task)?;
        let (call, has_asked) = passing::asking(|| code::open(&bytes));
        self.known.insert(task.function, call?);
        if has_asked {
            self.holding.insert(task.function);
        }
        Ok(())
    }
}
