//! `Process`: results, failures, ends, and what a process is started with.
//!
//! The program brings its own main: it must be able to be the process.

#![forbid(unsafe_code)]

mod support;

use manycore::{Error, Passed, Process, ProcessBuilder, Stdio, closure};
use std::fs::File;
use std::io::{PipeReader, PipeWriter, Read, Seek, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

#[manycore::main]
fn main() {
    support::run(support::tests![
        results_come_back,
        a_result_is_given_once,
        large_values_travel,
        a_panic_comes_back_with_its_place,
        an_end_without_result_has_a_reason,
        joins_that_do_not_wait,
        kill_and_terminate,
        arguments_and_environment,
        streams_are_piped,
        streams_are_files_or_nothing,
        a_directory_and_a_name,
        memory_is_limited,
        time_is_limited,
        files_and_sockets_are_passed,
        results_may_be_files,
        processes_inside_processes,
        what_cannot_travel_is_an_error,
        send_and_sync,
    ]);
}

fn add(a: i64, b: i64) -> i64 {
    a + b
}

/// Waits until the other end of `line` is gone.
fn wait_for_end_of(mut line: Passed<PipeReader>) {
    let _ = line.read(&mut [0]);
}

fn results_come_back() {
    assert_eq!(Process::spawn(add, (40, 2)).unwrap().join().unwrap(), 42);
    assert_ne!(Process::spawn(std::process::id, ()).unwrap().join().unwrap(), std::process::id());
    let factor = 3;
    let mut process = Process::spawn(closure!(move(factor) |x: u32| factor * x), (7,)).unwrap();
    assert_eq!((process.join().unwrap(), process.exit_status().unwrap().unwrap().code()), (21, Some(0)));
    let main = |_: ()| std::thread::current().name().map(str::to_owned);
    assert_eq!(Process::spawn(main, ((),)).unwrap().join().unwrap().as_deref(), Some("main"));
}

fn a_result_is_given_once() {
    let mut process = Process::spawn(add, (1, 2)).unwrap();
    assert_eq!(process.join().unwrap(), 3);
    assert!(process.join().unwrap_err().to_string().contains("taken by an earlier join"));
    assert!(process.try_join().is_err() && !process.is_alive().unwrap());
}

fn large_values_travel() {
    let bytes: Vec<u8> = (0..1usize << 20).map(|at| (at % 251) as u8).collect();
    let reverse = |mut bytes: Vec<u8>| {
        bytes.reverse();
        bytes
    };
    let mut reversed = Process::spawn(reverse, (bytes.clone(),)).unwrap().join().unwrap();
    reversed.reverse();
    assert!(reversed == bytes);
}

fn a_panic_comes_back_with_its_place() {
    let line = include_str!("process.rs").lines().position(|line| line.contains("panic!(\"no {thing}")).unwrap() + 1;
    let boom = |thing: String| -> u8 { panic!("no {thing} here") };
    let mut process =
        Process::builder().stderr(Stdio::Null).env("RUST_BACKTRACE", "1").spawn(boom, ("luck".to_owned(),));
    let error = process.as_mut().unwrap().join().unwrap_err();
    let panic = error.panic().expect("a panic");
    assert!(error.is_panic() && panic.message() == "no luck here", "{error}");
    let place = panic.place().unwrap();
    assert!(place.file().ends_with("process.rs") && place.line() as usize == line && place.column() > 1, "{place}");
    assert!(panic.backtrace().is_some_and(|trace| trace.contains("process::")), "{panic:?}");
    assert_eq!(process.unwrap().exit_status().unwrap().unwrap().code(), Some(101));
    let mut process = Process::builder().stderr(Stdio::Null).env_remove("RUST_BACKTRACE").spawn(boom, (String::new(),));
    assert!(process.as_mut().unwrap().join().unwrap_err().panic().unwrap().backtrace().is_none());
}

fn an_end_without_result_has_a_reason() {
    let error = Process::spawn(|| -> () { std::process::exit(3) }, ()).unwrap().join().unwrap_err();
    assert!(error.is_worker_lost() && error.to_string().contains("exited with code 3"), "{error}");
    let mut process = Process::builder().name("crasher").spawn(|| -> () { std::process::abort() }, ()).unwrap();
    let error = process.join().unwrap_err();
    assert!(
        error.is_worker_lost() && error.to_string().contains("(crasher) was killed by signal 6 (SIGABRT)"),
        "{error}"
    );
    assert_eq!(process.exit_status().unwrap().unwrap().signal(), Some(6));
}

fn joins_that_do_not_wait() {
    let (line, end) = std::io::pipe().unwrap();
    let mut process = Process::spawn(wait_for_end_of, (Passed(line),)).unwrap();
    assert!(process.is_alive().unwrap() && process.try_join().unwrap().is_none());
    assert!(process.exit_status().unwrap().is_none());
    let error = process.join_timeout(Duration::from_millis(20)).unwrap_err();
    assert!(error.is_timeout() && error.to_string().contains("wait_for_end_of"), "{error}");
    drop(end);
    process.join_timeout(Duration::from_secs(60)).unwrap();
}

fn kill_and_terminate() {
    for (end, signal) in [(Process::kill as fn(&mut Process<()>) -> Result<(), Error>, 9), (Process::terminate, 15)] {
        let (line, _end) = std::io::pipe().unwrap();
        let mut process = Process::spawn(wait_for_end_of, (Passed(line),)).unwrap();
        end(&mut process).unwrap();
        assert!(process.join().is_err());
        assert_eq!(process.exit_status().unwrap().unwrap().signal(), Some(signal));
        end(&mut process).unwrap();
    }
}

fn arguments_and_environment() {
    let tell = || {
        let variable = |name| std::env::var(name).ok();
        (std::env::args().skip(1).collect::<Vec<_>>(), variable("GIVEN"), variable("HOME"))
    };
    let run = |builder: ProcessBuilder| builder.spawn(tell, ()).unwrap().join().unwrap();
    let own: Vec<String> = std::env::args().skip(1).collect();
    assert_eq!(run(Process::builder()), (own.clone(), None, std::env::var("HOME").ok()));
    let given = Process::builder().args(["a", "b c"]).env("GIVEN", "first").env("GIVEN", "x=y").env_remove("HOME");
    assert_eq!(run(given), (vec!["a".to_owned(), "b c".to_owned()], Some("x=y".to_owned()), None));
    assert_eq!(run(Process::builder().env_clear()), (own, None, None));
}

fn streams_are_piped() {
    let echo = || {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).unwrap();
        print!("{}", text.to_uppercase());
        eprint!("{}", text.len());
    };
    let builder = Process::builder().stdin(Stdio::Piped).stdout(Stdio::Piped).stderr(Stdio::Piped);
    let mut process = builder.spawn(echo, ()).unwrap();
    process.stdin.take().unwrap().write_all(b"hello").unwrap();
    let (mut output, mut error) = (String::new(), String::new());
    process.stdout.take().unwrap().read_to_string(&mut output).unwrap();
    process.stderr.take().unwrap().read_to_string(&mut error).unwrap();
    process.join().unwrap();
    assert_eq!((output.as_str(), error.as_str()), ("HELLO", "5"));
}

fn streams_are_files_or_nothing() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let tell = || {
        println!("to the file");
        eprintln!("to nowhere");
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).unwrap()
    };
    let builder = Process::builder().stdin(Stdio::Null).stdout(writer).stderr(Stdio::Null);
    assert_eq!(builder.spawn(tell, ()).unwrap().join().unwrap(), 0);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "to the file\n");
}

fn a_directory_and_a_name() {
    let tell = || (std::env::current_dir().unwrap(), std::fs::read_to_string("/proc/self/comm").unwrap());
    let builder = Process::builder().name("counter").current_dir("/proc");
    let mut process = builder.spawn(tell, ()).unwrap();
    assert_eq!(process.name(), "counter");
    assert_eq!(process.join().unwrap(), ("/proc".into(), "counter\n".to_owned()));
    let mut process = Process::builder().current_dir("/nowhere").stderr(Stdio::Null).spawn(tell, ()).unwrap();
    let error = process.join().unwrap_err();
    assert!(error.is_start() && error.to_string().contains("/nowhere"), "{error}");
}

fn memory_is_limited() {
    let reserve = |bytes: usize| Vec::<u8>::new().try_reserve_exact(bytes).is_ok();
    let run = |limit, bytes| Process::builder().memory_limit(limit).spawn(reserve, (bytes,)).unwrap().join().unwrap();
    assert!(run(1 << 30, 1 << 20) && !run(1 << 30, 2 << 30));
    // What is shared is not its own: this address range is larger than the limit.
    let (sender, receiver) = manycore::channel::unbounded::<u64>().unwrap();
    let send = |sender: manycore::channel::Sender<u64>| sender.send(42).unwrap();
    Process::builder().memory_limit(1 << 30).spawn(send, (sender,)).unwrap().join().unwrap();
    assert_eq!(receiver.recv().unwrap(), 42);
}

fn time_is_limited() {
    let spin = || {
        while std::hint::black_box(true) {
            std::hint::spin_loop();
        }
    };
    let mut process = Process::builder().cpu_limit(Duration::from_millis(1)).spawn(spin, ()).unwrap();
    let error = process.join().unwrap_err();
    assert!(error.is_worker_lost() && error.to_string().contains("SIGXCPU"), "{error}");
}

fn files_and_sockets_are_passed() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (mut here, there) = UnixStream::pair().unwrap();
    let work = |mut pipe: Passed<PipeWriter>, mut socket: Passed<UnixStream>, mut files: Vec<Passed<File>>| {
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        for file in &mut files {
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
        }
        pipe.write_all(text.as_bytes()).unwrap();
    };
    let path = std::env::temp_dir().join(format!("manycore-passed-{}", std::process::id()));
    std::fs::write(&path, "!").unwrap();
    let files: Vec<Passed<File>> = (0..300).map(|_| Passed(File::open(&path).unwrap())).collect();
    std::fs::remove_file(&path).unwrap();
    let mut process = Process::spawn(work, (Passed(writer), Passed(there), files)).unwrap();
    here.write_all(b"socket").unwrap();
    drop(here);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    process.join().unwrap();
    assert_eq!(text, format!("socket{}", "!".repeat(300)));
}

fn results_may_be_files() {
    let open = || Passed(File::open("/proc/self/comm").unwrap());
    let mut process = Process::builder().name("opener").spawn(open, ()).unwrap();
    let file = process.join().unwrap().into_inner();
    // The file of a process that is gone: open, and empty.
    assert!(file.metadata().is_ok());
    let pipe = || {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"left behind").unwrap();
        Passed(reader)
    };
    let mut text = String::new();
    Process::spawn(pipe, ()).unwrap().join().unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "left behind");
}

fn processes_inside_processes() {
    let outer = |x: i64| Process::spawn(add, (x, 1)).unwrap().join().unwrap() * 2;
    assert_eq!(Process::spawn(outer, (1,)).unwrap().join().unwrap(), 4);
    let pool = |x: u64| manycore::Pool::with_workers(1).unwrap().map(|x: u64| x * x, [x]).unwrap();
    assert_eq!(Process::spawn(pool, (5,)).unwrap().join().unwrap(), [25]);
}

fn what_cannot_travel_is_an_error() {
    /// Refuses to be read.
    #[derive(Debug)]
    struct Odd;
    impl serde::Serialize for Odd {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_unit()
        }
    }
    impl<'de> serde::Deserialize<'de> for Odd {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Odd, D::Error> {
            Err(serde::de::Error::custom("odd"))
        }
    }
    let error = Process::spawn(|_: Odd| (), (Odd,)).unwrap().join().unwrap_err();
    assert!(error.is_encoding(), "{error}");
    let error = Process::spawn(|| Odd, ()).unwrap().join().unwrap_err();
    assert!(error.is_encoding(), "{error}");
}

fn send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Process<Vec<u8>>>();
    check::<Process<std::rc::Rc<u8>>>();
    check::<ProcessBuilder>();
    check::<Stdio>();
    check::<Passed<File>>();
    check::<manycore::Bound<u8, fn(&u8, (u8,)) -> u8>>();
    check::<manycore::Panic>();
    check::<manycore::Place>();
}
