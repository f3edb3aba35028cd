//! Values to bytes, by serde.

use super::format::*;
use crate::values::{Part, offered};
use serde::ser::{self, Serialize, Serializer};

/// The names of fields and variants that a message has so far.
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: Vec<&'static str>,
    /// Where the next one stands if this value is like the one before.
    next: usize,
}

impl Names {
    /// The number of `name`. Names are compared by their places: two of one text cost its bytes again.
    #[inline]
    fn find(&mut self, name: &'static str) -> Option<usize> {
        let is_it = |known: &&'static str| std::ptr::eq(*known, name);
        let next = if self.next < self.known.len() { self.next } else { 0 };
        let found = match self.known.get(next) {
            Some(known) if is_it(known) => next,
            _ => {
                let (before, after) = self.known.split_at(next);
                let after = after.iter().position(is_it).map(|at| next + at);
                after.or_else(|| before.iter().position(is_it))?
            }
        };
        self.next = found + 1;
        Some(found)
    }

    fn add(&mut self, name: &'static str) {
        self.known.push(name);
        self.next = self.known.len();
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.known.truncate(len);
    }
}

/// Appends one value to a message.
pub(crate) struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    /// None: names are written in full each time.
    names: Option<&'a mut Names>,
    /// None: everything goes into the head.
    parts: Option<&'a mut Vec<Part>>,
    ground: Ground,
}

impl<'a> Encoder<'a> {
    #[inline]
    pub(super) fn new(
        out: &'a mut Vec<u8>,
        names: Option<&'a mut Names>,
        parts: Option<&'a mut Vec<Part>>,
    ) -> Encoder<'a> {
        Encoder { out, names, parts, ground: Ground::here() }
    }

    #[inline]
    fn name(&mut self, name: &'static str) {
        let Some(names) = &mut self.names else {
            self.out.push(1);
            return self.text_after(name);
        };
        match names.find(name) {
            Some(at) => length(self.out, at + 2),
            None => {
                names.add(name);
                self.out.push(0);
                self.text_after(name);
            }
        }
    }

    fn text_after(&mut self, text: &str) {
        length(self.out, text.len());
        self.out.extend_from_slice(text.as_bytes());
    }

    #[inline]
    fn unsigned(&mut self, number: u64) {
        if number < u64::from(TEXT) {
            self.out.push(number as u8);
        } else if let Ok(number) = u8::try_from(number) {
            self.out.extend_from_slice(&[U8, number]);
        } else if let Ok(number) = u16::try_from(number) {
            self.tagged(U16, number.to_le_bytes());
        } else if let Ok(number) = u32::try_from(number) {
            self.tagged(U32, number.to_le_bytes());
        } else {
            self.tagged(U64, number.to_le_bytes());
        }
    }

    #[inline]
    fn signed(&mut self, number: i64) {
        if let Ok(number) = u64::try_from(number) {
            self.unsigned(number);
        } else if number >= -8 {
            self.out.push(NEGATIVE + (number + 8) as u8);
        } else if let Ok(number) = i8::try_from(number) {
            self.tagged(I8, number.to_le_bytes());
        } else if let Ok(number) = i16::try_from(number) {
            self.tagged(I16, number.to_le_bytes());
        } else if let Ok(number) = i32::try_from(number) {
            self.tagged(I32, number.to_le_bytes());
        } else {
            self.tagged(I64, number.to_le_bytes());
        }
    }

    #[inline]
    fn tagged<const N: usize>(&mut self, tag: u8, bytes: [u8; N]) {
        self.out.reserve(N + 1);
        self.out.push(tag);
        self.out.extend_from_slice(&bytes);
    }

    /// Begins what has several values in it.
    #[inline]
    fn several(&mut self, kind: &'static Several, len: Option<usize>) -> Result<Compound<'_, 'a>, Refusal> {
        self.ground.check()?;
        let at = self.out.len();
        match len {
            Some(len) => kind.begin(self.out, len),
            None => self.out.push(kind.open),
        }
        Ok(Compound { encoder: self, kind, at, announced: len, count: 0, has_key: false, name: "", variant: None })
    }

    #[inline]
    fn variant(&mut self, variant: &'static str) {
        self.out.push(VARIANT);
        self.name(variant);
    }
}

/// A length or a count: seven bits in a byte, the lowest first.
#[inline]
pub(super) fn length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// How values in values begin.
struct Several {
    /// The tag for none of them; those of a few more follow.
    few: u8,
    /// The most that the tag itself tells.
    most: usize,
    many: u8,
    open: u8,
}

static ROWS: Several = Several { few: ROW, most: 15, many: LONG_ROW, open: OPEN_ROW };
static STRUCTURES: Several = Several { few: STRUCTURE, most: 15, many: LONG_STRUCTURE, open: OPEN_MAP };
static MAPS: Several = Several { few: MAP, most: 7, many: LONG_MAP, open: OPEN_MAP };

impl Several {
    #[inline]
    fn begin(&self, out: &mut Vec<u8>, count: usize) {
        if count <= self.most {
            out.push(self.few + count as u8);
        } else {
            out.push(self.many);
            length(out, count);
        }
    }
}

/// Values in a value that is being written.
pub(crate) struct Compound<'b, 'a> {
    encoder: &'b mut Encoder<'a>,
    kind: &'static Several,
    /// Where it begins.
    at: usize,
    announced: Option<usize>,
    count: usize,
    /// A key was written, and not its value yet.
    has_key: bool,
    /// The type, for messages.
    name: &'static str,
    variant: Option<&'static str>,
}

impl Compound<'_, '_> {
    #[inline]
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
        self.count += 1;
        match self.variant {
            None => value.serialize(&mut *self.encoder),
            Some(variant) => value.serialize(&mut *self.encoder).map_err(|error| error.in_variant(variant, self.name)),
        }
    }

    #[inline]
    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Refusal> {
        self.count += 1;
        self.encoder.name(key);
        value.serialize(&mut *self.encoder).map_err(|error| match self.variant {
            None => error.in_field(key, self.name),
            Some(variant) => error.in_field(key, &format!("{}::{variant}", self.name)),
        })
    }

    #[inline]
    fn close(mut self) -> Result<(), Refusal> {
        match self.announced {
            None => self.encoder.out.push(END),
            Some(announced) if announced == self.count => {}
            Some(announced) => self.correct(announced),
        }
        Ok(())
    }

    /// There were more values, or fewer, than the type's own code had announced.
    #[cold]
    fn correct(&mut self, announced: usize) {
        let (mut wrong, mut right) = (Vec::new(), Vec::new());
        self.kind.begin(&mut wrong, announced);
        self.kind.begin(&mut right, self.count);
        self.encoder.out.splice(self.at..self.at + wrong.len(), right);
    }
}

macro_rules! numbers {
    ($($method:ident($number:ty) as $wide:ident;)*) => {$(
        #[inline]
        fn $method(self, number: $number) -> Result<(), Refusal> {
            self.$wide(number.into());
            Ok(())
        }
    )*};
}

impl<'b, 'a> Serializer for &'b mut Encoder<'a> {
    type Ok = ();
    type Error = Refusal;
    type SerializeSeq = Compound<'b, 'a>;
    type SerializeTuple = Compound<'b, 'a>;
    type SerializeTupleStruct = Compound<'b, 'a>;
    type SerializeTupleVariant = Compound<'b, 'a>;
    type SerializeMap = Compound<'b, 'a>;
    type SerializeStruct = Compound<'b, 'a>;
    type SerializeStructVariant = Compound<'b, 'a>;

    // `is_human_readable` stays true: what serde keeps for `flatten`, `tag` and `untagged` is read back as
    // if it were text (serde#2172), so types that write themselves in two ways (`IpAddr`) could
    // not be read there.

    numbers! {
        serialize_u8(u8) as unsigned;
        serialize_u16(u16) as unsigned;
        serialize_u32(u32) as unsigned;
        serialize_u64(u64) as unsigned;
        serialize_i8(i8) as signed;
        serialize_i16(i16) as signed;
        serialize_i32(i32) as signed;
        serialize_i64(i64) as signed;
    }

    fn serialize_u128(self, number: u128) -> Result<(), Refusal> {
        match u64::try_from(number) {
            Ok(number) => self.unsigned(number),
            Err(_) => self.tagged(U128, number.to_le_bytes()),
        }
        Ok(())
    }

    fn serialize_i128(self, number: i128) -> Result<(), Refusal> {
        match (u128::try_from(number), i64::try_from(number)) {
            (Ok(number), _) => return self.serialize_u128(number),
            (_, Ok(number)) => self.signed(number),
            _ => self.tagged(I128, number.to_le_bytes()),
        }
        Ok(())
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Refusal> {
        self.out.push(if value { TRUE } else { FALSE });
        Ok(())
    }

    #[inline]
    fn serialize_f32(self, number: f32) -> Result<(), Refusal> {
        self.tagged(F32, number.to_le_bytes());
        Ok(())
    }

    #[inline]
    fn serialize_f64(self, number: f64) -> Result<(), Refusal> {
        self.tagged(F64, number.to_le_bytes());
        Ok(())
    }

    fn serialize_char(self, character: char) -> Result<(), Refusal> {
        self.out.push(CHAR);
        length(self.out, character as usize);
        Ok(())
    }

    #[inline]
    fn serialize_str(self, text: &str) -> Result<(), Refusal> {
        if text.len() < usize::from(ROW - TEXT) {
            self.out.reserve(text.len() + 1);
            self.out.push(TEXT + text.len() as u8);
            self.out.extend_from_slice(text.as_bytes());
        } else {
            self.out.push(LONG_TEXT);
            self.text_after(text);
        }
        Ok(())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<(), Refusal> {
        super::push_bytes(self.out, bytes);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Refusal> {
        self.out.push(NONE);
        Ok(())
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Refusal> {
        self.ground.check()?;
        let at = self.out.len();
        value.serialize(&mut *self)?;
        // Few bytes follow: these three have none but those before another one of them.
        if let Some(NONE | UNIT | SOME) = self.out.get(at).copied() {
            self.out.insert(at, SOME);
        }
        Ok(())
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Refusal> {
        self.out.push(UNIT);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Refusal> {
        self.serialize_unit()
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Refusal> {
        self.out.push(UNIT_VARIANT);
        self.name(variant);
        Ok(())
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<(), Refusal> {
        if name != SLICE {
            self.ground.check()?;
            return value.serialize(self);
        }
        if self.parts.is_none() {
            return value.serialize(self);
        }
        // The slice hands its part over, if it is long, and writes a unit in its place.
        let at = self.out.len();
        let part = offered(|| value.serialize(&mut *self))?;
        if let (Some(part), Some(parts)) = (part, &mut self.parts) {
            self.out.truncate(at);
            self.out.push(SEGMENT);
            length(self.out, part.segment().len());
            parts.push(part);
        }
        Ok(())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Refusal> {
        self.ground.check()?;
        self.variant(variant);
        value.serialize(self).map_err(|error| error.in_variant(variant, name))
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Compound<'b, 'a>, Refusal> {
        self.several(&ROWS, len)
    }

    #[inline]
    fn serialize_tuple(self, len: usize) -> Result<Compound<'b, 'a>, Refusal> {
        self.several(&ROWS, Some(len))
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Compound<'b, 'a>, Refusal> {
        self.several(&ROWS, Some(len))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Compound<'b, 'a>, Refusal> {
        self.variant(variant);
        Ok(Compound { name, variant: Some(variant), ..self.several(&ROWS, Some(len))? })
    }

    fn serialize_map(self, len: Option<usize>) -> Result<Compound<'b, 'a>, Refusal> {
        self.several(&MAPS, len)
    }

    #[inline]
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Compound<'b, 'a>, Refusal> {
        Ok(Compound { name, ..self.several(&STRUCTURES, Some(len))? })
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Compound<'b, 'a>, Refusal> {
        self.variant(variant);
        Ok(Compound { name, variant: Some(variant), ..self.several(&STRUCTURES, Some(len))? })
    }
}

macro_rules! rows {
    ($($trait:ident $method:ident;)*) => {$(
        impl ser::$trait for Compound<'_, '_> {
            type Ok = ();
            type Error = Refusal;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
                self.element(value)
            }

            #[inline]
            fn end(self) -> Result<(), Refusal> {
                self.close()
            }
        }
    )*};
}

rows! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! structures {
    ($($trait:ident)*) => {$(
        impl ser::$trait for Compound<'_, '_> {
            type Ok = ();
            type Error = Refusal;

            #[inline]
            fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Refusal> {
                self.field(key, value)
            }

            #[inline]
            fn end(self) -> Result<(), Refusal> {
                self.close()
            }
        }
    )*};
}

structures!(SerializeStruct SerializeStructVariant);

impl ser::SerializeMap for Compound<'_, '_> {
    type Ok = ();
    type Error = Refusal;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Refusal> {
        if std::mem::replace(&mut self.has_key, true) {
            return Err(Refusal::new("a map has a key without a value"));
        }
        key.serialize(&mut *self.encoder)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Refusal> {
        if !std::mem::replace(&mut self.has_key, false) {
            return Err(Refusal::new("a map has a value without a key"));
        }
        self.count += 1;
        value.serialize(&mut *self.encoder)
    }

    fn end(self) -> Result<(), Refusal> {
        if self.has_key {
            return Err(Refusal::new("a map has a key without a value"));
        }
        self.close()
    }
}
