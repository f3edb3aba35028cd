//! A channel of Python objects: the compiled half of the queues.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::known::{Known, name};
use manycore_engine::pool::Message;
use manycore_engine::shm::channel::{Channel, Got, INLINE, Sent, Wait};
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::os::fd::AsRawFd;

use crate::buffer::adopt;
use crate::codec::{self, Incoming, Scratch, flatten, with_flat};
use crate::connection::{for_queue, from_queue};
use crate::gate;
use crate::journey;

/// One process's end of a channel.
#[pyclass(frozen, module = "manycore._engine", name = "Channel")]
pub(crate) struct PyChannel {
    channel: Channel,
    /// Whether this object has sent anything.
    used: AtomicBool,
}

thread_local! {
    /// Where short messages are copied, kept for its memory.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

#[pymethods]
impl PyChannel {
    /// A new channel in which at most `capacity` messages wait; None: any number.
    #[new]
    #[pyo3(signature = (capacity=None))]
    fn new(capacity: Option<u32>) -> PyResult<PyChannel> {
        Channel::create(capacity).map(PyChannel::from).map_err(gate::raise)
    }

    /// The channel whose descriptors came from another process; this object closes them.
    #[staticmethod]
    fn attach(file: i32, bell: i32) -> PyResult<PyChannel> {
        let (file, bell) = (adopt(file), adopt(bell));
        Channel::attach(file, bell).map(PyChannel::from).map_err(gate::raise)
    }

    /// The descriptors to pass to another process. They stay this object's.
    fn handles(&self) -> (i32, i32) {
        (self.channel.file().as_raw_fd(), self.channel.bell().as_raw_fd())
    }

    /// Sends `value`. If there is an `owner` and no memory just now, gives what
    /// `put_encoded` sends later; a channel of limited length waits for memory, too.
    ///
    /// An owner is told of a value that cannot be encoded (`_on_queue_feeder_error`),
    /// which is then not sent; without one that is raised. queue.Full is raised when
    /// there was no room, at once or (with `block`) for `timeout` seconds.
    fn put<'py>(
        &self,
        owner: Option<&Bound<'py, PyAny>>,
        value: &Bound<'py, PyAny>,
        block: &Bound<'py, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<Option<(usize, Bound<'py, PyBytes>)>> {
        let (py, block) = (value.py(), block.is_truthy()?);
        if !block && self.channel.is_full() {
            return Err(full(py));
        }
        journey::sending(py, self.channel.file().as_raw_fd(), || {
            let mut encoder = Scratch::take();
            if !encode(&mut encoder, owner, value)? {
                return Ok(None);
            }
            let bytes = encoder.total_len();
            let patient = owner.is_none() || self.channel.capacity().is_some();
            let sent = encoder.with_message(|message| self.send(py, message, bytes, patient, block, timeout))?;
            if sent { Ok(None) } else { flatten(py, &encoder).map(Some) }
        })
    }

    /// What `put_encoded` sends; None when the owner was told that there is nothing.
    fn encode<'py>(
        &self,
        owner: Option<&Bound<'py, PyAny>>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<Option<(usize, Bound<'py, PyBytes>)>> {
        let py = value.py();
        journey::sending(py, self.channel.file().as_raw_fd(), || {
            let mut encoder = Scratch::take();
            if encode(&mut encoder, owner, value)? { flatten(py, &encoder).map(Some) } else { Ok(None) }
        })
    }

    /// Sends what `encode` gave; waits for memory and for room as long as it takes.
    fn put_encoded(&self, py: Python<'_>, head_len: usize, message: &Bound<'_, PyBytes>) -> PyResult<()> {
        let bytes = message.as_bytes();
        with_flat(head_len, bytes, |message| self.send(py, message, bytes.len(), true, true, None))?;
        Ok(())
    }

    /// Receives a value. queue.Empty is raised when there was none, at once or (with
    /// `block`) for `timeout` seconds.
    fn get<'py>(&self, block: &Bound<'py, PyAny>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let (py, block) = (block.py(), block.is_truthy()?);
        let mut buffer = SPARE.take();
        let value = self.receive(py, &mut buffer, block, timeout);
        buffer.shrink_to(1 << 16);
        // The thread may be ending; then the buffer does too.
        let _ = SPARE.try_with(|spare| spare.set(buffer));
        value.and_then(from_queue)
    }

    /// Whether a message waits within `timeout` seconds; None: wait as long as it takes.
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        if self.channel.waiting() != 0 {
            return Ok(true);
        }
        if timeout.is_some_and(|timeout| timeout <= 0.0) {
            return Ok(false);
        }
        let limit = gate::deadline(timeout)?;
        gate::enter(py, || self.channel.wait_message(limit))
    }

    /// How many messages wait.
    fn waiting(&self) -> u32 {
        self.channel.waiting()
    }

    /// Whether as many messages wait as may.
    fn is_full(&self) -> bool {
        self.channel.is_full()
    }

    /// Whether this object has sent anything.
    fn was_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Reports a message as done; False if none was left to be.
    fn task_done(&self) -> bool {
        self.channel.task_done()
    }

    /// How many messages were not reported as done.
    fn unfinished(&self) -> u32 {
        self.channel.unfinished()
    }

    /// Waits until every message was reported as done.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        if self.channel.unfinished() != 0 {
            gate::enter(py, || self.channel.wait_done(None))?;
        }
        Ok(())
    }

    /// A descriptor that is readable exactly while messages wait. It stays this object's.
    fn watch(&self, py: Python<'_>) -> PyResult<i32> {
        gate::enter(py, || self.channel.watch().map(|fd| fd.as_raw_fd()))
    }

    /// Makes received arrays this process's own, so that a forked child gets copies.
    fn before_fork(&self) -> PyResult<()> {
        self.channel.before_fork().map_err(gate::raise)
    }

    /// In a forked child: the channel to use instead of this one, if another is needed.
    fn after_fork(&self) -> PyResult<Option<PyChannel>> {
        Ok(self.channel.after_fork().map_err(gate::raise)?.map(PyChannel::from))
    }
}

impl From<Channel> for PyChannel {
    fn from(channel: Channel) -> PyChannel {
        PyChannel { channel, used: AtomicBool::new(false) }
    }
}

impl PyChannel {
    /// Sends a message of `bytes` bytes. With `patient`, what finds no memory waits for it.
    fn send(
        &self,
        py: Python<'_>,
        message: Message<'_>,
        bytes: usize,
        patient: bool,
        block: bool,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        self.used.store(true, Ordering::Relaxed);
        let mut limit = None;
        // What is copied in no time is sent attached, if nobody else is at it.
        let first = if bytes <= INLINE { Wait::No } else { Wait::Until(None) };
        let mut wait = first;
        loop {
            let attempt = || self.channel.try_send(message, wait);
            let sent = match wait {
                Wait::No => attempt().map_err(gate::raise)?,
                Wait::Until(_) => gate::enter(py, attempt)?,
            };
            match sent {
                Sent::Done(_) => return Ok(true),
                Sent::Busy => wait = Wait::Until(None),
                Sent::NoRoom if !patient => return Ok(false),
                Sent::Full | Sent::NoRoom if !block => return Err(full(py)),
                reason => {
                    let limit = first_wait(&mut limit, timeout)?;
                    let room = gate::enter(py, || match reason {
                        Sent::Full => self.channel.wait_room(limit),
                        _ => self.channel.wait_memory(limit),
                    });
                    if !room? {
                        return Err(full(py));
                    }
                    wait = first;
                }
            }
        }
    }

    fn receive<'py>(
        &self,
        py: Python<'py>,
        buffer: &mut Vec<u8>,
        block: bool,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut limit = None;
        let mut wait = Wait::No;
        loop {
            let got = match wait {
                Wait::No => self.channel.try_receive(buffer, wait).map_err(gate::raise)?,
                Wait::Until(_) => gate::enter(py, || self.channel.try_receive(buffer, wait))?,
            };
            match got {
                Got::Inline(head_len) => {
                    let (ptr, len) = (buffer.as_mut_ptr(), buffer.len());
                    return codec::decode(py, &Incoming { ptr, head_len, len, owner: None });
                }
                Got::Block(lease) => return codec::decode(py, &Incoming::of_lease(Arc::new(lease))),
                Got::Busy => wait = Wait::Until(None),
                Got::Nothing if !block => return Err(empty(py)),
                Got::Nothing => {
                    let limit = first_wait(&mut limit, timeout)?;
                    if !gate::enter(py, || self.channel.wait_message(limit))? {
                        return Err(empty(py));
                    }
                    wait = Wait::No;
                }
            }
        }
    }
}

/// Encodes `value`; false when its owner was told that this is not possible.
fn encode(encoder: &mut Scratch, owner: Option<&Bound<'_, PyAny>>, value: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = value.py();
    let outcome = for_queue(value).and_then(|value| encoder.encode(&value));
    let Err(error) = outcome else { return Ok(true) };
    let Some(owner) = owner.filter(|_| error.is_instance_of::<PyException>(py)) else { return Err(error) };
    if let Some(traceback) = error.traceback(py) {
        // Before 3.12 an exception that is on its way keeps its traceback apart.
        error.value(py).setattr(name!(py, "__traceback__"), traceback)?;
    }
    journey::lost(py);
    owner.call_method1(name!(py, "_on_queue_feeder_error"), (error.value(py), value))?;
    Ok(false)
}

/// When waiting ends: told by the first wait for all that follow.
fn first_wait(limit: &mut Option<Option<Instant>>, timeout: Option<f64>) -> PyResult<Option<Instant>> {
    Ok(match limit {
        Some(limit) => *limit,
        None => *limit.insert(gate::deadline(timeout)?),
    })
}

fn full(py: Python<'_>) -> PyErr {
    static FULL: Known<Py<PyAny>> = Known::new();
    raised(FULL.import(py, "queue", "Full"))
}

fn empty(py: Python<'_>) -> PyErr {
    static EMPTY: Known<Py<PyAny>> = Known::new();
    raised(EMPTY.import(py, "queue", "Empty"))
}

fn raised(class: PyResult<&Bound<'_, PyAny>>) -> PyErr {
    class.and_then(|class| class.call0()).map_or_else(|failure| failure, PyErr::from_value)
}
