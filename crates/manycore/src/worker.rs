//! The worker's side: reach the pool, then take a task, run it, give its outcome.

use crate::code::{self, Call, Chunk};
use crate::codec::{Reader, Writer, head_of};
use crate::error::{Error, Result};
use crate::failure::{self, Failure};
use crate::invitation::{Chair, Invitation};
use crate::passing;
use crate::registry::Registry;
use crate::welcome::Welcome;
use manycore_engine::os::limits;
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
            let welcome = match welcome.and_then(|welcome| welcome.obey().map(|()| welcome)) {
                Ok(welcome) => welcome,
                Err(error) => refuse(&mut worker, &error),
            };
            let ran = Loop::new(worker, &welcome).and_then(Loop::run);
            let ended = ran.and_then(|end| if end == End::Normal { welcome.part() } else { Ok(()) });
            if let Err(error) = ended {
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

/// How a worker's loop has ended, if nothing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The pool is closed, or another worker is to come.
    Normal,
    /// The process is not the pool's worker any more: its task was taken back, or has forked, and this is the child.
    Silent,
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
    /// Bytes of memory above which this worker goes, too.
    most_resident: Option<u64>,
    birthmark: Birthmark,
}

impl Loop {
    fn new(worker: Worker, welcome: &Welcome) -> Result<Loop> {
        Ok(Loop {
            worker,
            known: HashMap::new(),
            holding: HashSet::new(),
            output: Writer::in_parts(),
            calls_left: welcome.most_calls.unwrap_or(usize::MAX),
            most_resident: welcome.most_resident,
            birthmark: Birthmark::new()?,
        })
    }

    /// Whether another worker is to come in the place of this one.
    fn is_spent(&self) -> bool {
        let is_large = |most| limits::resident().is_ok_and(|bytes| bytes > most);
        self.calls_left == 0 || self.most_resident.is_some_and(is_large)
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

    fn run(mut self) -> Result<End> {
        self.worker.ready()?;
        loop {
            match self.next() {
                Ok(Next::Task(task)) => {
                    match self.execute(task) {
                        Err(error) if error.kind() == manycore_engine::Kind::Closed => return Ok(End::Silent),
                        done => done?,
                    }
                    self.output.clear();
                    if self.is_spent() {
                        return Ok(End::Normal);
                    }
                }
                Ok(Next::Again) => {}
                Ok(Next::End) => return Ok(End::Normal),
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
