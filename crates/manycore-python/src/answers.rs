//! What answers mean: the value of a call, the calls of a chunk one by one, what a lost worker has left.

use manycore_engine::pool::{Answer, Left};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};
use std::time::Duration;

use crate::codec::{self, Incoming};
use crate::hooks;

/// The answer of one call of a chunk.
pub(crate) type Each = PyResult<Py<PyAny>>;

/// The value of an answer, or the exception it stands for; `limit` is the time that the task had.
pub(crate) fn value_of<'py>(
    py: Python<'py>,
    answer: &Answer,
    limit: Option<Duration>,
    task: impl Fn() -> String,
) -> PyResult<Bound<'py, PyAny>> {
    hooks::whole(py, || match answer {
        Answer::Returned(payload) => codec::decode(py, &Incoming::of(payload)),
        Answer::Raised(payload) => Err(hooks::raised(py, payload)),
        Answer::Lost(loss) => Err(hooks::lost(py, loss, limit, &task)),
    })
}

/// The answers in a message whose chunk was run call by call: one for each of `count` items, or fewer, if the worker
/// could not read an argument.
pub(crate) fn outcomes_of(py: Python<'_>, incoming: &Incoming, count: usize) -> PyResult<Vec<Each>> {
    let list = codec::decode(py, incoming)?.cast_into::<PyList>().map_err(|_| hooks::bug("a chunk that is no list"))?;
    if list.len() > count {
        return Err(hooks::bug("more answers than items"));
    }
    Ok(list.iter().map(|pair| outcome_of(py, &pair)).collect())
}

/// A worker writes a pair for each call: whether it returned, and the value, or the exception taken apart.
fn outcome_of(py: Python<'_>, pair: &Bound<'_, PyAny>) -> Each {
    let pair = pair.cast::<PyTuple>()?;
    let value = pair.get_item(1)?;
    if pair.get_item(0)?.is_truthy()? { Ok(value.unbind()) } else { Err(hooks::rebuilt(py, &value)) }
}

/// The results that a lost worker has left, of the first items of its chunk; `is_each` as for `outcomes_of`. Ends at the
/// first that cannot be read.
pub(crate) fn left_behind(py: Python<'_>, left: Option<&Left>, is_each: bool) -> Vec<Each> {
    let read = |(message, head): (&[u8], usize)| {
        let value = codec::decode(py, &Incoming::of_copy(message.to_vec(), head)).ok()?;
        Some(if is_each { outcome_of(py, &value) } else { Ok(value.unbind()) })
    };
    left.map_or_else(Vec::new, |left| left.messages().map_while(read).collect())
}
