//! A process that does nothing, from its start to its end, and what it costs without us.

use manycore::Process;
use manycore_benchmarks::Contest;
use std::ffi::CString;

const BARE: &str = "MANYCORE_BENCH_BARE";
const TIMES: u32 = 200;

fn nothing() {}

/// posix_spawn of this program, which ends on its first line, and waitpid.
fn bare(program: &CString, environment: &[*mut libc::c_char]) {
    let mut pid = 0;
    let arguments = [program.as_ptr().cast_mut(), std::ptr::null_mut()];
    // SAFETY: strings that end with zero, arrays that end with null, all alive.
    let code = unsafe {
        libc::posix_spawn(
            &mut pid,
            program.as_ptr(),
            std::ptr::null(),
            std::ptr::null(),
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    assert_eq!(code, 0);
    // SAFETY: a child of this process, and no status asked for.
    assert_eq!(unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) }, pid);
}

fn main() {
    if std::env::var_os(BARE).is_some() {
        return;
    }
    manycore::init();
    let program = CString::new("/proc/self/exe").expect("no zero in it");
    let mut environment: Vec<CString> =
        std::env::vars().map(|(name, value)| CString::new(format!("{name}={value}")).expect("no zero in it")).collect();
    environment.push(CString::new(format!("{BARE}=1")).expect("no zero in it"));
    let environment: Vec<_> =
        environment.iter().map(|entry| entry.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect();
    Contest::new("an empty function in a process of its own", TIMES)
        .way("bare posix_spawn and waitpid", || (0..TIMES).for_each(|_| bare(&program, &environment)))
        .way("Process::spawn and join", || {
            (0..TIMES).for_each(|_| Process::spawn(nothing, ()).expect("a process").join().expect("nothing"));
        })
        .run(7);
}
