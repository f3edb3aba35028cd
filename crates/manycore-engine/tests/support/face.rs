//! The smallest face a pool can have: worker processes of this very program, and
//! tasks that are plain numbers.

#![allow(unsafe_code)]

use manycore_engine::os::{inherit, lifeline};
use manycore_engine::pool::{
    Answer, Exit, Function, Job, JobOptions, Keeping, Loss, Message, Next, Outcome, Payload, Pool, Room, Segment, Task,
    Verdict, Woken, Work, Worker,
};
use manycore_engine::process::Child;
use manycore_engine::shm::arena::HELD_BY_CALLER;
use manycore_engine::shm::region::Region;
use manycore_engine::{Error, Kind};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

const WORKER: &str = "MANYCORE_TEST_WORKER";
const CALLER: &str = "MANYCORE_TEST_CALLER";
/// Where a caller dies once its workers are busy.
const DOOM: &str = "MANYCORE_TEST_DOOM";
/// How a worker ends by its own error before it is ready.
const ERROR: &str = "MANYCORE_TEST_ERROR";

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of a payload too large for the task table.
pub const LARGE: usize = 40_000;

/// What a task does; the engine passes the number to the worker unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// Answers in the task table.
    Small,
    /// Takes a block, and answers with one.
    Large,
    /// As `Large`, a millisecond later.
    Slow,
    /// Ends its worker with code 3.
    Exit,
    /// Never ends.
    Stuck,
}

/// Runs a worker, or a caller, when this process was started as one.
pub fn run_if_started() {
    let numbers = |role: &str| {
        let text = std::env::var(role).ok()?;
        Some(text.split(',').map(|number| number.parse().unwrap()).collect::<Vec<RawFd>>())
    };
    if let Some(numbers) = numbers(WORKER) {
        let &[seat, region, bell, lifeline] = &numbers[..] else { panic!("{numbers:?}") };
        let [region, bell, lifeline] = [region, bell, lifeline].map(|number| inherit::duplicate(number).unwrap());
        assert!(lifeline::arm(&lifeline).unwrap(), "the caller is gone");
        match std::env::var(ERROR).as_deref() {
            Ok("abort") => std::process::abort(),
            Ok(_) => std::process::exit(3),
            Err(_) => {}
        }
        work(seat as u16, region, bell).unwrap();
        std::process::exit(0);
    }
    if let Some(numbers) = numbers(CALLER) {
        be_a_caller(&numbers);
    }
}

/// A caller with two busy workers, who hold `witness` open as long as they live. It
/// never ends by itself, or at the point of `DOOM` with its next task.
fn be_a_caller(witness: &[RawFd]) {
    let mut face = Face::new(2);
    face.pass_on = witness.to_vec();
    face.launch(None);
    face.launch(None);
    let job = face.pool.open_job(JobOptions::default());
    (0..2).for_each(|number| face.submit(&job, number, Mode::Stuck));
    while face.pool.has_waiting() {
        std::thread::yield_now();
    }
    // Both are in the middle of a task: tells it, and keeps the pool.
    rustix::io::write(inherit::duplicate(witness[0]).unwrap(), b"!").unwrap();
    if let Some(point) = std::env::var_os(DOOM) {
        // SAFETY: this process has one thread.
        unsafe { std::env::set_var("MANYCORE_FAIL_POINT", point) };
        face.submit(&job, 2, Mode::Large);
        panic!("there is no such point");
    }
    loop {
        std::thread::park();
    }
}

/// Starts this program as a caller that passes `witness` on to its workers, and
/// that dies at `point` once they are busy.
pub fn launch_caller(witness: RawFd, point: Option<&str>) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut environment = vec![format!("{CALLER}={witness}")];
    environment.extend(point.map(|point| format!("{DOOM}={point}")));
    let environment: Vec<&OsStr> = environment.iter().map(OsStr::new).collect();
    Child::launch(program.as_os_str(), &[OsStr::new("caller")], &environment, &[witness]).unwrap()
}

fn work(seat: u16, region: OwnedFd, bell: OwnedFd) -> manycore_engine::Result<()> {
    let mut worker = Worker::sit(Arc::new(Region::attach(region)?), seat, bell)?;
    worker.ready()?;
    loop {
        match worker.wait()? {
            Next::Task(mut task) => answer(&mut worker, &mut task)?,
            Next::Again => {}
            Next::End => return Ok(()),
        }
    }
}

fn answer(worker: &mut Worker, task: &mut Task) -> manycore_engine::Result<()> {
    let (function, _) = worker.function(task)?;
    assert_eq!(function, FUNCTION);
    let body = task.take_body().to_vec();
    let number = u64::from_ne_bytes(body[..8].try_into().unwrap());
    let mut result = result(number);
    if task.mode != Mode::Small as u32 {
        assert!(body == argument(number, true), "task {number} got the bytes of another");
        result.resize(LARGE, number as u8);
    }
    match task.mode {
        mode if mode == Mode::Slow as u32 => std::thread::sleep(Duration::from_millis(1)),
        mode if mode == Mode::Exit as u32 => std::process::exit(3),
        mode if mode == Mode::Stuck as u32 => loop {
            std::thread::park();
        },
        _ => {}
    }
    worker.finish(task, Verdict::Returned, Message::of(&result))
}

const FUNCTION: &[u8] = b"the square";

fn argument(number: u64, large: bool) -> Vec<u8> {
    let mut bytes = number.to_ne_bytes().to_vec();
    bytes.resize(if large { LARGE } else { 8 }, !number as u8);
    bytes
}

fn result(number: u64) -> Vec<u8> {
    (number * number).to_ne_bytes().to_vec()
}

/// A pool and the processes that sit in it.
pub struct Face {
    pub pool: Arc<Pool>,
    pub children: BTreeMap<u16, Child>,
    /// Process number and end of every worker that was buried.
    pub dead: Vec<(u32, Exit)>,
    /// Whether a dead worker is replaced.
    pub refill: bool,
    /// Dead workers that are still to be replaced.
    missing: usize,
    /// How many of those that replace others are killed in their start.
    pub doomed: usize,
    /// Descriptors that workers inherit besides their own.
    pub pass_on: Vec<RawFd>,
    lifelines: BTreeMap<u16, OwnedFd>,
    function: Arc<Function>,
}

impl Face {
    pub fn new(seats: u16) -> Face {
        let pool = Pool::new(seats).unwrap();
        let function = pool.function(Message::of(FUNCTION), true).unwrap();
        Face {
            pool,
            children: BTreeMap::new(),
            dead: Vec::new(),
            refill: true,
            missing: 0,
            doomed: 0,
            pass_on: Vec::new(),
            lifelines: BTreeMap::new(),
            function,
        }
    }

    /// Starts a worker that is to die at `point`, or nowhere.
    pub fn launch(&mut self, point: Option<&str>) -> u16 {
        self.launch_with(point.map(|point| format!("MANYCORE_FAIL_POINT={point}")))
    }

    /// Starts a worker that is to stop at `point`.
    pub fn launch_stopping(&mut self, point: &str) -> u16 {
        self.launch_with(Some(format!("MANYCORE_STOP_POINT={point}")))
    }

    /// Starts a worker that ends before it is ready: by `abort` or by `exit`.
    pub fn launch_failing(&mut self, how: &str) -> u16 {
        self.launch_with(Some(format!("{ERROR}={how}")))
    }

    fn replace(&mut self) {
        let point = (self.doomed > 0).then_some("start-up");
        self.doomed = self.doomed.saturating_sub(1);
        self.launch(point);
    }

    fn launch_with(&mut self, setting: Option<String>) -> u16 {
        let seat = self.pool.take_seat().unwrap();
        let (kept, given) = lifeline::pair().unwrap();
        let passed = [self.pool.region().file().as_raw_fd(), self.pool.bell().as_raw_fd(), given.as_raw_fd()];
        let [region, bell, lifeline] = passed;
        let mut environment = vec![format!("{WORKER}={seat},{region},{bell},{lifeline}")];
        environment.extend(setting);
        let environment: Vec<&OsStr> = environment.iter().map(OsStr::new).collect();
        let inherit: Vec<RawFd> = passed.iter().chain(&self.pass_on).copied().collect();
        let program = std::env::current_exe().unwrap();
        let child = Child::launch(program.as_os_str(), &[OsStr::new("worker")], &environment, &inherit).unwrap();
        self.lifelines.insert(seat, kept);
        let pidfd = child.pidfd().as_fd().try_clone_to_owned().unwrap();
        self.pool.enlist(seat, child.pid(), pidfd).unwrap();
        self.children.insert(seat, child);
        seat
    }

    /// Submits task `number` once there is room; buries who dies meanwhile.
    pub fn submit(&mut self, job: &Job, number: u64, mode: Mode) {
        let deadline = Instant::now() + PATIENCE;
        while self.pool.room(0).unwrap() == Room::No {
            let woken = self.pool.wait_for_room(0, Some(deadline));
            self.after(woken);
        }
        assert!(self.try_submit(job, number, mode));
    }

    /// Submits task `number`, if the table has room.
    pub fn try_submit(&self, job: &Job, number: u64, mode: Mode) -> bool {
        let (head, rest) = (argument(number, false), argument(number, true));
        // SAFETY: `rest` lives until the task was submitted.
        let segments = [unsafe { Segment::new(rest.as_ptr(), rest.len()) }];
        let message = match mode {
            Mode::Small => Message::of(&head),
            // All segment: straight from its place into the block.
            _ => Message { head: &[], segments: &segments },
        };
        let work =
            Work { index: number, mode: mode as u32, keeps: Keeping::Nothing, function: &self.function, message };
        self.pool.submit(job, work).unwrap() == Room::Yes
    }

    /// Waits until `job` owes nothing; `each` sees every outcome as it comes.
    pub fn drain(&mut self, job: &Job, mut each: impl FnMut(&mut Face, Outcome)) {
        let deadline = Instant::now() + PATIENCE;
        let mut arrived = VecDeque::new();
        loop {
            let woken = self.pool.wait_for(job.key(), Some(deadline));
            self.after(woken);
            let owed = job.owed();
            job.take(&mut arrived);
            if arrived.is_empty() && owed == 0 {
                return;
            }
            arrived.drain(..).for_each(|outcome| each(self, outcome));
        }
    }

    /// Runs tasks `numbers` and gives the outcomes by number: `None` for a right
    /// answer, otherwise how it was lost.
    pub fn map(&mut self, numbers: std::ops::Range<u64>, mode: Mode) -> BTreeMap<u64, Option<Loss>> {
        let job = self.pool.open_job(JobOptions::default());
        for number in numbers.clone() {
            self.submit(&job, number, mode);
        }
        let mut outcomes = BTreeMap::new();
        self.drain(&job, |_, outcome| {
            let again = outcomes.insert(outcome.index, judge(outcome));
            assert!(again.is_none(), "a task was answered twice");
        });
        assert!(outcomes.keys().copied().eq(numbers), "a task was not answered");
        outcomes
    }

    fn after(&mut self, woken: Result<Woken, Error>) {
        match woken {
            Ok(Woken::Ready) => {}
            Ok(Woken::Exits) => self.bury(),
            Ok(Woken::Vacant) => {
                // Said again and again to a face that fills no seat, and before the pool looks for exits by itself.
                self.pool.look_for_exits().unwrap();
                self.bury();
            }
            Err(error) if error.kind() == Kind::Interrupted => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// Buries every worker that has ended.
    pub fn bury(&mut self) {
        for seat in self.pool.take_exited() {
            let child = self.children.remove(&seat).unwrap();
            self.lifelines.remove(&seat);
            let pid = child.pid();
            let exit = child.wait().unwrap();
            self.dead.push((pid, exit));
            if self.pool.bury(seat, exit).unwrap() && self.refill {
                self.missing += 1;
            }
        }
        if self.pool.may_hire() {
            if self.refill {
                for _ in 0..std::mem::take(&mut self.missing) {
                    self.replace();
                }
            }
            // Also where nobody is started: whoever waits would be told of the end of the pause again and again.
            self.pool.leave_empty();
        }
    }

    /// Waits until `count` workers have been buried in all.
    pub fn wait_for_deaths(&mut self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.dead.len() < count {
            assert!(Instant::now() < deadline, "{} workers ended, not {count}", self.dead.len());
            self.pool.look_for_exits().unwrap();
            self.bury();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until `count` workers have been buried in all, as a thread that has nothing else to wait for.
    pub fn wait_for_deaths_asleep(&mut self, count: usize) {
        while self.dead.len() < count {
            let woken = self.pool.doze();
            self.after(woken);
        }
    }

    /// Waits until the worker in `seat` takes tasks.
    pub fn wait_until_ready(&self, seat: u16) {
        let deadline = Instant::now() + PATIENCE;
        while !self.pool.region().is_ready(seat) {
            assert!(Instant::now() < deadline, "worker {seat} does not start");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// The pool is idle: no block of any part is in use but the function's.
    pub fn assert_nothing_held(&self) {
        let region = self.pool.region();
        let parts = region.shape().parts();
        for index in 0..parts {
            let part = region.part(index).unwrap();
            let holders = [0, HELD_BY_CALLER].into_iter().chain(1..=parts as u64);
            let held: usize = holders.map(|holder| part.held_by(holder).count()).sum();
            assert_eq!(held, usize::from(index == 0), "blocks of part {index} in use");
        }
    }

    /// Closes the pool: every worker must go by itself, and in peace.
    pub fn close(mut self) {
        self.refill = false;
        self.pool.close();
        let (before, living) = (self.dead.len(), self.children.len());
        self.wait_for_deaths(before + living);
        let peaceful = self.dead[before..].iter().all(|(_, exit)| *exit == Exit::Code(0));
        assert!(peaceful, "{:?}", self.dead);
    }
}

/// `None` for the right answer, otherwise how it was lost.
pub fn judge(outcome: Outcome) -> Option<Loss> {
    let number = outcome.index;
    match outcome.answer {
        Answer::Lost(loss) => Some(loss),
        Answer::Raised(_) => panic!("task {number} raised"),
        Answer::Returned(payload) => {
            let mut wanted = result(number);
            if let Payload::Block(_) = payload {
                wanted.resize(LARGE, number as u8);
            }
            assert!(payload.to_vec() == wanted, "task {number} got the answer of another");
            None
        }
    }
}
