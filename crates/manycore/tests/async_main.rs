//! Both attributes above an async main: a process of the program starts no runtime.

#![forbid(unsafe_code)]

use libtest_mimic::{Arguments, Trial};
use manycore::{Pool, Process};
use tokio::runtime::Handle;

#[manycore::main]
#[tokio::main(flavor = "multi_thread", worker_threads = 1)]
async fn main() {
    let runtime = Handle::current();
    let trials = [
        Trial::test("a_ticket_is_awaited", move || {
            let pool = Pool::with_workers(1)?;
            let ticket = pool.apply_async(|x: u64| x + 1, (41,))?;
            assert_eq!(runtime.block_on(async { ticket.await })?, 42);
            Ok(())
        }),
        Trial::test("a_process_has_no_runtime", || {
            assert!(!Process::spawn(|| Handle::try_current().is_ok(), ())?.join()?);
            let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
            assert_eq!(Process::spawn(threads, ())?.join()?, 1);
            Ok(())
        }),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}
