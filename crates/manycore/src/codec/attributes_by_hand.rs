//! Two groups of serde's attributes: those for a type whose implementation is half derived and half written by hand, and
//! those by which a value borrows from the message.

use super::attributes::{as_json, as_they_were};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde::de::{self, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// Implementations that the macro writes against another name of serde.
mod elsewhere {
    pub(super) use serde as serializer;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(crate = "elsewhere::serializer")]
struct Elsewhere {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<i16>,
}

/// A struct whose reading is by hand, as serde's manual shows it: by the positions of its fields, or by their names.
#[derive(Clone, Debug, PartialEq)]
struct ByHand {
    seconds: u64,
    nanos: u32,
    note: Option<String>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Seconds,
    #[serde(alias = "nanoseconds")]
    Nanos,
    Note,
    #[serde(other)]
    Unknown,
}

impl Serialize for ByHand {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = 2 + usize::from(self.note.is_some());
        let mut state = serializer.serialize_struct("ByHand", fields)?;
        state.serialize_field("seconds", &self.seconds)?;
        state.serialize_field("nanos", &self.nanos)?;
        match &self.note {
            Some(note) => state.serialize_field("note", note)?,
            None => state.skip_field("note")?,
        }
        state.end()
    }
}

impl<'de> Deserialize<'de> for ByHand {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<ByHand, D::Error> {
        struct ByHandVisitor;

        impl<'de> Visitor<'de> for ByHandVisitor {
            type Value = ByHand;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("struct ByHand")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<ByHand, A::Error> {
                let seconds = fields.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                let nanos = fields.next_element()?.ok_or_else(|| de::Error::invalid_length(1, &self))?;
                Ok(ByHand { seconds, nanos, note: fields.next_element()? })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<ByHand, A::Error> {
                let (mut seconds, mut nanos, mut note) = (None, None, None);
                while let Some(field) = fields.next_key()? {
                    match field {
                        Field::Seconds => seconds = Some(fields.next_value()?),
                        Field::Nanos => nanos = Some(fields.next_value()?),
                        Field::Note => note = Some(fields.next_value()?),
                        Field::Unknown => _ = fields.next_value::<de::IgnoredAny>()?,
                    }
                }
                Ok(ByHand {
                    seconds: seconds.ok_or_else(|| de::Error::missing_field("seconds"))?,
                    nanos: nanos.ok_or_else(|| de::Error::missing_field("nanos"))?,
                    note,
                })
            }
        }

        deserializer.deserialize_struct("ByHand", &["seconds", "nanos", "note"], ByHandVisitor)
    }
}

/// An enum whose reading is by hand; the macro reads only which variant it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
enum Choice {
    Nothing,
    Number(i64),
    Pair(u8, String),
    Named { inner: Box<ByHand> },
}

#[derive(Deserialize)]
#[serde(variant_identifier)]
enum Variant {
    Nothing,
    Number,
    Pair,
    Named,
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Choice, D::Error> {
        struct PairVisitor;
        struct NamedVisitor;
        struct ChoiceVisitor;

        impl<'de> Visitor<'de> for PairVisitor {
            type Value = Choice;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number and a text")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Choice, A::Error> {
                let number = items.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                let text = items.next_element()?.ok_or_else(|| de::Error::invalid_length(1, &self))?;
                Ok(Choice::Pair(number, text))
            }
        }

        impl<'de> Visitor<'de> for NamedVisitor {
            type Value = Choice;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("the field inner")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut fields: A) -> Result<Choice, A::Error> {
                let inner = fields.next_element()?.ok_or_else(|| de::Error::invalid_length(0, &self))?;
                Ok(Choice::Named { inner })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Choice, A::Error> {
                let mut inner = None;
                while let Some(field) = fields.next_key::<Cow<'de, str>>()? {
                    match field.as_ref() {
                        "inner" => inner = Some(fields.next_value()?),
                        other => return Err(de::Error::unknown_field(other, &["inner"])),
                    }
                }
                Ok(Choice::Named { inner: inner.ok_or_else(|| de::Error::missing_field("inner"))? })
            }
        }

        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = Choice;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("enum Choice")
            }

            fn visit_enum<A: EnumAccess<'de>>(self, data: A) -> Result<Choice, A::Error> {
                let (variant, content) = data.variant()?;
                match variant {
                    Variant::Nothing => content.unit_variant().map(|()| Choice::Nothing),
                    Variant::Number => content.newtype_variant().map(Choice::Number),
                    Variant::Pair => content.tuple_variant(2, PairVisitor),
                    Variant::Named => content.struct_variant(&["inner"], NamedVisitor),
                }
            }
        }

        let variants = &["Nothing", "Number", "Pair", "Named"];
        deserializer.deserialize_enum("Choice", variants, ChoiceVisitor)
    }
}

/// An owned value that is read through one that borrows from the message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Owned {
    #[serde(deserialize_with = "through_a_borrow")]
    borrowing: (String, Option<String>),
    after: u8,
}

#[derive(Serialize, Deserialize)]
struct Borrowing<'a>(
    #[serde(borrow)] Cow<'a, str>,
    // Without the attribute it would be a copy.
    #[serde(borrow)] Option<Cow<'a, str>>,
);

fn through_a_borrow<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(String, Option<String>), D::Error> {
    let Borrowing(text, other) = Borrowing::deserialize(deserializer)?;
    Ok((text.into_owned(), other.map(Cow::into_owned)))
}

/// Text and bytes that are read through references. A format can give references only if its messages hold text and
/// bytes unchanged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Referred {
    #[serde(deserialize_with = "through_a_reference")]
    text: String,
    #[serde(serialize_with = "as_bytes", deserialize_with = "through_bytes")]
    bytes: Vec<u8>,
}

fn through_a_reference<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    <&'de str>::deserialize(deserializer).map(str::to_owned)
}

fn as_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

fn through_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    <&'de [u8]>::deserialize(deserializer).map(<[u8]>::to_vec)
}

/// Variants without a tag in an enum that has tags.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Partly {
    Unit,
    Tagged(u8),
    Named {
        a: Option<i8>,
    },
    #[serde(untagged)]
    Number(i64),
    #[serde(untagged)]
    Text(String),
    #[serde(untagged)]
    Row(Vec<Partly>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum PartlyInside {
    Unit,
    Named {
        a: Option<i8>,
    },
    #[serde(untagged)]
    Other {
        b: Vec<u8>,
    },
}

fn elsewhere_strategy() -> impl Strategy<Value = Elsewhere> {
    any::<(String, Option<i16>)>().prop_map(|(name, number)| Elsewhere { name, number })
}

fn by_hand() -> impl Strategy<Value = ByHand> {
    (any::<(u64, u32)>(), option::of(any::<String>())).prop_map(|((seconds, nanos), note)| ByHand {
        seconds,
        nanos,
        note,
    })
}

fn choice() -> impl Strategy<Value = Choice> {
    prop_oneof![
        Just(Choice::Nothing),
        any::<i64>().prop_map(Choice::Number),
        any::<(u8, String)>().prop_map(|(number, text)| Choice::Pair(number, text)),
        by_hand().prop_map(|inner| Choice::Named { inner: Box::new(inner) }),
    ]
}

fn owned() -> impl Strategy<Value = Owned> {
    any::<((String, Option<String>), u8)>().prop_map(|(borrowing, after)| Owned { borrowing, after })
}

fn referred() -> impl Strategy<Value = Referred> {
    any::<(String, Vec<u8>)>().prop_map(|(text, bytes)| Referred { text, bytes })
}

fn partly() -> impl Strategy<Value = Partly> {
    let leaf = prop_oneof![
        Just(Partly::Unit),
        any::<u8>().prop_map(Partly::Tagged),
        any::<Option<i8>>().prop_map(|a| Partly::Named { a }),
        any::<i64>().prop_map(Partly::Number),
        any::<String>().prop_map(Partly::Text),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| vec(inner, 0..3).prop_map(Partly::Row))
}

fn partly_inside() -> impl Strategy<Value = PartlyInside> {
    prop_oneof![
        Just(PartlyInside::Unit),
        any::<Option<i8>>().prop_map(|a| PartlyInside::Named { a }),
        any::<Vec<u8>>().prop_map(|b| PartlyInside::Other { b }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn another_name_of_serde(values in vec(elsewhere_strategy(), 0..5)) {
        as_json(&values);
    }

    #[test]
    fn fields_and_variants_read_by_hand(structs in vec(by_hand(), 0..5), enums in vec(choice(), 0..5)) {
        as_json(&structs);
        as_json(&enums);
    }

    #[test]
    fn what_borrows(cows in vec(owned(), 0..5), references in vec(referred(), 0..5)) {
        as_json(&cows);
        as_they_were(&references);
    }

    #[test]
    fn variants_without_a_tag(values in vec(partly(), 0..5), inside in vec(partly_inside(), 0..5)) {
        as_json(&values);
        as_json(&inside);
    }
}
