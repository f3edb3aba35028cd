//! The first line of main: here a process becomes a worker.

use crate::error::{Error, Kind, Result};
use crate::invitation::Invitation;
use crate::registry::Registry;
use crate::worker;
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
    if let Some(invitation) = Invitation::open() {
        worker::serve(&invitation);
    }
    if let Err(error) = Registry::get() {
        panic!("{error}");
    }
}

/// Whether a pool can be made here. Does not return in a worker that missed
/// [`init`]: it would start workers in turn, and these theirs.
pub(crate) fn check() -> Result<()> {
    if let Some(invitation) = Invitation::open() {
        worker::refuse_late(&invitation);
    }
    if CALLED.get().is_none() {
        let message = "a pool's workers are this program, started again: make manycore::init() the first line of main";
        return Err(Error::new(Kind::Usage, message));
    }
    Ok(())
}
