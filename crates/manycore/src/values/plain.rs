//! A `Vec` of numbers that is an argument or a result as such: no serde for each element.
//!
//! Where a message has no segments, or the vector is short, its bytes go into the head.

use super::{Part, SEGMENT_FROM};
use crate::codec::{Reader, Run, Writer};
use crate::error::{Error, Kind, Result};
use bytemuck::Pod;
use manycore_engine::os::memory::prefer_huge_pages;
use std::any::Any;

/// From this many bytes on a copy asks for huge pages: its memory is new, and a page of the usual size
/// takes longer to come than to fill.
const HUGE: usize = 8 << 20;

macro_rules! for_each_number {
    ($vector:ident => $body:expr) => {
        for_each_number!($vector => $body; u8 f64 f32 i32 i64 u32 u64 usize isize u16 i16 i8 u128 i128)
    };
    ($vector:ident => $body:expr; $($number:ty)*) => {
        // Which one it is, if any, is known when the code is compiled: none of these tests is left of it.
        $(if let Some($vector) = $vector.downcast_mut::<Option<Vec<$number>>>() {
            return $body;
        })*
    };
}

/// Writes what is in `value`, an `Option` with something in it, if that is a vector of numbers. Says whether.
#[inline]
pub(crate) fn write_plain(value: &mut dyn Any, writer: &mut Writer) -> bool {
    for_each_number!(value => match value.take() {
        Some(items) => {
            write(items, writer);
            true
        }
        None => false,
    });
    false
}

/// Fills `value`, an empty `Option`, if it is for a vector of numbers. Says whether.
#[inline]
pub(crate) fn read_plain(value: &mut dyn Any, reader: &mut Reader<'_>) -> Result<bool> {
    for_each_number!(value => {
        *value = Some(read(reader)?);
        Ok(true)
    });
    Ok(false)
}

fn write<T: Pod + Send>(items: Vec<T>, writer: &mut Writer) {
    let bytes: &[u8] = bytemuck::cast_slice(&items);
    if bytes.len() < SEGMENT_FROM || !writer.has_parts() {
        writer.push_bytes(bytes);
    } else {
        writer.push_part(Part::vec(items));
    }
}

fn read<T: Pod>(reader: &mut Reader<'_>) -> Result<Vec<T>> {
    match reader.read_plain::<Vec<T>>()? {
        Run::Here(bytes) => copy(bytes),
        Run::Apart(piece) => copy(piece.bytes()),
    }
}

/// A vector of the elements whose bytes these are.
pub(crate) fn copy<T: Pod>(bytes: &[u8]) -> Result<Vec<T>> {
    if !bytes.len().is_multiple_of(size_of::<T>()) {
        let message = format!("{} bytes are no whole number of {}", bytes.len(), std::any::type_name::<T>());
        return Err(Error::new(Kind::Encoding, message));
    }
    // Aligned in a segment, mostly not in a head.
    Ok(match bytemuck::try_cast_slice::<u8, T>(bytes) {
        Ok(items) => {
            let mut vector = Vec::with_capacity(items.len());
            if bytes.len() >= HUGE {
                prefer_huge_pages(vector.spare_capacity_mut());
            }
            vector.extend_from_slice(items);
            vector
        }
        Err(_) => bytemuck::allocation::pod_collect_to_vec(bytes),
    })
}
