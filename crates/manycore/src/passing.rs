//! Descriptors inside of values: files, sockets, pipes, shared memory.
//!
//! While a message is written, its values put their descriptors into a table beside it
//! and write down the places; while it is read, they take them out again. The table
//! travels by the kernel. Where nobody knows yet who will read the message, they are left
//! at a desk instead; see `porter.rs`.

use crate::porter::{self, Desk};
use manycore_engine::os::packets::Packets;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use std::cell::{Cell, RefCell};
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// The descriptors of one message.
pub(crate) type Table = Vec<Arc<OwnedFd>>;

/// By what a descriptor that many values share is known: two numbers of its owner's choice.
pub(crate) type Key = (u64, u64);

/// Where the descriptors of a message go while it is written.
enum Outgoing {
    /// Beside it, into a table.
    Table { table: Table, known: Vec<(Key, usize)> },
    /// To a pool's desk, where they are asked for; some of them are the job's.
    Desk { desk: Arc<Desk>, once: bool, numbers: Vec<u64> },
}

thread_local! {
    static OUTGOING: RefCell<Option<Outgoing>> = const { RefCell::new(None) };
    static INCOMING: RefCell<Option<Vec<Option<Arc<OwnedFd>>>>> = const { RefCell::new(None) };
}

thread_local! {
    /// How many descriptors this thread has asked the pool for.
    static ASKED: Cell<u64> = const { Cell::new(0) };
}

/// In a worker: where descriptors are asked for that are in no table.
static COUNTER: OnceLock<Packets> = OnceLock::new();

/// Written down by a worker for a descriptor that the reader has to have already.
const KNOWN: u64 = u64::MAX;

/// Runs `write`, which may put descriptors into a table, and gives the table.
pub(crate) fn outgoing<R>(write: impl FnOnce() -> R) -> (R, Table) {
    let empty = Outgoing::Table { table: Table::new(), known: Vec::new() };
    let _restore = Restore(&OUTGOING, OUTGOING.replace(Some(empty)));
    let written = write();
    match OUTGOING.take() {
        Some(Outgoing::Table { table, .. }) => (written, table),
        _ => (written, Table::new()),
    }
}

/// Runs `write`, which may leave descriptors at `desk`, and gives the numbers of those that
/// are to be taken back.
pub(crate) fn lending<R>(desk: &Arc<Desk>, once: bool, write: impl FnOnce() -> R) -> (R, Vec<u64>) {
    let lending = Outgoing::Desk { desk: Arc::clone(desk), once, numbers: Vec::new() };
    let _restore = Restore(&OUTGOING, OUTGOING.replace(Some(lending)));
    let written = write();
    match OUTGOING.take() {
        Some(Outgoing::Desk { numbers, .. }) => (written, numbers),
        _ => (written, Vec::new()),
    }
}

/// From now on this process asks at `counter` for descriptors that are in no table.
pub(crate) fn fetch_from(counter: Packets) {
    // A process is a worker once.
    let _ = COUNTER.set(counter);
}

/// Runs `read`, and tells whether it has asked the pool for descriptors.
pub(crate) fn asking<R>(read: impl FnOnce() -> R) -> (R, bool) {
    let before = ASKED.get();
    let value = read();
    (value, ASKED.get() != before)
}

/// Runs `read`, which may take descriptors out of `table`.
pub(crate) fn incoming<R>(table: Table, read: impl FnOnce() -> R) -> R {
    let table = table.into_iter().map(Some).collect();
    let _restore = Restore(&INCOMING, INCOMING.replace(Some(table)));
    read()
}

/// A message may be written while another one is: puts the other's table back, also
/// after a panic.
struct Restore<T: 'static>(&'static std::thread::LocalKey<RefCell<Option<T>>>, Option<T>);

impl<T> Drop for Restore<T> {
    fn drop(&mut self) {
        self.0.replace(self.1.take());
    }
}

/// Puts a descriptor where those of this message go, and gives its place. One with a key
/// is put there once.
pub(crate) fn put<E: ser::Error>(
    key: Option<Key>,
    descriptor: impl FnOnce() -> io::Result<Arc<OwnedFd>>,
) -> Result<u64, E> {
    OUTGOING.with_borrow_mut(|outgoing| match outgoing {
        Some(Outgoing::Table { table, known }) => {
            if let Some((_, place)) = known.iter().find(|(other, _)| Some(*other) == key) {
                return Ok(*place as u64);
            }
            known.extend(key.map(|key| (key, table.len())));
            table.push(descriptor().map_err(E::custom)?);
            Ok(table.len() as u64 - 1)
        }
        Some(Outgoing::Desk { desk, once, numbers }) => {
            let (number, is_ours) = desk.leave(key, *once, descriptor).map_err(E::custom)?;
            numbers.extend(is_ours.then_some(number));
            Ok(number)
        }
        // What a worker got from the caller, the caller has.
        None if key.is_some() && COUNTER.get().is_some() => Ok(KNOWN),
        None => {
            Err(E::custom("a descriptor travels only as part of a task's arguments, or of the result of a process"))
        }
    })
}

/// The descriptor in `place`, which others may want, too.
pub(crate) fn get<E: de::Error>(place: u64) -> Result<Arc<OwnedFd>, E> {
    at(place, |slot| slot.clone())
}

/// Takes the descriptor in `place`.
pub(crate) fn take<E: de::Error>(place: u64) -> Result<Arc<OwnedFd>, E> {
    at(place, Option::take)
}

fn at<E: de::Error>(
    place: u64,
    pick: impl FnOnce(&mut Option<Arc<OwnedFd>>) -> Option<Arc<OwnedFd>>,
) -> Result<Arc<OwnedFd>, E> {
    let missing = || E::custom("the descriptor that belongs to a value has not come with it");
    INCOMING.with_borrow_mut(|table| match (table, COUNTER.get()) {
        (Some(table), _) => {
            let place = usize::try_from(place).map_err(E::custom)?;
            table.get_mut(place).and_then(pick).ok_or_else(missing)
        }
        (None, Some(counter)) => {
            ASKED.set(ASKED.get() + 1);
            porter::ask(counter, place).map(Arc::new).map_err(E::custom)
        }
        (None, None) => Err(missing()),
    })
}

/// A file, a socket, an end of a pipe, or anything else behind a descriptor, on its way
/// to another process.
///
/// The receiver gets a descriptor of its own for the same open file, with the same
/// position; the sender keeps its own until it drops it. It travels in the arguments and
/// captures of tasks, and in the result of a [`Process`](crate::Process); not in results of
/// a [`Pool`](crate::Pool), and not through channels.
///
/// ```
/// # fn main() -> manycore::Result<()> {
/// # manycore::init();
/// use manycore::{Passed, Process};
/// use std::io::{PipeWriter, Read, Write};
///
/// let (mut reader, writer) = std::io::pipe().expect("a pipe");
/// let greeter = |mut writer: Passed<PipeWriter>| writer.write_all(b"hello").is_ok();
/// let mut process = Process::spawn(greeter, (Passed(writer),))?;
/// let mut text = String::new();
/// reader.read_to_string(&mut text).expect("a text");
/// assert!(process.join()? && text == "hello");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Passed<T>(pub T);

impl<T> Passed<T> {
    /// What was passed.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> Deref for Passed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Passed<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> From<T> for Passed<T> {
    fn from(inner: T) -> Passed<T> {
        Passed(inner)
    }
}

impl<T: AsFd> Serialize for Passed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        put(None, || self.0.as_fd().try_clone_to_owned().map(Arc::new))?.serialize(serializer)
    }
}

impl<'de, T: From<OwnedFd>> Deserialize<'de> for Passed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Passed<T>, D::Error> {
        match Arc::try_unwrap(take(u64::deserialize(deserializer)?)?) {
            Ok(descriptor) => Ok(Passed(descriptor.into())),
            Err(_) => Err(de::Error::custom("a descriptor that is to be passed is shared")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, Reader};
    use std::fs::File;

    #[test]
    fn a_descriptor_travels_in_the_table() {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut bytes = Vec::new();
        codec::begin(&mut bytes, 1);
        let (written, table) = outgoing(|| codec::push(&mut bytes, &(Passed(reader), 7u8, Passed(writer))));
        written.unwrap();
        assert_eq!(table.len(), 2);
        type Back = (Passed<File>, u8, Passed<File>);
        let read = || Reader::new(&bytes)?.read::<Back>();
        assert!(read().is_err_and(|error| error.is_encoding()));
        let (_, seven, _) = incoming(table, read).unwrap();
        assert_eq!(seven, 7);
    }

    #[test]
    fn without_a_table_nothing_is_written() {
        let (reader, _) = std::io::pipe().unwrap();
        let mut bytes = Vec::new();
        assert!(codec::push(&mut bytes, &Passed(reader)).is_err_and(|error| error.is_encoding()));
    }

    #[test]
    fn what_is_shared_travels_once_and_tables_nest() {
        struct Shared(Arc<OwnedFd>);
        impl Serialize for Shared {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                put(Some((1, 2)), || Ok(Arc::clone(&self.0)))?.serialize(serializer)
            }
        }
        let shared = Shared(Arc::new(File::open("/dev/null").unwrap().into()));
        let mut bytes = Vec::new();
        let (_, table) = outgoing(|| {
            codec::push(&mut bytes, &shared).unwrap();
            let ((), inner) = outgoing(|| codec::push(&mut Vec::new(), &(&shared, &shared)).unwrap());
            assert_eq!(inner.len(), 1);
            codec::push(&mut bytes, &shared).unwrap();
        });
        assert_eq!((table.len(), bytes.as_slice()), (1, &[0, 0][..]));
    }

    /// Every bit of a handle's bytes turned, and its descriptors exchanged: an error or a handle
    /// of something else comes of it, and no panic.
    fn damage<T: Serialize + serde::de::DeserializeOwned>(value: &T) {
        let mut bytes = Vec::new();
        codec::begin(&mut bytes, 1);
        let (written, table) = outgoing(|| codec::push(&mut bytes, value));
        written.unwrap();
        let read =
            |bytes: &[u8], table: &Table| incoming(table.clone(), || Reader::new(bytes)?.read::<T>().map(|_| ()));
        read(&bytes, &table).unwrap();
        for at in 1..bytes.len() {
            for bit in 0..8 {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1 << bit;
                let _ = read(&bytes, &table);
            }
            assert!(read(&bytes[..at], &table).is_err());
        }
        // What this process has already is not looked at again; the rest has to be what it is said to be.
        let null: Arc<OwnedFd> = Arc::new(File::open("/dev/null").unwrap().into());
        let _ = read(&bytes, &table.iter().map(|_| Arc::clone(&null)).collect());
        let _ = read(&bytes, &table.iter().rev().cloned().collect());
    }

    #[test]
    fn damaged_handles_are_errors() {
        damage(&crate::sync::Mutex::new(1u64).unwrap());
        damage(&crate::sync::Event::new().unwrap());
        damage(&crate::sync::Shared::new(1u64).unwrap());
        let row = crate::sync::Shared::from_slice(&[1u64; 100]).unwrap();
        damage(&row);
        let (sender, receiver) = crate::channel::unbounded::<u8>().unwrap();
        damage(&sender);
        damage(&receiver);
        assert!(sender.send(1).is_ok() && receiver.recv().unwrap() == 1);
    }
}
