//! What programs read of a pool beside its interface: how much is open, and how much of a map is left.

use pyo3::prelude::*;

use crate::core::Core;
use crate::result::{ApplyResult, Kindred};

/// How many jobs are not answered, and how many tasks no worker has begun, as far as what has come is known.
#[pyfunction]
pub(crate) fn open_work(core: &Bound<'_, Core>) -> PyResult<(usize, usize)> {
    let core = core.get();
    if !core.pool().is_ours() {
        return Ok((0, 0));
    }
    core.collect()?;
    let open = core.feeds.open();
    // A result with callbacks is open until they have been called.
    let jobs = (core.pool().open_jobs() + open.calls).max(open.kept);
    let tasks = core.pool().waiting() + open.calls + open.maps;
    Ok((if jobs == 0 { open.maps } else { jobs }, tasks))
}

/// How many items of a map are not answered; -1 for a call, None while another thread has the map in hand.
#[pyfunction]
pub(crate) fn items_left(result: &Bound<'_, ApplyResult>) -> Option<isize> {
    match result.get().work() {
        Kindred::Call(_) => Some(-1),
        Kindred::Map(map) => map.left().map(|left| isize::try_from(left).unwrap_or(isize::MAX)),
    }
}
