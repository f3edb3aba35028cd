//! The Rust face's reading side: any bytes are values or an error, and a value that was read is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use manycore::__private::{read_chunk, read_failure, write_chunk};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// One of every kind that serde knows.
#[derive(Serialize, Deserialize, PartialEq, Debug)]
enum Kind {
    Unit,
    New(Box<Kind>),
    Tuple(i8, u16, f64, char),
    Struct { text: String, bytes: Vec<u8>, maybe: Option<i64>, flag: bool },
    Deep(Vec<Kind>),
    Map(BTreeMap<String, u128>),
    Nothing(()),
}

fn check<T: DeserializeOwned + Serialize + 'static>(bytes: &[u8]) {
    let values: Vec<T> = read_chunk(bytes);
    let written = write_chunk(values);
    // Compared as bytes: a NaN is not equal to itself.
    let again: Vec<T> = read_chunk(&written);
    assert_eq!(written, write_chunk(again), "what was written is read as another value");
}

fuzz_target!(|data: &[u8]| {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 8 {
        0 => check::<Kind>(bytes),
        1 => check::<Vec<u64>>(bytes),
        2 => check::<(String, Vec<String>)>(bytes),
        3 => check::<Vec<f32>>(bytes),
        4 => check::<BTreeMap<u32, Vec<Option<bool>>>>(bytes),
        5 => check::<()>(bytes),
        6 => check::<Vec<()>>(bytes),
        _ => drop(std::hint::black_box(read_failure(bytes))),
    }
});
