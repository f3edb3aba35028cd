//! Processes whose starters die or forget them, and programs that are wrong.
//!
//! Scenarios that need a process of their own run in this same program, started
//! again with `SCENARIO` set; such a process succeeds by exit code 0.

#![forbid(unsafe_code)]

mod support;

use manycore::{Error, Passed, Process, Stdio};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid};
use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

fn double(x: u64) -> u64 {
    2 * x
}

/// Says that it runs, and goes on until the other end of `line` is gone; where it
/// is to `stay`, for ever.
fn say_and_wait(mut said: Passed<PipeWriter>, mut line: Passed<PipeReader>, stay: bool) {
    said.write_all(b"running\n").unwrap();
    if stay {
        loop {
            std::thread::park();
        }
    }
    let _ = line.read(&mut [0]);
    println!("went on");
}

/// A process in the midst of its task; the pipe's other end is its own.
fn busy(daemon: bool) -> (Process<()>, PipeReader, PipeWriter) {
    let (said, say) = std::io::pipe().unwrap();
    let (line, end) = std::io::pipe().unwrap();
    let process = Process::builder().daemon(daemon).spawn(say_and_wait, (Passed(say), Passed(line), daemon)).unwrap();
    let mut said = BufReader::new(said);
    let mut text = String::new();
    said.read_line(&mut text).unwrap();
    assert_eq!(text, "running\n");
    (process, said.into_inner(), end)
}

/// Until every process that may write there has ended.
fn wait_for_end(mut said: PipeReader) {
    assert_eq!(said.read(&mut [0]).unwrap(), 0);
}

fn main() {
    let scenario = std::env::var("SCENARIO").unwrap_or_default();
    let is_started = std::env::var_os("MANYCORE_INVITATION").is_some();
    match scenario.as_str() {
        "never" => return expect(Process::spawn(double, (1,)).err(), |error| error.contains("first line of main")),
        "late" if is_started => drop(Process::spawn(double, (1,))),
        "other end" if is_started => std::process::exit(3),
        "killed early" if is_started => kill_process(rustix::process::getpid(), Signal::KILL).unwrap(),
        "stuck" if is_started => std::thread::sleep(std::time::Duration::from_secs(120)),
        _ => {}
    }
    manycore::init();
    let start_error = || {
        let error = Process::spawn(double, (1,)).unwrap().join().unwrap_err();
        assert!(error.is_start(), "{error}");
        Some(error)
    };
    match scenario.as_str() {
        "late" => expect(start_error(), |error| error.contains("before it reached manycore::init()")),
        "other end" => expect(start_error(), |error| error.contains("exited with code 3 before it reached")),
        "killed early" => expect(start_error(), |error| error.contains("SIGKILL")),
        "stuck" => expect(start_error(), |error| error.contains("within 10 seconds")),
        "parent" => parent(true),
        "careless parent" => parent(false),
        "tidy" => tidy(),
        "left" => left(),
        _ => tests(),
    }
}

fn tests() {
    support::run(support::tests![
        a_dropped_handle_ends_its_process,
        a_killed_parent_ends_its_processes,
        one_that_outlives_its_parent,
        a_killed_process_says_so,
        killed_at_every_point,
        one_that_outlives_its_handle,
        nothing_is_left,
        init_forgotten,
        init_too_late,
        init_never_reached,
        killed_before_init,
        init_never_reached_by_one_that_stays,
    ]);
}

fn one_that_outlives_its_handle() {
    succeeds("left");
}

fn nothing_is_left() {
    succeeds("tidy");
}

fn init_forgotten() {
    succeeds("never");
}

fn init_too_late() {
    succeeds("late");
}

fn init_never_reached() {
    succeeds("other end");
}

fn killed_before_init() {
    succeeds("killed early");
}

fn init_never_reached_by_one_that_stays() {
    succeeds("stuck");
}

fn scenario(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("SCENARIO", name);
    command
}

fn succeeds(name: &str) {
    let output = scenario(name).output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

fn expect(error: Option<Error>, is_right: impl Fn(&str) -> bool) {
    let error = error.expect("an error").to_string();
    assert!(is_right(&error), "{error}");
}

fn a_dropped_handle_ends_its_process() {
    let (process, said, _end) = busy(true);
    let pid = process.id();
    drop(process);
    wait_for_end(said);
    // Reaped, too: there is no such child.
    assert!(waitpid(Pid::from_raw(pid as i32), WaitOptions::NOHANG).is_err());
}

fn a_killed_process_says_so() {
    let (mut process, _said, _end) = busy(true);
    kill_process(Pid::from_raw(process.id() as i32).unwrap(), Signal::KILL).unwrap();
    expect(process.join().err(), |error| error.contains("say_and_wait") && error.contains("signal 9 (SIGKILL)"));
}

fn killed_at_every_point() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let task = |file: Passed<PipeWriter>, text: String| (file, text);
    // One message in a packet, one in a memory file.
    for len in [10, 100_000] {
        for point in ["process-connected", "process-started", "process-has-run", "process-has-answered"] {
            let builder = Process::builder().env("MANYCORE_FAIL_POINT", point);
            let file = Passed(writer.try_clone().unwrap());
            let mut process = builder.spawn(task, (file, "x".repeat(len))).unwrap();
            match process.join() {
                // What was said counts, whatever came then.
                Ok((_file, text)) => assert!(point == "process-has-answered" && text.len() == len),
                Err(error) if point == "process-connected" => assert!(error.is_start(), "{point}: {error}"),
                Err(error) => assert!(error.is_worker_lost() && error.to_string().contains("SIGKILL"), "{error}"),
            }
            assert_eq!(process.exit_status().unwrap().unwrap().signal(), Some(9), "{point}");
        }
    }
    // Nobody has the other end any more.
    drop(writer);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0);
}

/// Starts a process, writes its number, and waits to be killed.
fn parent(daemon: bool) {
    let (process, said, end) = busy(daemon);
    println!("{}", process.id());
    // Keeps them until it is killed.
    let _ = (std::io::stdin().read(&mut [0]), process, said, end);
}

/// Runs `parent`, kills it, and gives what the process it had started says after that.
fn orphan(name: &str) -> String {
    let (said, say) = std::io::pipe().unwrap();
    let mut parent = scenario(name).stdin(std::process::Stdio::piped()).stdout(say).spawn().unwrap();
    let mut said = BufReader::new(said);
    said.read_line(&mut String::new()).unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    // The pipe ends when the last process that may write to it has ended.
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    rest
}

fn a_killed_parent_ends_its_processes() {
    assert_eq!(orphan("parent"), "");
}

fn one_that_outlives_its_parent() {
    assert_eq!(orphan("careless parent"), "went on\n");
}

/// Runs alone in its process, since it counts.
fn tidy() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let children = || std::fs::read_to_string("/proc/thread-self/children").unwrap();
    let before = descriptors();
    for round in 0..5 {
        assert_eq!(Process::spawn(double, (round,)).unwrap().join().unwrap(), 2 * round);
        drop(busy(true));
        let (mut process, ..) = busy(true);
        process.kill().unwrap();
        process.join().unwrap_err();
        let panics = || -> u8 { panic!("as it should") };
        Process::builder().stderr(Stdio::Null).spawn(panics, ()).unwrap().join().unwrap_err();
        drop(process);
        assert_eq!((descriptors(), children()), (before, String::new()));
    }
    // What cannot be started leaves nothing, either.
    assert!(Process::builder().env("ZERO", "a\0b").spawn(double, (1,)).is_err());
    assert_eq!((descriptors(), children()), (before, String::new()));
}

/// Runs alone in its process, since it counts.
fn left() {
    let children = || std::fs::read_to_string("/proc/thread-self/children").unwrap();
    let (process, said, end) = busy(false);
    let pid = Pid::from_raw(process.id() as i32).unwrap();
    drop(process);
    assert!(test_kill_process(pid).is_ok());
    drop(end);
    wait_for_end(said);
    // Its pipe is closed a moment before it has ended.
    while children().contains(&pid.to_string()) {
        Process::spawn(double, (1,)).unwrap().join().unwrap();
    }
}
