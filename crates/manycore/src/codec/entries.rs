//! Values in a value that is being read: each is taken, or gone past, and none is left over.

use super::decoder::Decoder;
use super::format::*;
use serde::de::value::BorrowedStrDeserializer;
use serde::de::{DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use std::fmt;

/// Counts `left` down, or looks for the end. Whether there is one more.
#[inline]
fn more(decoder: &mut Decoder<'_>, left: &mut Option<usize>) -> Result<bool, Refusal> {
    match left {
        Some(0) => Ok(false),
        Some(count) => {
            *count -= 1;
            Ok(true)
        }
        None if decoder.peek()? == END => {
            decoder.step()?;
            *left = Some(0);
            Ok(false)
        }
        None => Ok(true),
    }
}

/// A row of values.
pub(super) struct Row<'b, 'de> {
    decoder: &'b mut Decoder<'de>,
    /// None up to an end.
    left: Option<usize>,
}

impl<'b, 'de> Row<'b, 'de> {
    pub(super) fn new(decoder: &'b mut Decoder<'de>, left: Option<usize>) -> Row<'b, 'de> {
        Row { decoder, left }
    }

    /// Refuses what its reader has left over.
    #[inline]
    pub(super) fn end(mut self) -> Result<(), Refusal> {
        if more(self.decoder, &mut self.left)? {
            return Err(Refusal::new("a row has more values than its reader takes"));
        }
        Ok(())
    }
}

impl<'de> SeqAccess<'de> for Row<'_, 'de> {
    type Error = Refusal;

    #[inline]
    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refusal> {
        if !more(self.decoder, &mut self.left)? {
            return Ok(None);
        }
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        self.left
    }
}

/// The entries of a structure or a map.
pub(super) struct Entries<'b, 'de> {
    decoder: &'b mut Decoder<'de>,
    /// None up to an end.
    left: Option<usize>,
    /// Keys are names.
    is_structure: bool,
    /// The type, for messages.
    name: &'static str,
    key: &'de str,
    /// Where the key of a map begins.
    key_at: &'de [u8],
    has_key: bool,
}

impl<'b, 'de> Entries<'b, 'de> {
    pub(super) fn new(
        decoder: &'b mut Decoder<'de>,
        left: Option<usize>,
        is_structure: bool,
        name: &'static str,
    ) -> Entries<'b, 'de> {
        Entries { decoder, left, is_structure, name, key: "", key_at: &[], has_key: false }
    }

    #[inline]
    pub(super) fn end(&mut self) -> Result<(), Refusal> {
        if self.has_key || more(self.decoder, &mut self.left)? {
            return Err(Refusal::new("a map or a structure has more entries than its reader takes"));
        }
        Ok(())
    }
}

impl<'de> MapAccess<'de> for Entries<'_, 'de> {
    type Error = Refusal;

    #[inline]
    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refusal> {
        if self.has_key {
            self.decoder.skip()?;
            self.has_key = false;
        }
        if !more(self.decoder, &mut self.left)? {
            return Ok(None);
        }
        let key = if self.is_structure {
            self.key = self.decoder.name()?;
            seed.deserialize(BorrowedStrDeserializer::new(self.key))
        } else {
            self.key_at = self.decoder.rest;
            seed.deserialize(&mut *self.decoder)
        };
        self.has_key = true;
        key.map(Some)
    }

    #[inline]
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refusal> {
        if !self.has_key {
            return Err(Refusal::new("the value of an entry was asked for before its key"));
        }
        self.has_key = false;
        seed.deserialize(&mut *self.decoder).map_err(|error| {
            // A structure with `flatten` is a map, too.
            let key = if self.is_structure { Some(self.key) } else { Decoder::text_in(self.key_at) };
            match key {
                Some(key) => error.in_field(key, self.name),
                None => error,
            }
        })
    }

    fn size_hint(&self) -> Option<usize> {
        self.left
    }
}

/// A variant with fields.
pub(super) struct Chosen<'b, 'de> {
    decoder: &'b mut Decoder<'de>,
    /// The variant goes by a name, not by a value that says it.
    is_named: bool,
    /// The type, for messages.
    name: &'static str,
    variant: &'de str,
    /// What its reader has not taken yet.
    has_variant: bool,
    has_fields: bool,
}

impl<'b, 'de> Chosen<'b, 'de> {
    pub(super) fn new(decoder: &'b mut Decoder<'de>, is_named: bool, name: &'static str) -> Chosen<'b, 'de> {
        Chosen { decoder, is_named, name, variant: "", has_variant: true, has_fields: true }
    }

    /// Goes past what its reader has left.
    pub(super) fn end(&mut self) -> Result<(), Refusal> {
        if self.has_variant && self.is_named {
            self.decoder.name()?;
        } else if self.has_variant {
            self.decoder.skip()?;
        }
        if self.has_fields { self.decoder.skip() } else { Ok(()) }
    }
}

impl<'de> EnumAccess<'de> for &mut Chosen<'_, 'de> {
    type Error = Refusal;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Refusal> {
        self.has_variant = false;
        let variant = if self.is_named {
            self.variant = self.decoder.name()?;
            seed.deserialize(BorrowedStrDeserializer::new(self.variant))?
        } else {
            seed.deserialize(&mut *self.decoder)?
        };
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Chosen<'_, 'de> {
    type Error = Refusal;

    fn unit_variant(self) -> Result<(), Refusal> {
        self.newtype_variant_seed(std::marker::PhantomData)
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Refusal> {
        self.has_fields = false;
        seed.deserialize(&mut *self.decoder).map_err(|error| error.in_variant(self.variant, self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refusal> {
        self.newtype_variant_seed(Fields(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Refusal> {
        self.newtype_variant_seed(Fields(visitor))
    }
}

/// Reads the fields of a variant.
struct Fields<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for Fields<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        // Not `any`: what lies deeper is not kept twice.
        deserializer.deserialize_map(self.0)
    }
}

impl fmt::Debug for Row<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("left", &self.left).finish_non_exhaustive()
    }
}
