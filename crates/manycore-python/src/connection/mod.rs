//! The compiled half of a connection: messages through a descriptor.
//!
//! `python/manycore/connection.py` makes the standard package's classes of it. What
//! goes over the wire is that package's format, byte for byte, whatever the size.

mod dump;
mod load;
mod scalar;

pub(crate) use dump::{for_queue, from_queue, pickler_patched};

use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use manycore_engine::Kind;
use manycore_engine::connection::{Envelope, Link, Piece, Receipt, Room, Sending, Short, Step, Took, Wait};
use pyo3::exceptions::{PyEOFError, PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::buffer::Landing;
use crate::codec::Exported;
use crate::gate;
use crate::known::Known;

/// Bodies up to this are received along with their head.
const SMALL: usize = 512;
/// Messages up to this are sent, if there is room, without giving the interpreter away.
const AT_ONCE: usize = 64 << 10;
const CLOSED: i32 = -1;

/// One end of a connection. It holds the number of a descriptor; the written half
/// opens and closes it.
#[pyclass(subclass, frozen, module = "manycore._engine")]
pub(crate) struct ConnectionEnd {
    handle: AtomicI32,
    readable: AtomicBool,
    writable: AtomicBool,
    link: Link,
    /// Messages that were begun, less those that were received.
    owed: AtomicI32,
}

#[pymethods]
impl ConnectionEnd {
    /// Takes any arguments: those of a subclass are for its `__init__`.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> ConnectionEnd {
        ConnectionEnd {
            handle: AtomicI32::new(CLOSED),
            readable: AtomicBool::new(false),
            writable: AtomicBool::new(false),
            link: Link::default(),
            owed: AtomicI32::new(0),
        }
    }

    #[getter(_handle)]
    fn handle(&self) -> Option<i32> {
        Some(self.handle.load(Relaxed)).filter(|handle| *handle >= 0)
    }

    #[setter(_handle)]
    fn set_handle(&self, handle: Option<i32>) {
        self.handle.store(handle.unwrap_or(CLOSED), Relaxed);
        self.link.forget();
    }

    /// Takes over the descriptor of a socket, for both directions, and returns the connection. In one step: were it two in
    /// Python, what a signal's handler raises could come between them, and the descriptor would have no owner.
    /// `socket.socket.detach` is written in Python, so the method that it calls is called here.
    fn _take<'py>(slf: Bound<'py, Self>, socket: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        static SOCKET: Known<Py<PyAny>> = Known::new();

        let class = SOCKET.import(socket.py(), "_socket", "socket")?;
        let end = slf.borrow();
        end.set_handle(Some(class.call_method1("detach", (socket,))?.extract()?));
        end.set_readable(true);
        end.set_writable(true);
        drop(end);
        Ok(slf)
    }

    #[getter(_readable)]
    fn readable(&self) -> bool {
        self.readable.load(Relaxed)
    }

    #[setter(_readable)]
    fn set_readable(&self, readable: bool) {
        self.readable.store(readable, Relaxed);
    }

    #[getter(_writable)]
    fn writable(&self) -> bool {
        self.writable.load(Relaxed)
    }

    #[setter(_writable)]
    fn set_writable(&self, writable: bool) {
        self.writable.store(writable, Relaxed);
    }

    /// How many messages more were begun to be sent than were received whole. A caller that sends
    /// requests and receives answers reads from it, after an exception, whether an answer is still to come.
    #[getter(_owed)]
    fn owed(&self) -> i32 {
        self.owed.load(Relaxed)
    }

    /// How many bytes a message takes on the way at least, its length included; shorter ones are padded.
    #[getter(_shortest)]
    fn shortest(&self) -> usize {
        self.link.shortest(self.handle.load(Relaxed))
    }

    /// Send a picklable object.
    fn send(&self, py: Python<'_>, obj: &Bound<'_, PyAny>) -> PyResult<()> {
        self.to_write()?;
        dump::send(py, self, obj)
    }

    /// Send the bytes of a bytes-like object, or `size` of them from `offset` on.
    #[pyo3(signature = (buf, offset=0, size=None))]
    fn send_bytes(&self, py: Python<'_>, buf: &Bound<'_, PyAny>, offset: isize, size: Option<isize>) -> PyResult<()> {
        let fd = self.to_write()?;
        if let (Ok(bytes), 0, None) = (buf.cast_exact::<PyBytes>(), offset, size) {
            return self.send_slice(py, fd, bytes.as_bytes());
        }
        let exported = Exported::bytes_of(buf)?;
        let total = exported.len();
        let Ok(offset) = usize::try_from(offset) else {
            return Err(PyValueError::new_err("offset is negative"));
        };
        if total < offset {
            return Err(PyValueError::new_err("buffer length < offset"));
        }
        let size = match size.map(usize::try_from) {
            None => total - offset,
            Some(Err(_)) => return Err(PyValueError::new_err("size is negative")),
            Some(Ok(size)) if size > total - offset => {
                return Err(PyValueError::new_err("buffer length < offset + size"));
            }
            Some(Ok(size)) => size,
        };
        self.send_piece(py, fd, exported.piece().after(offset).first(size))
    }

    /// Receive an object. EOFError if there is nothing left and the other end is closed.
    fn recv<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let fd = self.to_read()?;
        let mut small = [0; SMALL];
        let mut receipt = Receipt::new(&mut small, None);
        match self.begin(py, fd, &mut receipt)? {
            Begun::Whole(len) => load::small(py, receipt.small(len)),
            Begun::Announced(len) => load::large(py, self, fd, len, receipt.begun()),
            Begun::Unwanted => Err(bad_message_length()),
        }
    }

    /// Receive the bytes of one message. OSError if there are more than `maxlength`, and no more can be received then.
    #[pyo3(signature = (maxlength=None))]
    fn recv_bytes<'py>(slf: &Bound<'py, Self>, maxlength: Option<i64>) -> PyResult<Bound<'py, PyAny>> {
        let (py, this) = (slf.py(), slf.get());
        let fd = this.to_read()?;
        let Ok(limit) = maxlength.map(u64::try_from).transpose() else {
            return Err(PyValueError::new_err("negative maxlength"));
        };
        let mut small = [0; SMALL];
        let mut receipt = Receipt::new(&mut small, limit);
        match this.begin(py, fd, &mut receipt)? {
            Begun::Whole(len) => Ok(PyBytes::new(py, receipt.small(len)).into_any()),
            Begun::Announced(len) => this.body(py, fd, len, receipt.begun()),
            Begun::Unwanted => {
                // The rest of the message is still there, so nothing that follows can be understood.
                if this.writable.load(Relaxed) {
                    this.readable.store(false, Relaxed);
                } else {
                    slf.call_method0("close")?;
                }
                Err(bad_message_length())
            }
        }
    }

    /// Receive one message into a writable bytes-like object, from `offset` on. Return how many bytes there were.
    ///
    /// BufferTooShort, with the message in `args[0]`, if it does not fit.
    #[pyo3(signature = (buf, offset=0))]
    fn recv_bytes_into(&self, py: Python<'_>, buf: &Bound<'_, PyAny>, offset: isize) -> PyResult<usize> {
        let fd = self.to_read()?;
        let mut exported = Exported::bytes_of(buf)?;
        let Ok(offset) = usize::try_from(offset) else {
            return Err(PyValueError::new_err("negative offset"));
        };
        if offset > exported.len() {
            return Err(PyValueError::new_err("offset too large"));
        }
        if exported.room(offset, 0).is_none() {
            return Err(PyTypeError::new_err(
                "recv_bytes_into needs a writable bytes-like object; this one is read-only",
            ));
        }
        let mut small = [0; SMALL];
        let mut receipt = Receipt::new(&mut small, None);
        let message = match self.begin(py, fd, &mut receipt)? {
            Begun::Unwanted => return Err(bad_message_length()),
            Begun::Whole(len) => {
                if let Some(mut room) = exported.room(offset, len) {
                    room.put(receipt.small(len));
                    return Ok(len);
                }
                PyBytes::new(py, receipt.small(len)).into_any()
            }
            Begun::Announced(len) => {
                if let Some(mut room) = exported.room(offset, len) {
                    room.put(receipt.begun());
                    self.fill(py, fd, &mut room)?;
                    self.received();
                    return Ok(len);
                }
                self.body(py, fd, len, receipt.begun())?
            }
        };
        let class = py.import("manycore.context")?.getattr("BufferTooShort")?;
        Err(PyErr::from_value(class.call1((message,))?))
    }

    /// Whether there is something to receive, or the other end is closed; waits `timeout` seconds for it, None for ever.
    #[pyo3(signature = (timeout=Some(0.0)), text_signature = "($self, timeout=0.0)")]
    fn poll(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let fd = self.to_read()?;
        let at_once = timeout.is_some_and(|seconds| seconds <= 0.0);
        let deadline = gate::deadline(timeout)?;
        let left = || deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let mut wait = Wait::Not;
        loop {
            py.check_signals()?;
            if gate::enter(py, || self.link.poll(fd, left(), wait))? {
                return Ok(true);
            }
            if at_once || wait == Wait::Sleeping && left() == Some(Duration::ZERO) {
                return Ok(false);
            }
            wait = if wait == Wait::Not { Wait::Spinning } else { Wait::Sleeping };
        }
    }
}

/// Two connected sockets for the ends of a pipe: their descriptors, the caller's to close.
#[pyfunction]
pub(crate) fn socket_pair() -> PyResult<(i32, i32)> {
    let (first, second) = manycore_engine::connection::pair().map_err(gate::raise)?;
    Ok((first.into_raw_fd(), second.into_raw_fd()))
}

/// A message whose head is here.
enum Begun {
    /// All of it is here.
    Whole(usize),
    /// So many bytes follow.
    Announced(usize),
    /// It is too long, or no message at all.
    Unwanted,
}

impl ConnectionEnd {
    fn open(&self) -> PyResult<i32> {
        match self.handle.load(Relaxed) {
            fd if fd >= 0 => Ok(fd),
            _ => Err(PyOSError::new_err("handle is closed")),
        }
    }

    fn to_read(&self) -> PyResult<i32> {
        let fd = self.open()?;
        if self.readable.load(Relaxed) { Ok(fd) } else { Err(PyOSError::new_err("connection is write-only")) }
    }

    fn to_write(&self) -> PyResult<i32> {
        let fd = self.open()?;
        if self.writable.load(Relaxed) { Ok(fd) } else { Err(PyOSError::new_err("connection is read-only")) }
    }

    fn begin(&self, py: Python<'_>, fd: i32, receipt: &mut Receipt<'_>) -> PyResult<Begun> {
        // What is there already is taken without giving the interpreter away.
        let mut step = receipt.advance(&self.link, fd, Wait::Not);
        let mut wait = Wait::Spinning;
        while matches!(&step, Ok(Step::Later)) || step.as_ref().is_err_and(|error| error.kind() == Kind::Interrupted) {
            // A signal wakes a sleep, but not one that begins after it came, while we spun.
            py.check_signals()?;
            step = Ok(gate::enter(py, || receipt.advance(&self.link, fd, wait))?);
            wait = Wait::Sleeping;
        }
        match step.map_err(gate::raise)? {
            Step::Whole(len) => {
                self.received();
                Ok(Begun::Whole(len))
            }
            Step::Announced(len) => usize::try_from(len)
                .map(Begun::Announced)
                .map_err(|_| PyOSError::new_err(format!("a message of {len} bytes does not fit into memory"))),
            Step::Unwanted => Ok(Begun::Unwanted),
            Step::End => Err(end_of_file()),
            Step::Torn | Step::Later => Err(torn()),
        }
    }

    /// The body of a message, of which all but `begun` follows.
    fn body<'py>(&self, py: Python<'py>, fd: i32, len: usize, begun: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        let mut landing = Landing::bytes(py, len)?;
        let mut room = landing.room(0);
        room.prefer_large_pages();
        room.put(begun);
        self.fill(py, fd, &mut room)?;
        self.received();
        Ok(landing.into_object().into_bound(py))
    }

    /// A message is here, whole.
    fn received(&self) {
        self.owed.fetch_sub(1, Relaxed);
    }

    /// Receives the whole of `room`.
    fn fill(&self, py: Python<'_>, fd: i32, room: &mut Room<'_>) -> PyResult<()> {
        match gate::enter(py, || self.link.fill(fd, room))? {
            Took::All => Ok(()),
            _ if room.filled() == 0 => Err(end_of_file()),
            _ => Err(torn()),
        }
    }

    /// Sends one message with the bytes `body`.
    fn send_slice(&self, py: Python<'_>, fd: i32, body: &[u8]) -> PyResult<()> {
        let mut short = Short::new();
        if short.put(body) { self.send_short(py, fd, short) } else { self.send_piece(py, fd, Piece::of(body)) }
    }

    /// Sends a short message.
    fn send_short(&self, py: Python<'_>, fd: i32, mut message: Short) -> PyResult<()> {
        self.send_whole(py, fd, &mut [message.piece(&self.link, fd)], true)
    }

    /// Sends one message whose body is one piece.
    fn send_piece(&self, py: Python<'_>, fd: i32, body: Piece<'_>) -> PyResult<()> {
        let envelope = Envelope::new(&self.link, fd, body.len());
        self.send_whole(py, fd, &mut [envelope.head(), body, envelope.padding()], body.len() <= AT_ONCE)
    }

    /// Sends one message whose body is in many pieces.
    fn send_pieces(&self, py: Python<'_>, fd: i32, body: &[Piece<'_>]) -> PyResult<()> {
        let envelope = Envelope::new(&self.link, fd, body.iter().map(Piece::len).sum());
        let mut pieces = Vec::with_capacity(body.len() + 2);
        pieces.push(envelope.head());
        pieces.extend_from_slice(body);
        pieces.push(envelope.padding());
        self.send_whole(py, fd, &mut pieces, false)
    }

    /// Sends everything in `pieces`; `at_once` without giving the interpreter away, if there is room for it.
    fn send_whole<'a>(&self, py: Python<'_>, fd: i32, pieces: &'a mut [Piece<'a>], at_once: bool) -> PyResult<()> {
        let mut sending = Sending::new(pieces);
        self.owed.fetch_add(1, Relaxed);
        if at_once {
            match sending.start(&self.link, fd) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.kind() == Kind::Interrupted => py.check_signals()?,
                Err(error) => return Err(gate::raise(error)),
            }
        }
        gate::enter(py, || sending.advance(&self.link, fd))
    }
}

fn end_of_file() -> PyErr {
    PyEOFError::new_err(())
}

fn torn() -> PyErr {
    PyOSError::new_err("got end of file during message")
}

fn bad_message_length() -> PyErr {
    PyOSError::new_err("bad message length")
}
