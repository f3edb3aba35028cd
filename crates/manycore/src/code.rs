//! How a task is named to another process, and brought up there.
//!
//! | byte | what |
//! |---|---|
//! | 0 | 0: registered; 1: by its record |
//! | 1 to 8 | the registered id, or the distance of the record |
//! | from 9 | what it captures, if it captures anything |

use crate::codec::{Reader, Writer};
use crate::error::{Error, Kind, Result};
use crate::failure::{self, Failure};
use crate::record;
use crate::registry::Registry;
use crate::task::Task;
use crate::values::Arguments;
use serde::Serialize;
use std::any::TypeId;
use std::cell::Cell;
use std::marker::PhantomData;

/// A task's name for other processes.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    /// What it is called in messages.
    pub(crate) name: &'static str,
    /// What another process needs in order to run it.
    pub(crate) bytes: Vec<u8>,
    /// Whether it captures something: `bytes` then are good for this value only.
    pub(crate) has_captures: bool,
}

/// A task that can be run here.
pub trait Call {
    /// Runs it on every item of a chunk, each the tuple of its arguments, and writes
    /// the chunk of results.
    fn run_chunk(
        &self,
        input: &mut Reader<'_>,
        output: &mut Writer,
        chunk: Chunk<'_>,
    ) -> std::result::Result<(), Failure>;

    /// As above, where a chunk is nothing but bytes.
    fn run(&self, input: &[u8], output: &mut Vec<u8>) -> std::result::Result<(), Failure> {
        let mut input = Reader::new(input).map_err(|error| Failure::of(&error, 0))?;
        let mut writer = Writer::default();
        writer.swap_head(output);
        let ran = self.run_chunk(&mut input, &mut writer, Chunk::default());
        writer.swap_head(output);
        ran
    }
}

/// How a chunk is run.
#[derive(Clone, Copy, Default)]
pub struct Chunk<'a> {
    /// Whether every item is run and has a result of its own, a value or a failure. Otherwise the
    /// first failure is the chunk's, and ends it.
    pub(crate) each: bool,
    /// Told the number of each item but the first before it is run.
    pub(crate) reach: Option<&'a dyn Fn(usize)>,
}

impl Code {
    /// The name of `task`.
    pub(crate) fn of<Args: 'static, F: Task<Args>>(task: &F) -> Result<Code> {
        let captures = task.captures()?;
        let (kind, number) = match Registry::get()?.by_type(TypeId::of::<F>()) {
            Some(entry) => (0, entry.id),
            None => (1, record::offset::<F, Args>()?),
        };
        let mut bytes = Vec::with_capacity(9);
        bytes.push(kind);
        bytes.extend(number.to_le_bytes());
        bytes.extend(captures.iter().flatten());
        Ok(Code { name: F::name(), bytes, has_captures: captures.is_some() })
    }
}

/// Brings up the task that `bytes` name.
pub(crate) fn open(bytes: &[u8]) -> Result<Box<dyn Call>> {
    let unknown = || Error::new(Kind::System, "another process names a task that this program does not have");
    let (kind, rest) = bytes.split_first().ok_or_else(unknown)?;
    let (number, captures) = rest.split_first_chunk().ok_or_else(unknown)?;
    let number = u64::from_le_bytes(*number);
    match kind {
        0 => Ok((Registry::get()?.by_id(number).ok_or_else(unknown)?.open)()),
        1 => record::at(number).ok_or_else(unknown)?(captures),
        _ => Err(unknown()),
    }
}

/// A task that takes `Args`, up and running.
pub(crate) struct Ready<F, Args> {
    task: F,
    arguments: PhantomData<fn(Args)>,
}

impl<F, Args> Ready<F, Args> {
    pub(crate) fn new(task: F) -> Ready<F, Args> {
        Ready { task, arguments: PhantomData }
    }
}

impl<F, Args> Call for Ready<F, Args>
where
    F: Task<Args, Output: Serialize + 'static>,
    Args: Arguments,
{
    fn run_chunk(
        &self,
        input: &mut Reader<'_>,
        output: &mut Writer,
        chunk: Chunk<'_>,
    ) -> std::result::Result<(), Failure> {
        let count = input.count;
        output.begin(count);
        let (done, reading) = (Cell::new(0), Cell::new(None));
        while done.get() < count {
            let item = Cell::new(output.mark());
            // One net for all items up to the next failure: it costs as much as a small task.
            let ran = failure::catch(|| {
                while done.get() < count {
                    if let (Some(reach), false) = (chunk.reach, done.get() == 0) {
                        reach(done.get());
                    }
                    item.set(output.mark());
                    reading.set(Some(input.spot()));
                    let arguments = Args::read(input)?;
                    reading.set(None);
                    if chunk.each {
                        output.push(&true)?;
                    }
                    output.push_value(self.task.call(arguments))?;
                    done.set(done.get() + 1);
                }
                Ok(())
            });
            let failure = match ran {
                Ok(Ok(())) => break,
                Ok(Err(error)) => Failure::of(&error, done.get()),
                Err(panic) => Failure::panicked(panic, done.get()),
            };
            if !chunk.each {
                return Err(failure);
            }
            output.reset(item.get());
            // Only where the bytes are damaged, the items behind it cannot be read either.
            let is_lost = reading.take().is_some_and(|spot| input.pass(spot, Args::COUNT).is_err());
            let until = if is_lost { count } else { done.get() + 1 };
            while done.get() < until {
                let failure = Failure { offset: done.get(), ..failure.clone() };
                let written = output.push(&false).and_then(|()| output.push_failure(&failure));
                written.map_err(|error| Failure::of(&error, done.get()))?;
                done.set(done.get() + 1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure;
    use serde::de::DeserializeOwned;

    fn run<Args: Arguments, F: Task<Args>>(given: &F, arguments: Args) -> Result<F::Output>
    where
        F::Output: DeserializeOwned,
    {
        let (mut input, mut output) = (Vec::new(), Vec::new());
        let mut writer = Writer::default();
        writer.begin(1);
        arguments.write(&mut writer)?;
        writer.swap_head(&mut input);
        open(&Code::of(given)?.bytes)?.run(&input, &mut output).expect("a result");
        Reader::new(&output)?.read()
    }

    fn double(x: u32) -> u32 {
        2 * x
    }

    fn longest<T: AsRef<str>>(words: Vec<T>) -> usize {
        words.iter().map(|word| word.as_ref().len()).max().unwrap_or(0)
    }

    #[test]
    fn functions_and_closures_come_up() {
        assert_eq!(run(&double, (21,)).unwrap(), 42);
        assert_eq!(run(&longest::<String>, (vec!["a".to_owned(), "bcd".to_owned()],)).unwrap(), 3);
        assert_eq!(run(&|x: u32| x + 1, (1,)).unwrap(), 2);
        assert_eq!(run(&|x: u32| x + 2, (1,)).unwrap(), 3);
        assert_eq!(run(&|a: u8, b: String| format!("{a}{b}"), (1, "x".to_owned())).unwrap(), "1x");
        assert_eq!(run(&|| "nothing".to_owned(), ()).unwrap(), "nothing");
    }

    #[test]
    fn captures_come_along() {
        let (factor, words) = (3, vec!["a", "b"].into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(run(&closure!(move(factor) |x: u32| factor * x), (7,)).unwrap(), 21);
        let given = closure!(move(factor, words) |x: usize, y: usize| -> String {
            words[x].repeat(*factor as usize) + &words[y]
        });
        assert_eq!(run(&given, (0, 1)).unwrap(), "aaab");
        assert_eq!(run(&closure!(move(factor) || *factor), ()).unwrap(), 3);
    }

    #[test]
    fn what_no_task_has_is_an_error() {
        let good = Code::of(&double).unwrap().bytes;
        // A changed distance may lead to another record of this program, and nowhere else.
        let astray = [(0, 1), (0, 7), (1, 0), (1, 3), (5, 0), (6, 4), (8, 7)];
        for (at, bit) in astray {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(open(&bad).is_err(), "byte {at} bit {bit}");
        }
        let records = (0..1u64 << 26).step_by(16).filter(|offset| record::at(*offset).is_some()).count();
        assert!((1..100).contains(&records), "{records} records of a program with a few tasks");
        assert!(open(&[]).is_err() && open(&good[..5]).is_err());
        let factor = 3u64;
        let captures = Code::of(&closure!(move(factor) |x: u64| factor * x)).unwrap();
        assert!(captures.has_captures && open(&captures.bytes[..9]).is_err_and(|error| error.is_encoding()));
    }
}
