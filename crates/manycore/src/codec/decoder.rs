//! Bytes to values, by serde. Nothing here trusts the bytes: another process wrote them.

use super::entries::{Chosen, Entries, Row};
use super::format::*;
use crate::values::received;
use manycore_engine::pool::{Piece, Segments};
use serde::de::value::{BorrowedStrDeserializer, UnitDeserializer};
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};

/// How deep values of any type may lie in one another: their readers keep them on the stack once more.
const DEEPEST: u32 = 128;

/// As other formats write a variant.
const ONE_FIELD: u8 = STRUCTURE + 1;
const ONE_ENTRY: u8 = MAP + 1;

/// What is not read yet of a message.
#[derive(Debug)]
pub(super) struct Decoder<'de> {
    pub(super) rest: &'de [u8],
    names: Vec<&'de str>,
    segments: Option<Segments>,
    /// How many segments were taken.
    taken: usize,
    /// Segments that were taken already by who read this part before.
    again: usize,
    ground: Ground,
    depth: u32,
}

/// Where a [`Decoder`] stood.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot<'de> {
    rest: &'de [u8],
    names: usize,
    taken: usize,
}

/// The bytes of a value that is nothing else.
pub(crate) enum Run<'de> {
    Here(&'de [u8]),
    Apart(Piece),
}

impl<'de> Decoder<'de> {
    pub(super) fn new(rest: &'de [u8], segments: Option<Segments>) -> Decoder<'de> {
        let (names, ground) = (Vec::new(), Ground::here());
        Decoder { rest, names, segments, taken: 0, again: 0, ground, depth: 0 }
    }

    /// A value begins here: its code has so much of the stack from now on.
    #[inline]
    pub(super) fn begin(&mut self) {
        (self.ground, self.depth) = (Ground::here(), 0);
    }

    pub(super) fn spot(&self) -> Spot<'de> {
        Spot { rest: self.rest, names: self.names.len(), taken: self.taken }
    }

    /// Goes back to `spot`, and from there past `count` values, which somebody has tried to read.
    pub(super) fn pass(&mut self, spot: Spot<'de>, count: usize) -> Result<(), Refusal> {
        self.rest = spot.rest;
        self.names.truncate(spot.names);
        self.again = self.taken - spot.taken;
        let passed = (0..count).try_for_each(|_| self.skip());
        self.again = 0;
        if passed.is_err() {
            self.rest = &[];
        }
        passed
    }

    #[inline]
    fn check(&self) -> Result<(), Refusal> {
        self.ground.check()
    }

    #[inline]
    pub(super) fn peek(&self) -> Result<u8, Refusal> {
        self.rest.first().copied().ok_or_else(Refusal::ends)
    }

    #[inline]
    pub(super) fn step(&mut self) -> Result<u8, Refusal> {
        let (first, rest) = self.rest.split_first().ok_or_else(Refusal::ends)?;
        self.rest = rest;
        Ok(*first)
    }

    #[inline]
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (first, rest) = self.rest.split_first_chunk().ok_or_else(Refusal::ends)?;
        self.rest = rest;
        Ok(*first)
    }

    fn run(&mut self, len: usize) -> Result<&'de [u8], Refusal> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(Refusal::ends)?;
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self, len: usize) -> Result<&'de str, Refusal> {
        std::str::from_utf8(self.run(len)?).map_err(|_| Refusal::new("a text is no UTF-8"))
    }

    /// The text that `bytes` begin with, if they do.
    #[cold]
    pub(super) fn text_in(bytes: &'de [u8]) -> Option<&'de str> {
        <&str>::deserialize(&mut Decoder::new(bytes, None)).ok()
    }

    /// A length or a count.
    #[inline]
    pub(super) fn length(&mut self) -> Result<usize, Refusal> {
        let first = self.step()?;
        if first < 0x80 {
            return Ok(first.into());
        }
        let mut length = u64::from(first & 0x7f);
        for shift in (7..63).step_by(7) {
            let byte = self.step()?;
            length |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return usize::try_from(length).map_err(Refusal::custom);
            }
        }
        Err(Refusal::new("a length is too large"))
    }

    /// How many values follow, each of which takes a byte or more.
    fn count(&mut self) -> Result<usize, Refusal> {
        let count = self.length()?;
        if count > self.rest.len() {
            return Err(Refusal::new(format!("{count} values are announced, and {} bytes follow", self.rest.len())));
        }
        Ok(count)
    }

    /// The name of a field or a variant.
    #[inline]
    pub(super) fn name(&mut self) -> Result<&'de str, Refusal> {
        match self.length()? {
            how @ (0 | 1) => {
                let len = self.length()?;
                let name = self.text(len)?;
                if how == 0 {
                    self.names.push(name);
                }
                Ok(name)
            }
            at => self.names.get(at - 2).copied().ok_or_else(|| Refusal::new("a name did not come before its number")),
        }
    }

    fn piece(&mut self) -> Result<Piece, Refusal> {
        let len = self.length()?;
        let segments = self.segments.as_mut();
        let segments = segments.ok_or_else(|| Refusal::new(format!("a segment of {len} bytes has not come")))?;
        self.taken += 1;
        segments.next(len).map_err(Refusal::custom)
    }

    /// A value that is bytes, here or in a segment; None where it is something else.
    pub(super) fn run_of_bytes(&mut self) -> Result<Option<Run<'de>>, Refusal> {
        let tag = self.peek()?;
        if tag != BYTES && tag != SEGMENT {
            return Ok(None);
        }
        self.step()?;
        if tag == SEGMENT {
            return self.piece().map(Run::Apart).map(Some);
        }
        let len = self.length()?;
        self.run(len).map(Run::Here).map(Some)
    }

    /// A number that is not negative and has 64 bits; None, and nothing read, where the value is another one.
    #[inline]
    pub(super) fn unsigned(&mut self) -> Result<Option<u64>, Refusal> {
        let before = self.rest;
        Ok(Some(match self.step()? {
            small @ ..TEXT => small.into(),
            U8 => self.step()?.into(),
            U16 => u16::from_le_bytes(self.bytes()?).into(),
            U32 => u32::from_le_bytes(self.bytes()?).into(),
            U64 => u64::from_le_bytes(self.bytes()?),
            _ => {
                self.rest = before;
                return Ok(None);
            }
        }))
    }

    /// A number of 64 bits with a sign; None, and nothing read, where the value is another one.
    #[inline]
    fn signed(&mut self) -> Result<Option<i64>, Refusal> {
        let before = self.rest;
        let number = match self.unsigned()? {
            Some(number) => i64::try_from(number).ok(),
            None => match self.step()? {
                tag @ NEGATIVE..UNIT => Some(i64::from(tag - NEGATIVE) - 8),
                I8 => Some(i8::from_le_bytes(self.bytes()?).into()),
                I16 => Some(i16::from_le_bytes(self.bytes()?).into()),
                I32 => Some(i32::from_le_bytes(self.bytes()?).into()),
                I64 => Some(i64::from_le_bytes(self.bytes()?)),
                _ => None,
            },
        };
        if number.is_none() {
            self.rest = before;
        }
        Ok(number)
    }

    fn character(&mut self) -> Result<char, Refusal> {
        let number = self.length()?;
        let character = u32::try_from(number).ok().and_then(char::from_u32);
        character.ok_or_else(|| Refusal::new(format!("{number} is no character")))
    }

    /// How many values are in a value with this tag; None up to an end.
    fn few_or_many(&mut self, tag: u8, few: u8) -> Result<Option<usize>, Refusal> {
        match tag {
            LONG_ROW | LONG_STRUCTURE | LONG_MAP => self.count().map(Some),
            OPEN_ROW | OPEN_MAP => Ok(None),
            tag => Ok(Some((tag - few).into())),
        }
    }

    /// Reads the value, whatever it is.
    fn value<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Refusal> {
        match self.peek()? {
            ..TEXT | NEGATIVE..UNIT | U8..=U64 | I8..=I64 => {
                if let Some(number) = self.unsigned()? {
                    return visitor.visit_u64(number);
                }
                let number = self.signed()?.ok_or_else(Refusal::ends)?;
                return visitor.visit_i64(number);
            }
            _ => {}
        }
        match self.step()? {
            tag @ TEXT..ROW => visitor.visit_borrowed_str(self.text((tag - TEXT).into())?),
            LONG_TEXT => {
                let len = self.length()?;
                visitor.visit_borrowed_str(self.text(len)?)
            }
            tag @ (ROW..STRUCTURE | LONG_ROW | OPEN_ROW) => {
                self.check()?;
                let left = self.few_or_many(tag, ROW)?;
                let mut row = Row::new(self, left);
                let value = visitor.visit_seq(&mut row)?;
                row.end()?;
                Ok(value)
            }
            tag @ (STRUCTURE..NEGATIVE | LONG_STRUCTURE | LONG_MAP | OPEN_MAP) => self.entries(tag, "", visitor),
            UNIT => visitor.visit_unit(),
            NONE => visitor.visit_none(),
            SOME => {
                self.check()?;
                visitor.visit_some(self)
            }
            FALSE => visitor.visit_bool(false),
            TRUE => visitor.visit_bool(true),
            U128 => visitor.visit_u128(u128::from_le_bytes(self.bytes()?)),
            I128 => visitor.visit_i128(i128::from_le_bytes(self.bytes()?)),
            F32 => visitor.visit_f32(f32::from_le_bytes(self.bytes()?)),
            F64 => visitor.visit_f64(f64::from_le_bytes(self.bytes()?)),
            CHAR => visitor.visit_char(self.character()?),
            BYTES => {
                let len = self.length()?;
                visitor.visit_borrowed_bytes(self.run(len)?)
            }
            SEGMENT => visitor.visit_bytes(self.piece()?.bytes()),
            UNIT_VARIANT => visitor.visit_borrowed_str(self.name()?),
            // As in JSON: a map of one.
            VARIANT => {
                self.check()?;
                self.entries_of(Some(1), true, "", visitor)
            }
            tag => Err(Refusal::new(format!("no value begins with {tag:#04x}"))),
        }
    }

    /// Reads a structure or a map, whose tag is read.
    fn entries<V: Visitor<'de>>(&mut self, tag: u8, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        self.check()?;
        let is_structure = matches!(tag, STRUCTURE..MAP | LONG_STRUCTURE);
        let left = self.few_or_many(tag, if is_structure { STRUCTURE } else { MAP })?;
        self.entries_of(left, is_structure, name, visitor)
    }

    fn entries_of<V: Visitor<'de>>(
        &mut self,
        left: Option<usize>,
        is_structure: bool,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        let mut entries = Entries::new(self, left, is_structure, name);
        let value = visitor.visit_map(&mut entries)?;
        entries.end()?;
        Ok(value)
    }

    /// Goes past a value.
    pub(super) fn skip(&mut self) -> Result<(), Refusal> {
        enum Level {
            Values(usize),
            Fields(usize),
            Open,
        }
        let mut levels = vec![Level::Values(1)];
        while let Some(level) = levels.last_mut() {
            match level {
                Level::Values(0) | Level::Fields(0) => {
                    levels.pop();
                    continue;
                }
                Level::Values(left) => *left -= 1,
                Level::Fields(left) => {
                    *left -= 1;
                    self.name()?;
                }
                Level::Open if self.peek()? == END => {
                    self.step()?;
                    levels.pop();
                    continue;
                }
                Level::Open => {}
            }
            match self.step()? {
                tag @ (ROW..STRUCTURE | LONG_ROW) => {
                    let count = self.few_or_many(tag, ROW)?;
                    levels.extend(count.map(Level::Values));
                }
                tag @ (STRUCTURE..MAP | LONG_STRUCTURE) => {
                    let count = self.few_or_many(tag, STRUCTURE)?;
                    levels.extend(count.map(Level::Fields));
                }
                tag @ (MAP..NEGATIVE | LONG_MAP) => {
                    let count = self.few_or_many(tag, MAP)?;
                    levels.extend(count.map(|count| Level::Values(count.saturating_mul(2))));
                }
                OPEN_ROW | OPEN_MAP => levels.push(Level::Open),
                VARIANT => levels.push(Level::Fields(1)),
                SOME => levels.push(Level::Values(1)),
                tag => self.skip_alone(tag)?,
            }
        }
        Ok(())
    }

    /// Goes past a value that has no others in it, and whose tag is read.
    fn skip_alone(&mut self, tag: u8) -> Result<(), Refusal> {
        let len = match tag {
            ..TEXT | NEGATIVE..=NONE | FALSE | TRUE => 0,
            TEXT..ROW => (tag - TEXT).into(),
            U8 | I8 => 1,
            U16 | I16 => 2,
            U32 | I32 | F32 => 4,
            U64 | I64 | F64 => 8,
            U128 | I128 => 16,
            LONG_TEXT | BYTES => self.length()?,
            CHAR => self.length().map(|_| 0)?,
            UNIT_VARIANT => self.name().map(|_| 0)?,
            SEGMENT if self.again > 0 => {
                self.again -= 1;
                self.length().map(|_| 0)?
            }
            SEGMENT => self.piece().map(|_| 0)?,
            tag => return Err(Refusal::new(format!("no value begins with {tag:#04x}"))),
        };
        self.run(len).map(|_| ())
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident($number:ty) by $wide:ident or $wider:ident;)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            match self.$wide()? {
                // The visitors of some types know their own width only, those of others only the widest.
                Some(number) => match <$number>::try_from(number) {
                    Ok(number) => visitor.$visit(number),
                    Err(_) => visitor.$wider(number),
                },
                None => self.value(visitor),
            }
        }
    )*};
}

macro_rules! values {
    ($($method:ident)*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
            self.value(visitor)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Decoder<'de> {
    type Error = Refusal;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        if self.depth >= DEEPEST {
            return Err(Refusal::too_deep());
        }
        let wide = matches!(self.peek()?, U128 | I128);
        self.depth += 1;
        let value = self.value(visitor);
        self.depth -= 1;
        value.map_err(|error| if wide { too_wide(&error) } else { error })
    }

    numbers! {
        deserialize_u8 visit_u8(u8) by unsigned or visit_u64;
        deserialize_u16 visit_u16(u16) by unsigned or visit_u64;
        deserialize_u32 visit_u32(u32) by unsigned or visit_u64;
        deserialize_u64 visit_u64(u64) by unsigned or visit_u64;
        deserialize_u128 visit_u128(u128) by unsigned or visit_u64;
        deserialize_i8 visit_i8(i8) by signed or visit_i64;
        deserialize_i16 visit_i16(i16) by signed or visit_i64;
        deserialize_i32 visit_i32(i32) by signed or visit_i64;
        deserialize_i64 visit_i64(i64) by signed or visit_i64;
        deserialize_i128 visit_i128(i128) by signed or visit_i64;
    }

    values! {
        deserialize_bool deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_seq deserialize_map deserialize_identifier
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.peek()? {
            NONE | UNIT => {
                self.step()?;
                visitor.visit_none()
            }
            tag => {
                self.check()?;
                if tag == SOME {
                    self.step()?;
                }
                visitor.visit_some(self)
            }
        }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        match self.peek()? {
            NONE | UNIT => {
                self.step()?;
                visitor.visit_unit()
            }
            _ => self.value(visitor),
        }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Refusal> {
        self.check()?;
        if name == SLICE && self.peek()? == SEGMENT {
            self.step()?;
            let piece = self.piece()?;
            return received(piece, || visitor.visit_newtype_struct(UnitDeserializer::new()));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.value(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.value(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        match self.peek()? {
            tag @ (STRUCTURE..NEGATIVE | LONG_STRUCTURE | LONG_MAP | OPEN_MAP) => {
                self.step()?;
                self.entries(tag, name, visitor)
            }
            _ => self.value(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refusal> {
        self.check()?;
        match self.step()? {
            UNIT_VARIANT => visitor.visit_enum(BorrowedStrDeserializer::new(self.name()?)),
            tag @ TEXT..ROW => visitor.visit_enum(BorrowedStrDeserializer::new(self.text((tag - TEXT).into())?)),
            LONG_TEXT => {
                let len = self.length()?;
                visitor.visit_enum(BorrowedStrDeserializer::new(self.text(len)?))
            }
            tag @ (VARIANT | ONE_FIELD | ONE_ENTRY) => {
                let mut chosen = Chosen::new(self, tag != ONE_ENTRY, name);
                let value = visitor.visit_enum(&mut chosen)?;
                chosen.end()?;
                Ok(value)
            }
            tag => Err(Refusal::new(format!("an `{name}` does not begin with {tag:#04x}"))),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refusal> {
        self.skip()?;
        visitor.visit_unit()
    }
}

#[cold]
fn too_wide(error: &Refusal) -> Refusal {
    Refusal::new(format!(
        "{error}; serde does not keep whole numbers of more than 64 bits for `flatten`, `tag` and `untagged`: write \
         the number as a text or as bytes, by #[serde(with = ...)]"
    ))
}
