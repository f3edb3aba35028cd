//! Chunks and failures, there and back.

use super::*;
use crate::Slice;
use proptest::prelude::*;
use serde::de::{Deserializer, IgnoredAny};
use serde::ser::{SerializeMap, SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::BTreeMap;

#[test]
fn a_chunk_reads_back() {
    let mut bytes = Vec::new();
    begin(&mut bytes, 2);
    push(&mut bytes, &("one".to_owned(), 1u64)).unwrap();
    push(&mut bytes, &("two".to_owned(), u64::MAX)).unwrap();
    let mut reader = Reader::new(&bytes).unwrap();
    assert_eq!(reader.count, 2);
    assert_eq!(reader.read::<(String, u64)>().unwrap(), ("one".to_owned(), 1));
    assert_eq!(reader.read::<(String, u64)>().unwrap(), ("two".to_owned(), u64::MAX));
    assert!(reader.read::<(String, u64)>().unwrap_err().is_encoding());
}

#[test]
fn a_failure_reads_back() {
    let mut bytes = vec![1, 2, 3];
    let panic = Panic::new("boom".to_owned(), Some(Place::new("a.rs".to_owned(), 3, 5)), Some("main".to_owned()));
    write_failure(&Failure::panicked(panic.clone(), 7), &mut bytes).unwrap();
    let failure = read_failure(&bytes).unwrap();
    assert_eq!((failure.reason, failure.offset, failure.message.as_str()), (Reason::Panic, 7, "boom (at a.rs:3:5)"));
    assert_eq!(failure.panic, Some(panic));
    write_failure(&Failure::of(&Error::new(Kind::Encoding, "no"), 1), &mut bytes).unwrap();
    let failure = read_failure(&bytes).unwrap();
    assert_eq!((failure.reason, failure.message.as_str(), failure.panic), (Reason::Encoding, "no", None));
}

/// Reads the one value of a message.
fn read<T: serde::de::DeserializeOwned + 'static>(bytes: &[u8]) -> Result<T> {
    Reader::over(bytes).read()
}

fn written<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    push(&mut bytes, value).unwrap();
    bytes
}

#[test]
fn what_a_refusal_says() {
    #[derive(Serialize, Deserialize)]
    #[allow(dead_code)] // Read by serde alone.
    enum State {
        #[serde(skip_deserializing)]
        Begun,
        #[serde(skip)]
        Pending(Cell<u8>),
        Over(#[serde(deserialize_with = "even")] u8),
    }
    fn even<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<u8, D::Error> {
        match u8::deserialize(deserializer)? {
            odd if odd % 2 == 1 => Err(serde::de::Error::custom("must be even")),
            number => Ok(number),
        }
    }
    #[derive(Serialize, Deserialize)]
    struct Order {
        state: State,
        #[serde(skip_serializing_if = "is_zero")]
        count: u64,
    }
    fn is_zero(count: &u64) -> bool {
        *count == 0
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Flat {
        #[serde(flatten)]
        map: BTreeMap<String, u128>,
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Bad {
        name: u8,
        #[serde(flatten)]
        number: u64,
    }
    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Number(u64),
    }
    fn said<T: Serialize + DeserializeOwned + 'static>(value: T) -> String {
        attributes::travel(&[value]).pop().unwrap().err().unwrap()
    }
    let order = |state, count| Order { state, count };
    for (said, parts) in [
        (said(order(State::Over(1), 1)), &["Order", "variant `Over` of `State`: must be even"][..]),
        (said(order(State::Over(2), 0)), &["Order", "missing field `count`", "#[serde(default)]"]),
        (
            said(order(State::Pending(Cell::new(1)), 1)),
            &["cannot be written", "field `state` of `Order`", "State::Pending", "take #[serde(skip)] off"],
        ),
        (said(order(State::Begun, 1)), &["field `state` of `Order`", "`Begun`", "skip_deserializing"]),
        (said(Flat { map: [("a".to_owned(), u128::MAX)].into() }), &["Flat", "field `a`", "64 bits", "serde(with"]),
        (said(Bad { name: 1, number: 2 }), &["Bad", "can only flatten", "take #[serde(flatten)] off"]),
        (said(Tagged::Number(1)), &["Tagged::Number", "serde(content"]),
    ] {
        parts.iter().for_each(|part| assert!(said.contains(part), "{part} is not in: {said}"));
    }
}

#[test]
fn rows_of_a_length_that_nobody_knows() {
    struct Odd(Vec<u64>, Option<usize>);
    impl Serialize for Odd {
        fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            let mut row = serializer.serialize_seq(self.1)?;
            self.0.iter().try_for_each(|item| row.serialize_element(item))?;
            row.end()
        }
    }
    struct Entries(Vec<u64>, Option<usize>);
    impl Serialize for Entries {
        fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            let mut map = serializer.serialize_map(self.1)?;
            self.0.iter().try_for_each(|item| map.serialize_entry(item, &(item, "x")))?;
            map.end()
        }
    }
    for count in [0, 1, 7, 8, 15, 16, 200] {
        let items: Vec<u64> = (0..count).map(|n| n * n * n).collect();
        // Those that announce another number than they have are put right.
        for announced in [None, Some(0), Some(3), Some(count as usize), Some(1000)] {
            let bytes = written(&(Odd(items.clone(), announced), Entries(items.clone(), announced), 7u8));
            type Back = (Vec<u64>, BTreeMap<u64, (u64, String)>, u8);
            let (row, map, seven) = read::<Back>(&bytes).unwrap();
            assert!(row == items && seven == 7 && map.len() == items.len(), "{count} {announced:?}");
            let any = read::<(serde_json::Value, IgnoredAny, IgnoredAny)>(&bytes).unwrap();
            assert_eq!(any.0, serde_json::to_value(&items).unwrap());
        }
    }
    // What is shorter or longer than its reader's is no value.
    assert!(read::<[u8; 2]>(&written(&[1u8; 3])).is_err() && read::<[u8; 4]>(&written(&[1u8; 3])).is_err());
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum List {
    End,
    Next(Box<List>),
}

#[test]
fn depth_ends_before_the_stack() {
    /// A list of so many, without the stack.
    fn list(len: usize) -> List {
        (0..len).fold(List::End, |list, _| List::Next(Box::new(list)))
    }
    /// And gone without it.
    fn unravel(mut list: List) -> usize {
        let mut len = 0;
        while let List::Next(next) = list {
            (list, len) = (*next, len + 1);
        }
        len
    }
    let short = list(100);
    assert_eq!(unravel(read(&written(&short)).unwrap()), 100);
    let long = list(1_000_000);
    let error = push(&mut Vec::new(), &long).unwrap_err().to_string();
    assert!(error.contains("too deep"), "{error}");
    unravel(long);
    // A hostile message of each kind of value that has another one in it.
    let next = [[format::VARIANT, 1, 4].as_slice(), b"Next"].concat();
    let rows = [format::ROW + 1];
    for one in [&next[..], &rows, &[format::SOME], &[format::MAP + 1, 1], &[format::OPEN_ROW]] {
        let bytes = one.repeat(300_000);
        assert!(read::<List>(&bytes).is_err_and(|error| error.is_encoding()));
        assert!(read::<serde_json::Value>(&bytes).is_err());
        assert!(read::<IgnoredAny>(&bytes).is_err());
        assert!(read::<Nested>(&bytes).is_err());
    }
    let whole = [next.repeat(300_000).as_slice(), &written(&List::End)].concat();
    assert!(read::<IgnoredAny>(&whole).is_ok());
    assert!(read::<List>(&whole).unwrap_err().to_string().contains("too deep"));
}

/// Itself in everything that may hold it.
#[derive(Debug, Serialize, Deserialize)]
enum Nested {
    Rows(Vec<Nested>),
    Maps(BTreeMap<u8, Nested>),
    Maybe(Option<Box<Nested>>),
    Named { one: Box<Nested>, two: (u8, Box<Nested>) },
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes of any kind: an error or a value, and no memory that they do not pay for.
    #[test]
    fn nonsense_is_an_error_or_a_value(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80u8..0xf0], 0..60),
    ) {
        let _ = read::<serde_json::Value>(&bytes);
        let _ = read::<(Nested, Vec<()>, Option<Option<String>>)>(&bytes);
        let _ = read::<Vec<BTreeMap<String, List>>>(&bytes);
        let any = read::<IgnoredAny>(&bytes).is_ok();
        let mut reader = Reader::over(&bytes);
        let spot = reader.spot();
        let _ = reader.read::<Vec<[u64; 4]>>();
        prop_assert_eq!(reader.pass(spot, 1).is_ok(), any);
    }
}

#[test]
fn a_length_costs_nothing_before_its_bytes() {
    for tag in [format::LONG_ROW, format::LONG_MAP, format::LONG_STRUCTURE, format::LONG_TEXT, format::BYTES] {
        let bytes = [&[tag][..], &[0xff; 8], &[0x7f], &[0; 20]].concat();
        assert!(read::<Vec<u64>>(&bytes).is_err() && read::<String>(&bytes).is_err());
        assert!(read::<serde_json::Value>(&bytes).is_err() && read::<IgnoredAny>(&bytes).is_err());
    }
}

#[test]
fn a_name_is_written_once() {
    #[derive(Serialize)]
    struct Pair {
        a_rather_long_name: u8,
        another_rather_long_name: u8,
    }
    let mut writer = Writer::default();
    writer.begin(3);
    let mut grows = |count: usize| {
        let before = writer.len();
        (0..count).for_each(|_| writer.push(&Pair { a_rather_long_name: 1, another_rather_long_name: 2 }).unwrap());
        writer.len() - before
    };
    assert_eq!((grows(1), grows(10)), (1 + 2 * 3 + 18 + 24, 50));
}

#[test]
fn other_formats_inside_take_no_notice() {
    /// Writes a slice as JSON in a text.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Json(#[serde(with = "json")] Slice<u8>);
    mod json {
        use super::*;

        pub(super) fn serialize<S: Serializer>(row: &Slice<u8>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
            serializer.serialize_str(&serde_json::to_string(row).unwrap())
        }

        pub(super) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> std::result::Result<Slice<u8>, D::Error> {
            serde_json::from_str(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
        }
    }
    let row: Slice<u8> = vec![7; 100_000].into();
    let mut writer = Writer::in_parts();
    writer.begin(1);
    writer.push(&(row.clone(), Json(row.clone()))).unwrap();
    assert_eq!(writer.message().segments.len(), 1);
    assert_eq!(read::<Json>(&written(&Json(row.clone()))).unwrap().0, row);
}
