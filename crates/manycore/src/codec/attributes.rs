//! Every attribute of serde, over values of any kind: what comes back is what serde_json makes of the same
//! values, and never another value.

use super::{Reader, Writer};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// What comes back of each of `values`, which travel in one message. None: it was not written.
pub(super) fn travel<T: Serialize + DeserializeOwned + 'static>(values: &[T]) -> Vec<Result<T, String>> {
    let mut writer = Writer::default();
    writer.begin(values.len());
    let mut written = Vec::new();
    for value in values {
        let mark = writer.mark();
        let pushed = writer.push(value).map_err(|error| error.to_string());
        if pushed.is_err() {
            writer.reset(mark);
        }
        written.push(pushed);
    }
    let mut bytes = Vec::new();
    writer.swap_head(&mut bytes);
    let mut reader = Reader::new(&bytes).unwrap();
    let read = |pushed: Result<(), String>| {
        pushed?;
        let spot = reader.spot();
        let value = reader.read_value::<T>();
        if value.is_err() {
            reader.pass(spot, 1).unwrap();
        }
        value.map_err(|error| error.to_string())
    };
    let values = written.into_iter().map(read).collect();
    assert!(reader.rest().is_empty());
    values
}

/// Values come back as from serde_json, or fail where they fail there.
pub(super) fn as_json<T: Serialize + DeserializeOwned + PartialEq + Debug + 'static>(values: &[T]) {
    for (value, ours) in values.iter().zip(travel(values)) {
        let json = serde_json::to_string(value).and_then(|text| serde_json::from_str::<T>(&text));
        match (json, ours) {
            (Ok(json), Ok(ours)) => assert_eq!(ours, json),
            (Err(_), Err(_)) => {}
            (json, ours) => panic!("{value:?}: {json:?} from serde_json, {ours:?} from here"),
        }
    }
}

/// Values come back as they were.
pub(super) fn as_they_were<T: Serialize + DeserializeOwned + PartialEq + Debug + 'static>(values: &[T]) {
    for (value, ours) in values.iter().zip(travel(values)) {
        assert_eq!(&ours.unwrap(), value);
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Skipping {
    Accepted,
    #[serde(skip)]
    Pending(Cell<u8>),
    Wrong,
    #[serde(skip_serializing)]
    Silent(u8),
    Crashed {
        code: i32,
        #[serde(skip)]
        seen: u8,
    },
    #[serde(skip_deserializing)]
    Deaf,
    Pair(u8, #[serde(skip)] u16, String),
}

fn skipping() -> impl Strategy<Value = Skipping> {
    prop_oneof![
        Just(Skipping::Accepted),
        any::<u8>().prop_map(|x| Skipping::Pending(Cell::new(x))),
        Just(Skipping::Wrong),
        any::<u8>().prop_map(Skipping::Silent),
        (any::<i32>(), any::<u8>()).prop_map(|(code, seen)| Skipping::Crashed { code, seen }),
        Just(Skipping::Deaf),
        (any::<u8>(), any::<u16>(), "\\PC{0,9}").prop_map(|(a, b, c)| Skipping::Pair(a, b, c)),
    ]
}

fn answer() -> u8 {
    42
}

fn is_even(number: &u8) -> bool {
    number.is_multiple_of(2)
}

mod as_text {
    use super::*;

    pub(super) fn serialize<S: Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

fn doubled<S: Serializer>(number: &u8, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(u16::from(*number) * 2)
}

fn halved<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    Ok((u16::deserialize(deserializer)? / 2) as u8)
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, expecting = "a lot of fields")]
struct Fields {
    #[serde(skip_serializing_if = "Option::is_none")]
    first_one: Option<u8>,
    #[serde(rename = "type")]
    kind: u8,
    #[serde(alias = "old", alias = "older")]
    new: String,
    #[serde(default, skip_serializing_if = "is_even")]
    odd: u8,
    #[serde(default = "answer", skip_serializing)]
    unwritten: u8,
    #[serde(skip_deserializing, default = "answer")]
    unread: u8,
    #[serde(skip)]
    skipped: u8,
    #[serde(with = "as_text")]
    wide: u128,
    #[serde(serialize_with = "doubled", deserialize_with = "halved")]
    twice: u8,
    #[serde(rename(serialize = "last", deserialize = "last"))]
    end: (i8, char),
}

/// As above, and nothing refuses the field that is written and not read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Lenient {
    #[serde(skip_serializing_if = "String::is_empty")]
    text: String,
    #[serde(skip_deserializing)]
    unread: Vec<Option<Fields>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deep: Option<Box<Lenient>>,
    last: i64,
}

fn fields() -> impl Strategy<Value = Fields> {
    let few = (option::of(any::<u8>()), any::<u8>(), "\\PC{0,40}", any::<u8>(), any::<u8>());
    (few, any::<(u8, u8, u128, u8, (i8, char))>()).prop_map(
        |((first_one, kind, new, odd, unwritten), (unread, skipped, wide, twice, end))| Fields {
            first_one,
            kind,
            new,
            odd,
            unwritten,
            unread,
            skipped,
            wide,
            twice,
            end,
        },
    )
}

fn lenient() -> impl Strategy<Value = Lenient> {
    let leaf = (".{0,3}", vec(option::of(fields()), 0..3), any::<i64>()).prop_map(|(text, unread, last)| Lenient {
        text,
        unread,
        deep: None,
        last,
    });
    leaf.prop_recursive(4, 8, 1, |inner| {
        (inner, any::<i64>()).prop_map(|(inner, last)| Lenient {
            deep: Some(Box::new(inner)),
            last,
            ..Lenient::default()
        })
    })
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    before: u8,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    choice: Internal,
    #[serde(flatten)]
    maybe: Option<Other>,
    after: String,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Inner {
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<i64>,
    address: IpAddr,
    row: Vec<(u16, bool)>,
    kind: Plain,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Other {
    other: f64,
    time: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Plain {
    Unit,
    New(Option<i32>),
    Pair(u8, String),
    Named { a: Option<u8>, b: Vec<u8> },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "tag", rename_all = "snake_case", rename_all_fields = "UPPERCASE")]
enum Internal {
    JustThis,
    Wrapped(Pair),
    Named {
        text: String,
        deep: Plain,
        bytes: Vec<u8>,
    },
    /// Refused in every format: a number has no place for a tag.
    Number(u8),
    #[serde(other)]
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "t", content = "c")]
enum Adjacent {
    Unit,
    New(Box<Internal>),
    Pair(u8, Option<String>),
    Named { a: char, b: Plain },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Nothing,
    Flag(bool),
    Whole(u64),
    Signed(i64),
    Text(String),
    Row(Vec<Untagged>),
    Named { only: Plain },
    Map(BTreeMap<String, Plain>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "struct")]
struct Pair {
    one: u8,
    two: Option<String>,
}

fn plain() -> impl Strategy<Value = Plain> {
    prop_oneof![
        Just(Plain::Unit),
        any::<Option<i32>>().prop_map(Plain::New),
        any::<(u8, String)>().prop_map(|(a, b)| Plain::Pair(a, b)),
        any::<(Option<u8>, Vec<u8>)>().prop_map(|(a, b)| Plain::Named { a, b }),
    ]
}

fn internal() -> impl Strategy<Value = Internal> {
    prop_oneof![
        Just(Internal::JustThis),
        any::<(u8, Option<String>)>().prop_map(|(one, two)| Internal::Wrapped(Pair { one, two })),
        (any::<(String, Vec<u8>)>(), plain()).prop_map(|((text, bytes), deep)| Internal::Named { text, deep, bytes }),
        any::<u8>().prop_map(Internal::Number),
    ]
}

fn adjacent() -> impl Strategy<Value = Adjacent> {
    prop_oneof![
        Just(Adjacent::Unit),
        internal().prop_map(|inner| Adjacent::New(Box::new(inner))),
        any::<(u8, Option<String>)>().prop_map(|(a, b)| Adjacent::Pair(a, b)),
        (any::<char>(), plain()).prop_map(|(a, b)| Adjacent::Named { a, b }),
    ]
}

fn untagged() -> impl Strategy<Value = Untagged> {
    let leaf = prop_oneof![
        Just(Untagged::Nothing),
        any::<bool>().prop_map(Untagged::Flag),
        any::<u64>().prop_map(Untagged::Whole),
        any::<i64>().prop_map(Untagged::Signed),
        any::<String>().prop_map(Untagged::Text),
        plain().prop_map(|only| Untagged::Named { only }),
        btree_map(any::<String>(), plain(), 0..3).prop_map(Untagged::Map),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| vec(inner, 0..3).prop_map(Untagged::Row))
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        (-1e9..1e9f64).prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Into::into),
            btree_map(any::<String>(), inner, 0..4)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}

fn flat() -> impl Strategy<Value = Flat> {
    let inner = (any::<(Option<i64>, u32, Vec<(u16, bool)>)>(), plain()).prop_map(|((x, address, row), kind)| Inner {
        x,
        address: Ipv4Addr::from_bits(address).into(),
        row,
        kind,
    });
    let maybe = option::of(
        (-1e6..1e6f64, 0..1u64 << 40).prop_map(|(other, seconds)| Other { other, time: Duration::new(seconds, 7) }),
    );
    let rest = btree_map("r[a-z]{1,9}", json(), 0..3);
    (any::<(u8, String)>(), inner, internal(), maybe, rest)
        .prop_map(|((before, after), inner, choice, maybe, rest)| Flat { before, inner, choice, maybe, after, rest })
}

/// A type of somebody else, without serde.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Foreign {
    seconds: u64,
    hidden: Cell<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Foreign")]
struct ForeignDef {
    #[serde(getter = "Foreign::seconds")]
    seconds: u64,
}

impl Foreign {
    fn seconds(&self) -> u64 {
        self.seconds
    }
}

impl From<ForeignDef> for Foreign {
    fn from(def: ForeignDef) -> Foreign {
        Foreign { seconds: def.seconds, hidden: Cell::new(0) }
    }
}

/// Read and written as another type, which may be refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
struct Positive(i64);

impl TryFrom<i64> for Positive {
    type Error = String;

    fn try_from(number: i64) -> Result<Positive, String> {
        if number > 0 { Ok(Positive(number)) } else { Err(format!("must be positive, not {number}")) }
    }
}

impl From<Positive> for i64 {
    fn from(number: Positive) -> i64 {
        number.0
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "(u8, u8)", into = "(u8, u8)")]
struct Sum(u16);

impl From<(u8, u8)> for Sum {
    fn from((high, low): (u8, u8)) -> Sum {
        Sum(u16::from_be_bytes([high, low]))
    }
}

impl From<Sum> for (u8, u8) {
    fn from(sum: Sum) -> (u8, u8) {
        sum.0.to_be_bytes().into()
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Transparent {
    only: Vec<Option<u8>>,
    #[serde(skip)]
    none: (),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(bound(serialize = "T: Serialize", deserialize = "T: DeserializeOwned"))]
struct Bounded<T>(T, Cow<'static, str>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Converted {
    #[serde(with = "ForeignDef")]
    foreign: Foreign,
    positive: Positive,
    sum: Sum,
    transparent: Transparent,
    bounded: Bounded<Option<Plain>>,
    cow: Cow<'static, [u8]>,
    unit: (),
    nothing: Nothing,
    map: BTreeMap<char, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Nothing;

fn converted() -> impl Strategy<Value = Converted> {
    (
        any::<(u64, u8, i64, u16, Vec<Option<u8>>, String, Vec<u8>)>(),
        option::of(plain()),
        btree_map(any::<char>(), any::<u64>(), 0..9),
    )
        .prop_map(|((seconds, hidden, positive, sum, only, text, bytes), plain, map)| Converted {
            foreign: Foreign { seconds, hidden: Cell::new(hidden) },
            positive: Positive(positive),
            sum: Sum(sum),
            transparent: Transparent { only, none: () },
            bounded: Bounded(plain, text.into()),
            cow: bytes.into(),
            unit: (),
            nothing: Nothing,
            map,
        })
}

/// What JSON has no word for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Exact {
    options: Option<Option<Option<u8>>>,
    units: (Option<()>, Option<Nothing>, Option<Option<()>>),
    wide: (u128, i128, Option<i128>),
    keys: BTreeMap<(i8, Option<char>), BTreeMap<Vec<u8>, f32>>,
    variants: BTreeMap<Key, Option<Key>>,
    bits: (Bits, Bits),
    result: Result<u8, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Key {
    A,
    B(Option<()>),
    C { d: [u8; 3] },
}

/// A number that is compared by its bits.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Bits(f64);

impl PartialEq for Bits {
    fn eq(&self, other: &Bits) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

fn exact() -> impl Strategy<Value = Exact> {
    let key =
        prop_oneof![Just(Key::A), any::<Option<()>>().prop_map(Key::B), any::<[u8; 3]>().prop_map(|d| Key::C { d })];
    let keys = btree_map(any::<(i8, Option<char>)>(), btree_map(any::<Vec<u8>>(), -1e9..1e9f32, 0..3), 0..4);
    (
        any::<(Option<Option<Option<u8>>>, (Option<()>, Option<()>, Option<Option<()>>), (u128, i128, Option<i128>))>(),
        keys,
        btree_map(key.clone(), option::of(key), 0..3),
        any::<(u64, u64, Result<u8, String>)>(),
    )
        .prop_map(|((options, (one, two, three), wide), keys, variants, (a, b, result))| Exact {
            options,
            units: (one, two.map(|()| Nothing), three),
            wide,
            keys,
            variants,
            bits: (Bits(f64::from_bits(a)), Bits(f64::from_bits(b))),
            result,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn skipped_variants(values in vec(skipping(), 0..6)) {
        as_json(&values);
    }

    #[test]
    fn attributes_of_fields(values in vec(fields(), 0..5), lenient in vec(lenient(), 0..5)) {
        as_json(&values);
        as_json(&lenient);
    }

    #[test]
    fn flattened(values in vec(flat(), 0..4)) {
        as_json(&values);
    }

    #[test]
    fn tagged(internal in vec(internal(), 0..5), adjacent in vec(adjacent(), 0..5), plain in vec(plain(), 0..5)) {
        as_json(&internal);
        as_json(&adjacent);
        as_json(&plain);
    }

    #[test]
    fn untagged_values(values in vec(untagged(), 0..5)) {
        as_json(&values);
    }

    #[test]
    fn values_without_a_type(values in vec(json(), 0..4)) {
        as_they_were(&values);
    }

    #[test]
    fn conversions(values in vec(converted(), 0..5)) {
        as_json(&values);
    }

    #[test]
    fn more_than_json_knows(values in vec(exact(), 0..4)) {
        as_they_were(&values);
    }
}
