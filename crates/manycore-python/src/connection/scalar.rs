//! The pickles of plain scalars, written and read without a pickler.
//!
//! Byte for byte what `pickle.dumps` gives with protocol 4 or 5; a pickler for each
//! message costs more than everything else about a small one.

use manycore_engine::connection::Short;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyString};

/// Bytes of a frame's opcode and length.
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

/// Writes the pickle of `value` in `protocol` (4 or later) into `out`; false if it is not a short scalar, and then
/// something else may be in there.
pub(super) fn encode(value: &Bound<'_, PyAny>, protocol: u8, out: &mut Short) -> bool {
    let mut pickle = Pickle { protocol, out };
    if value.is_none() {
        return pickle.put(NONE, &[], &[]);
    }
    if value.cast_exact::<PyInt>().is_ok() {
        return value.extract::<i64>().is_ok_and(|number| encode_int(number, &mut pickle));
    }
    if let Ok(value) = value.cast_exact::<PyString>() {
        // Text with lone surrogates has no such form.
        return value.to_str().is_ok_and(|text| encode_short(TEXT, text.as_bytes(), &mut pickle));
    }
    if let Ok(value) = value.cast_exact::<PyBytes>() {
        return encode_short(BYTES, value.as_bytes(), &mut pickle);
    }
    if let Ok(value) = value.cast_exact::<PyFloat>() {
        return pickle.put(FLOAT, &value.value().to_be_bytes(), &[]);
    }
    if let Ok(value) = value.cast_exact::<PyBool>() {
        return pickle.put(if value.is_true() { TRUE } else { FALSE }, &[], &[]);
    }
    false
}

fn encode_int(number: i64, pickle: &mut Pickle<'_>) -> bool {
    if let Ok(small) = u8::try_from(number) {
        return pickle.put(INT1, &[small], &[]);
    }
    if let Ok(small) = u16::try_from(number) {
        return pickle.put(INT2, &small.to_le_bytes(), &[]);
    }
    if let Ok(small) = i32::try_from(number) {
        return pickle.put(INT4, &small.to_le_bytes(), &[]);
    }
    // The shortest two's complement.
    let bits = 65 - (number ^ (number >> 63)).leading_zeros();
    let len = bits.div_ceil(8) as u8;
    pickle.put(LONG1, &[len], &i128::from(number).to_le_bytes()[..usize::from(len)])
}

fn encode_short(code: u8, bytes: &[u8], pickle: &mut Pickle<'_>) -> bool {
    u8::try_from(bytes.len()).is_ok_and(|len| pickle.put_memoized(code, len, bytes))
}

/// A pickle being written.
struct Pickle<'a> {
    protocol: u8,
    out: &'a mut Short,
}

impl Pickle<'_> {
    /// One object: its opcode and its argument, in two parts.
    fn put(&mut self, code: u8, first: &[u8], second: &[u8]) -> bool {
        self.begin(2 + first.len() + second.len())
            && self.out.put(&[code])
            && self.out.put(first)
            && self.out.put(second)
            && self.out.put(&[STOP])
    }

    /// One object that pickle remembers, in case it comes again.
    fn put_memoized(&mut self, code: u8, len: u8, bytes: &[u8]) -> bool {
        self.begin(4 + bytes.len())
            && self.out.put(&[code, len])
            && self.out.put(bytes)
            && self.out.put(&[MEMOIZE, STOP])
    }

    /// What stands before `content` bytes.
    fn begin(&mut self, content: usize) -> bool {
        let framed = content >= FRAMED;
        self.out.put(&[PROTO, self.protocol])
            && (!framed || self.out.put(&[FRAME]) && self.out.put(&(content as u64).to_le_bytes()))
    }
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
