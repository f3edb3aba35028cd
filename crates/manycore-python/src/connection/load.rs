//! From a message to an object.
//!
//! The large byte strings in a pickle are received into the objects they become,
//! not into the pickle first: in its place stands the opcode for a buffer that is
//! handed over apart, which gives exactly the object it is handed. So they are
//! copied once, whoever has written the pickle.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::dump::{loads, replaced_loads};
use super::{ConnectionEnd, scalar};
use crate::buffer::Landing;
use manycore_engine::connection::Room;

/// Pickles from this size on are looked through for large byte strings.
const LARGE_MESSAGE: usize = 1 << 20;
/// Byte strings from this size on are received apart.
const LARGE_STRING: usize = 256 << 10;
/// So much of a pickle is received at once to be looked through; and if there is no
/// large byte string in so much of it, none is expected any more.
const WINDOW: usize = 64 << 10;

/// The object in a message that is here.
pub(super) fn small<'py>(py: Python<'py>, message: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let replaced = replaced_loads(py)?;
    if replaced.is_none()
        && let Some(value) = scalar::decode(py, message)
    {
        return Ok(value);
    }
    let message = PyBytes::new(py, message).into_any();
    replaced.map_or_else(|| loads(py, &message, None), |loads| loads.call1((&message,)))
}

/// The object in a message of `len` bytes, of which all but `begun` follow.
pub(super) fn large<'py>(
    py: Python<'py>,
    source: &ConnectionEnd,
    fd: i32,
    len: usize,
    begun: &[u8],
) -> PyResult<Bound<'py, PyAny>> {
    if let Some(loads) = replaced_loads(py)? {
        return loads.call1((source.body(py, fd, len, begun)?,));
    }
    if len < LARGE_MESSAGE {
        return loads(py, &source.body(py, fd, len, begun)?, None);
    }
    let mut window = vec![0; WINDOW];
    window[..begun.len()].copy_from_slice(begun);
    let (left, end) = (len - begun.len(), begun.len());
    let mut pickle = Pickle { source, fd, left, kept: Vec::new(), window, start: 0, end };
    let mut strings = Vec::new();
    if begun.is_empty() {
        // An end here is one between head and body.
        pickle.receive_window(py)?;
    }
    pickle.look_through(py, &mut strings).map_err(|error| torn_in_midst(py, error))?;
    let message = pickle.rest(py).map_err(|error| torn_in_midst(py, error))?;
    source.received();
    let strings = strings.into_iter().map(Landing::into_object).collect::<Vec<_>>();
    let buffers = if strings.is_empty() { None } else { Some(PyList::new(py, strings)?) };
    loads(py, &message, buffers)
}

/// An end of file before the next part is one in the midst of the message.
fn torn_in_midst(py: Python<'_>, error: PyErr) -> PyErr {
    if error.is_instance_of::<pyo3::exceptions::PyEOFError>(py) { super::torn() } else { error }
}

/// A pickle that is being received.
struct Pickle<'a> {
    source: &'a ConnectionEnd,
    fd: i32,
    /// Bytes that have not been received.
    left: usize,
    /// What has been looked at, without the large byte strings.
    kept: Vec<u8>,
    /// What has been received and not looked at: `start..end`.
    window: Vec<u8>,
    start: usize,
    end: usize,
}

impl Pickle<'_> {
    fn look_through(&mut self, py: Python<'_>, strings: &mut Vec<Landing>) -> PyResult<()> {
        let mut idle = 0;
        while idle < WINDOW {
            match operation(&self.window[self.start..self.end]) {
                Operation::Plain(len) => {
                    let here = len.min(self.end - self.start);
                    if len - here > self.left || len > LARGE_MESSAGE {
                        return Ok(());
                    }
                    self.kept.extend_from_slice(&self.window[self.start..self.start + here]);
                    self.start += here;
                    self.keep_next(py, len - here)?;
                    idle += len;
                }
                // It would not fit any more, and none is needed.
                Operation::Frame(len) => self.start += len,
                Operation::String { kind, head, len } => {
                    let here = len.min(self.end - self.start - head);
                    if len - here > self.left {
                        return Ok(()); // Damaged; pickle says so.
                    }
                    let mut landing = match kind {
                        BYTEARRAY8 => Landing::bytearray(py, len)?,
                        _ => Landing::bytes(py, len)?,
                    };
                    self.start += head;
                    landing.put(0, &self.window[self.start..self.start + here]);
                    self.start += here;
                    self.receive(py, &mut landing.room(here))?;
                    self.kept.push(NEXT_BUFFER);
                    strings.push(landing);
                    idle = 0;
                }
                Operation::Short if self.left > 0 => self.receive_window(py)?,
                Operation::Short | Operation::Stop => return Ok(()),
            }
        }
        Ok(())
    }

    /// Receives `len` bytes to be kept without a look.
    fn keep_next(&mut self, py: Python<'_>, len: usize) -> PyResult<()> {
        let mut kept = std::mem::take(&mut self.kept);
        let before = kept.len();
        kept.resize(before + len, 0);
        self.receive(py, &mut Room::of(&mut kept[before..]))?;
        self.kept = kept;
        Ok(())
    }

    /// Receives the next part to be looked at; at most a few bytes of the last one are left.
    fn receive_window(&mut self, py: Python<'_>) -> PyResult<()> {
        self.window.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        let more = self.left.min(WINDOW - self.end);
        self.source.fill(py, self.fd, &mut Room::of(&mut self.window[self.end..self.end + more]))?;
        self.left -= more;
        self.end += more;
        Ok(())
    }

    fn receive(&mut self, py: Python<'_>, room: &mut Room<'_>) -> PyResult<()> {
        let len = room.left();
        if len > 0 {
            room.prefer_large_pages();
            self.source.fill(py, self.fd, room)?;
            self.left -= len;
        }
        Ok(())
    }

    /// What has been kept and everything that follows, as one bytes object.
    fn rest<'py>(mut self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let kept = std::mem::take(&mut self.kept);
        let here = self.end - self.start;
        let mut landing = Landing::bytes(py, kept.len() + here + self.left)?;
        landing.put(0, &kept);
        landing.put(kept.len(), &self.window[self.start..self.end]);
        self.receive(py, &mut landing.room(kept.len() + here))?;
        Ok(landing.into_object().into_bound(py))
    }
}

const NEXT_BUFFER: u8 = 0x97;
const BYTEARRAY8: u8 = 0x96;
const FRAME: u8 = 0x95;

/// What stands at the head of a piece of a pickle.
enum Operation {
    /// An opcode and its argument, so many bytes; all of them need not be here.
    Plain(usize),
    /// The opcode that announces a frame, so many bytes.
    Frame(usize),
    /// A large byte string: the opcode with the length, and the length; all of it need not be here.
    String { kind: u8, head: usize, len: usize },
    /// More bytes are needed to tell.
    Short,
    /// The end, or something that is not looked into.
    Stop,
}

/// Opcodes: the standard library's `pickletools` lists them with their arguments.
fn operation(pickle: &[u8]) -> Operation {
    let Some((&code, argument)) = pickle.split_first() else { return Operation::Short };
    // An opcode whose argument begins with its own length, in `digits` little-endian bytes.
    let counted = |digits: usize| {
        let mut number = [0; 8];
        number[..digits].copy_from_slice(argument.get(..digits)?);
        usize::try_from(u64::from_le_bytes(number)).ok()
    };
    let content = |digits: usize| match counted(digits) {
        None => Operation::Short,
        Some(len) => len.checked_add(1 + digits).map_or(Operation::Stop, Operation::Plain),
    };
    let string = |digits: usize| match counted(digits) {
        None => Operation::Short,
        Some(len) if len >= LARGE_STRING => Operation::String { kind: code, head: 1 + digits, len },
        Some(len) => Operation::Plain(1 + digits + len),
    };
    match code {
        b'(' | b'0' | b'1' | b'2' | b'N' | b'R' | b'Q' | b'a' | b'b' | b'd' | b'}' | b'e' | b'l' | b']' | b'o'
        | b's' | b't' | b')' | b'u' => Operation::Plain(1),
        0x81 | 0x85..=0x89 | 0x8f..=0x94 | 0x98 => Operation::Plain(1),
        b'K' | b'h' | b'q' | 0x80 | 0x82 => Operation::Plain(2),
        b'M' | 0x83 => Operation::Plain(3),
        b'J' | b'j' | b'r' | 0x84 => Operation::Plain(5),
        b'G' => Operation::Plain(9),
        FRAME if pickle.len() < 9 => Operation::Short,
        FRAME => Operation::Frame(9),
        b'U' | b'C' | 0x8c | 0x8a => content(1),
        b'T' | b'X' | 0x8b => content(4),
        0x8d => content(8),
        b'B' => string(4),
        0x8e | BYTEARRAY8 => string(8),
        _ => Operation::Stop,
    }
}
