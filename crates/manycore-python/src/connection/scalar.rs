//! The pickles of plain scalars, written and read without a pickler.
//!
//! Byte for byte what `pickle.dumps` gives with protocol 4 or 5; a pickler for each
//! message costs more than everything else about a small one.

use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

/// Text and bytes of this length have a short form.
const SHORT: usize = 255;
/// The longest pickle written here.
pub(super) const LONGEST: usize = 2 + FRAME_HEAD + 2 + SHORT + 2;
const FRAME_HEAD: usize = 9;
/// A pickle's shorter content stands in no frame.
const FRAMED: usize = 4;

const PROTO: u8 = 0x80;
const FRAME: u8 = 0x95;
const STOP: u8 = b'.';
const MEMOIZE: u8 = 0x94;
const NONE: u8 = b'N';
const TRUE: u8 = 0x88;
const FALSE: u8 = 0x89;
const INT1: u8 = b'K';
const INT2: u8 = b'M';
const INT4: u8 = b'J';
const LONG1: u8 = 0x8a;
const FLOAT: u8 = b'G';
const TEXT: u8 = 0x8c;
const BYTES: u8 = b'C';

/// Writes the pickle of `value` in `protocol` (4 or later) to the end of `out`; false if it is not a short scalar.
pub(super) fn encode(value: &Bound<'_, PyAny>, protocol: u8, out: &mut Writer) -> bool {
    let mut content = Writer::default();
    if value.is_none() {
        content.put(&[NONE]);
    } else if let Ok(value) = value.cast_exact::<PyBool>() {
        content.put(&[if value.is_true() { TRUE } else { FALSE }]);
    } else if value.cast_exact::<PyInt>().is_ok() {
        let Ok(number) = value.extract::<i64>() else { return false };
        encode_int(number, &mut content);
    } else if let Ok(value) = value.cast_exact::<PyFloat>() {
        content.put(&[FLOAT]);
        content.put(&value.value().to_be_bytes());
    } else if let Ok(value) = value.cast_exact::<PyBytes>() {
        if !encode_short(BYTES, value.as_bytes(), &mut content) {
            return false;
        }
    } else if let Ok(value) = value.cast_exact::<PyString>() {
        // Text with lone surrogates has no such form.
        let Ok(text) = value.to_str() else { return false };
        if !encode_short(TEXT, text.as_bytes(), &mut content) {
            return false;
        }
    } else {
        return false;
    }
    content.put(&[STOP]);
    out.put(&[PROTO, protocol]);
    if content.len >= FRAMED {
        out.put(&[FRAME]);
        out.put(&(content.len as u64).to_le_bytes());
    }
    out.put(content.bytes());
    true
}

fn encode_int(number: i64, content: &mut Writer) {
    if let Ok(small) = u8::try_from(number) {
        content.put(&[INT1, small]);
    } else if let Ok(small) = u16::try_from(number) {
        content.put(&[INT2]);
        content.put(&small.to_le_bytes());
    } else if let Ok(small) = i32::try_from(number) {
        content.put(&[INT4]);
        content.put(&small.to_le_bytes());
    } else {
        // The shortest two's complement.
        let bits = 65 - (number ^ (number >> 63)).leading_zeros();
        let len = bits.div_ceil(8) as usize;
        content.put(&[LONG1, len as u8]);
        content.put(&i128::from(number).to_le_bytes()[..len]);
    }
}

fn encode_short(code: u8, bytes: &[u8], content: &mut Writer) -> bool {
    let Ok(len) = u8::try_from(bytes.len()) else { return false };
    content.put(&[code, len]);
    content.put(bytes);
    content.put(&[MEMOIZE]);
    true
}

/// The scalar whose pickle `message` is, whoever wrote it; None if it is something else.
pub(super) fn decode<'py>(py: Python<'py>, message: &[u8]) -> Option<Bound<'py, PyAny>> {
    let [PROTO, 4..=5, content @ ..] = message else { return None };
    let content = match content {
        [FRAME, rest @ ..] => rest.get(FRAME_HEAD - 1..)?,
        other => other,
    };
    Some(match content {
        [NONE, STOP] => py.None().into_bound(py),
        [TRUE, STOP] => PyBool::new(py, true).to_owned().into_any(),
        [FALSE, STOP] => PyBool::new(py, false).to_owned().into_any(),
        [INT1, a, STOP] => a.into_pyobject(py).ok()?.into_any(),
        [INT2, a, b, STOP] => u16::from_le_bytes([*a, *b]).into_pyobject(py).ok()?.into_any(),
        [INT4, a, b, c, d, STOP] => i32::from_le_bytes([*a, *b, *c, *d]).into_pyobject(py).ok()?.into_any(),
        [FLOAT, number @ .., STOP] => PyFloat::new(py, f64::from_be_bytes(number.try_into().ok()?)).into_any(),
        [BYTES, len, bytes @ .., MEMOIZE, STOP] if bytes.len() == usize::from(*len) => {
            PyBytes::new(py, bytes).into_any()
        }
        [TEXT, len, text @ .., MEMOIZE, STOP] if text.len() == usize::from(*len) => {
            PyString::new(py, std::str::from_utf8(text).ok()?).into_any()
        }
        _ => return None,
    })
}

/// A few bytes on the stack.
pub(super) struct Writer {
    bytes: [u8; LONGEST],
    len: usize,
}

impl Default for Writer {
    fn default() -> Self {
        Self { bytes: [0; LONGEST], len: 0 }
    }
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
