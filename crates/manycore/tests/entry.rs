//! Processes that turn out to be another program.

#![forbid(unsafe_code)]

mod support;

use manycore::{Pool, Process, Stdio};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Names the program that a process of this one becomes before it reaches `manycore::init()`.
const CHANGE: &str = "MANYCORE_TEST_CHANGE";

fn main() {
    if let (Some(other), Some(_)) = (std::env::var_os(CHANGE), std::env::var_os("MANYCORE_INVITATION")) {
        panic!("{}", Command::new(other).env_remove(CHANGE).exec());
    }
    manycore::init();
    if std::env::var_os(CHANGE).is_some() {
        let error = Pool::with_workers(1).unwrap_err();
        assert!(error.is_different_build() && error.to_string().contains("another build"), "{error}");
        return;
    }
    support::run(support::tests![
        a_process_of_another_build,
        a_worker_of_another_build,
        a_program_that_knows_nothing_of_it,
    ]);
}

/// This program, with another build id; gone when this is dropped.
struct OtherBuild(PathBuf);

impl OtherBuild {
    fn new(name: &str) -> OtherBuild {
        let mut program = std::fs::read("/proc/self/exe").unwrap();
        // A note with a name of four bytes, an id of twenty, of kind three.
        let note = [&[4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0][..], b"GNU\0"].concat();
        let at = program.windows(note.len()).position(|bytes| bytes == note).expect("a build id") + note.len();
        program[at] ^= 1;
        let path = std::env::temp_dir().join(format!("manycore-{name}-{}", std::process::id()));
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        OtherBuild(path)
    }
}

impl Drop for OtherBuild {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).unwrap();
    }
}

fn a_process_of_another_build() {
    let other = OtherBuild::new("process");
    let builder = Process::builder().stderr(Stdio::Null).env(CHANGE, &other.0);
    let error = builder.spawn(|x: u64| x + 1, (1,)).unwrap().join().unwrap_err();
    assert!(error.is_different_build() && error.to_string().contains("another build"), "{error}");
}

fn a_worker_of_another_build() {
    let other = OtherBuild::new("worker");
    // Workers have the environment of their caller, which is another process here.
    let output = Command::new("/proc/self/exe").env(CHANGE, &other.0).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn a_program_that_knows_nothing_of_it() {
    let builder = Process::builder().env(CHANGE, "/bin/false");
    let error = builder.spawn(|x: u64| x + 1, (1,)).unwrap().join().unwrap_err();
    assert!(error.is_start() && error.to_string().contains("exited with code 1 before it reached"), "{error}");
}
