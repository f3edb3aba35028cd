//! The first line of main: here a process becomes a worker.

use crate::error::{Error, Kind, Result};
use crate::invitation::{Invitation, Role};
use crate::registry::Registry;
use crate::{process, test_support, worker};
use std::sync::OnceLock;

/// Set once [`init`] was called in this process.
static CALLED: OnceLock<()> = OnceLock::new();

/// Call this first in `main`. In a worker process it runs tasks and never returns;
/// in the process that the user started it does nothing.
///
/// A pool's workers are this same program, started again. What stands before this
/// line runs in each of them, too. [`#[manycore::main]`](crate::main) puts it there.
///
/// ```no_run
/// fn square(x: u64) -> u64 {
///     x * x
/// }
///
/// fn main() -> manycore::Result<()> {
///     manycore::init();
///     assert_eq!(manycore::Pool::new()?.map(square, 0..3)?, [0, 1, 4]);
///     Ok(())
/// }
/// ```
///
/// # Panics
/// When two functions marked [`#[manycore::task]`](crate::task) cannot be told apart.
pub fn init() {
    let _ = CALLED.set(());
    become_process();
    if let Err(error) = Registry::get() {
        panic!("{error}");
    }
}

/// Does not return where this process was started to run tasks.
pub fn become_process() {
    let Some(invitation) = Invitation::open() else { return };
    match invitation.role {
        Role::Worker(chair) => worker::serve(&invitation, chair),
        Role::Process => process::serve(&invitation),
    }
}

/// Whether processes can be started here. Does not return where this process was
/// started to run tasks and missed [`init`]: it would start others in turn, and
/// these theirs.
pub(crate) fn check() -> Result<()> {
    if let Some(invitation) = Invitation::open() {
        let error = Error::new(
            Kind::Start,
            "a worker process made a pool or a process before it reached manycore::init(); make manycore::init() the \
             first line of main",
        );
        match invitation.role {
            Role::Worker(chair) => worker::refuse_late(&invitation, chair, &error),
            Role::Process => process::refuse_late(&invitation, &error),
        }
    }
    if CALLED.get().is_none() && !test_support::is_used() {
        let message = "the processes of this program are the program itself, started again: make manycore::init() the \
                       first line of main (in tests: manycore::test_support!(), once in the test program)";
        return Err(Error::new(Kind::Usage, message));
    }
    Ok(())
}
