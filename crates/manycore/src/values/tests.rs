//! Values of any shape through a real region, and damaged messages.

use super::{Arguments, Bytes, Slice};
use crate::codec::{Reader, Writer, head_of};
use crate::error::Result;
use manycore_engine::pool::{
    Function, Job, JobOptions, Keeping, Message, Next, Payload, Pool, Segments, Verdict, Work, Worker,
};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Both halves of a pool, in this process.
struct Line {
    pool: Arc<Pool>,
    job: Job,
    function: Arc<Function>,
    worker: Worker,
}

impl Line {
    fn new() -> Line {
        let pool = Pool::new(1).unwrap();
        let bell = pool.bell().try_clone_to_owned().unwrap();
        let worker = Worker::sit(Arc::clone(pool.region()), pool.take_seat().unwrap(), bell).unwrap();
        Line {
            job: pool.open_job(JobOptions::default()),
            function: pool.function(Message::of(b"f"), true).unwrap(),
            pool,
            worker,
        }
    }

    /// Sends a message to the worker and back, and gives what has arrived there and here.
    fn send(&mut self, writer: &mut Writer) -> (Payload, Payload) {
        let work =
            Work { index: 0, mode: 0, keeps: Keeping::Nothing, function: &self.function, message: writer.message() };
        self.pool.submit(&self.job, work).unwrap();
        let Ok(Next::Task(mut task)) = self.worker.wait() else { panic!("no task") };
        let there = task.take_body();
        self.worker.finish(&task, Verdict::Returned, writer.message()).unwrap();
        self.pool.collect().unwrap();
        let mut outcomes = VecDeque::new();
        self.job.take(&mut outcomes);
        let manycore_engine::pool::Answer::Returned(here) = outcomes.pop_front().unwrap().answer else {
            panic!("no answer")
        };
        (there, here)
    }
}

fn read<Args: Arguments>(payload: &Payload) -> Result<Vec<Args>> {
    let head = head_of(payload);
    let mut reader = Reader::in_parts(&head, Segments::of(payload))?;
    (0..reader.count).map(|_| Args::read(&mut reader)).collect()
}

fn write<Args: Arguments>(chunk: Vec<Args>) -> Writer {
    let mut writer = Writer::in_parts();
    writer.begin(chunk.len());
    chunk.into_iter().for_each(|arguments| arguments.write(&mut writer).unwrap());
    writer
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Shape {
    Nothing,
    Text(String),
    Rows(Vec<Slice<u16>>),
    Named { bytes: Bytes, floats: Option<Slice<f64>>, map: BTreeMap<i32, Vec<u8>> },
}

/// A length from none to several segments' worth, mostly near where something changes.
fn length() -> impl Strategy<Value = usize> {
    prop_oneof![0..200usize, (super::SEGMENT_FROM - 70)..(super::SEGMENT_FROM + 70), 0..300_000usize]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    (length(), any::<u8>()).prop_map(|(len, first)| (0..len).map(|n| (n as u8).wrapping_add(first)).collect())
}

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![
        Just(Shape::Nothing),
        "\\PC{0,40}".prop_map(Shape::Text),
        prop::collection::vec(bytes(), 0..4)
            .prop_map(|rows| rows.into_iter().map(|row| row.into_iter().map(u16::from).collect()).collect())
            .prop_map(Shape::Rows),
        (
            bytes(),
            prop::option::of(bytes()),
            prop::collection::btree_map(any::<i32>(), prop::collection::vec(any::<u8>(), 0..9), 0..5)
        )
            .prop_map(|(bytes, floats, map)| Shape::Named {
                bytes: bytes.into(),
                floats: floats.map(|floats| floats.into_iter().map(f64::from).collect()),
                map,
            }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    /// What is written is read, there and back.
    #[test]
    fn values_travel(chunk in prop::collection::vec((shape(), bytes(), any::<u64>()), 0..4)) {
        let chunk: Vec<(Shape, Vec<i8>, u64)> = chunk
            .into_iter()
            .map(|(shape, bytes, number)| (shape, bytes.into_iter().map(|byte| byte as i8).collect(), number))
            .collect();
        let (there, here) = Line::new().send(&mut write(chunk.clone()));
        prop_assert!(read::<(Shape, Vec<i8>, u64)>(&there).unwrap() == chunk);
        prop_assert!(read::<(Shape, Vec<i8>, u64)>(&here).unwrap() == chunk);
    }

    /// A damaged head, read with and without the segments it speaks of: an error or other
    /// values, never more.
    #[test]
    fn damage_is_an_error_or_a_value(
        shape in shape(),
        numbers in bytes(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut writer = write(vec![(shape, numbers)]);
        let (there, _) = Line::new().send(&mut writer);
        let mut head = head_of(&there).into_owned();
        for (at, value) in damage {
            let at = at.index(head.len());
            head[at] = value;
        }
        let without = Payload::Inline(Box::default());
        for payload in [&there, &without] {
            for head in [&head[..], &head[..cut.index(head.len())]] {
                if let Ok(mut reader) = Reader::in_parts(head, Segments::of(payload))
                    && let Ok((shape, numbers)) = <(Shape, Vec<u8>)>::read(&mut reader)
                {
                    // What was read can be used.
                    let shown = format!("{shape:?}");
                    prop_assert!(shown.len() + numbers.len() > 0);
                }
            }
        }
    }
}

/// Pieces go forward only, and each stays inside of its message.
#[test]
fn segments_end_where_the_message_does() {
    let row: Slice<u8> = vec![7; 100_000].into();
    let (there, _) = Line::new().send(&mut write(vec![(row.clone(), row)]));
    let mut segments = Segments::of(&there);
    let (mut first, second) = (segments.next(100_000).unwrap(), segments.next(100_000).unwrap());
    first.bytes_mut().fill(1);
    assert!(second.bytes().iter().all(|byte| *byte == 7));
    assert!(segments.next(100).is_err() && segments.next(usize::MAX).is_err());
    let mut segments = Segments::of(&there);
    assert!(segments.next(usize::MAX - 10).is_err() && segments.next(there.len()).is_err());
}

/// Slices share what they have until somebody writes.
#[test]
fn slices_of_slices() {
    let (there, _) = Line::new().send(&mut write(vec![((0..50_000u32).collect::<Slice<u32>>(),)]));
    let [(whole,)] = <[(Slice<u32>,); 1]>::try_from(read(&there).unwrap()).unwrap();
    let mut parts: Vec<Slice<u32>> = whole.chunks_of(20_000).collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [20_000, 20_000, 10_000]);
    parts[1][0] = 1;
    assert_eq!((whole[20_000], parts[1][0], parts[1][1], parts[2][0]), (20_000, 1, 20_001, 40_000));
    assert_eq!(parts[2].slice(1..=2).into_vec(), [40_001, 40_002]);
    assert!(parts[0].slice(5..5).is_empty() && parts[0].slice(..)[..] == whole[..20_000]);
    assert!(std::panic::catch_unwind(AssertUnwindSafe(|| whole.slice(40_000..50_001))).is_err());
    assert!(std::panic::catch_unwind(AssertUnwindSafe(|| whole.slice(0..=usize::MAX))).is_err());
}

/// Other formats know nothing of segments.
#[test]
fn a_slice_in_another_format_is_its_bytes() {
    let row: Slice<u16> = (0..60_000).collect();
    let bytes = serde_json::to_vec(&row).unwrap();
    assert!(serde_json::from_slice::<Slice<u16>>(&bytes).unwrap() == row);
    assert!(serde_json::from_str::<Slice<u16>>("[1, 1, 1]").is_err());
}
