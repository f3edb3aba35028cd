//! The door to the codec for `fuzz/`, which hands it any bytes. Built with `--cfg fuzzing` only.

use crate::codec::{self, Reader, Writer};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The values of a chunk, until one cannot be read.
pub fn read_chunk<T: DeserializeOwned + 'static>(bytes: &[u8]) -> Vec<T> {
    let Ok(mut reader) = Reader::new(bytes) else { return Vec::new() };
    // As many as a caller would have asked for; the number in the message is not believed there either.
    (0..reader.count.min(1000)).map_while(|_| reader.read_value().ok()).collect()
}

/// A chunk of these values.
pub fn write_chunk<T: Serialize + 'static>(values: Vec<T>) -> Vec<u8> {
    let (mut writer, mut bytes) = (Writer::default(), Vec::new());
    writer.begin(values.len());
    values.into_iter().for_each(|value| writer.push_value(value).expect("what was read can be written"));
    writer.swap_head(&mut bytes);
    bytes
}

/// A worker's account of why a task failed, read and shown.
pub fn read_failure(bytes: &[u8]) -> Option<String> {
    codec::read_failure(bytes).ok().map(|failure| format!("{failure:?}"))
}
