//! Descriptors inside of values: files, sockets, pipes, shared memory.
//!
//! While a message is written, its values put their descriptors into a table beside it
//! and write down the places; while it is read, they take them out again. The table
//! travels by the kernel.

use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// The descriptors of one message.
pub(crate) type Table = Vec<Arc<OwnedFd>>;

thread_local! {
    static OUTGOING: RefCell<Option<Table>> = const { RefCell::new(None) };
    static INCOMING: RefCell<Option<Vec<Option<Arc<OwnedFd>>>>> = const { RefCell::new(None) };
}

/// Runs `write`, which may put descriptors into a table, and gives the table.
pub(crate) fn outgoing<R>(write: impl FnOnce() -> R) -> (R, Table) {
    let _restore = Restore(&OUTGOING, OUTGOING.replace(Some(Table::new())));
    let written = write();
    (written, OUTGOING.take().unwrap_or_default())
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

/// Writes down a descriptor that many values may share; it travels once.
pub(crate) fn put<S: Serializer>(descriptor: &Arc<OwnedFd>, serializer: S) -> Result<S::Ok, S::Error> {
    let place = OUTGOING.with_borrow_mut(|table| {
        let table = table.as_mut()?;
        let known = table.iter().position(|other| Arc::ptr_eq(other, descriptor));
        Some(known.unwrap_or_else(|| {
            table.push(Arc::clone(descriptor));
            table.len() - 1
        }))
    });
    match place {
        Some(place) => (place as u64).serialize(serializer),
        None => Err(S::Error::custom(
            "a descriptor travels only as part of an argument or a result of a task in another process",
        )),
    }
}

/// Takes a descriptor out of the table.
fn take<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<OwnedFd>, D::Error> {
    let place = usize::deserialize(deserializer)?;
    let found = INCOMING.with_borrow_mut(|table| table.as_mut()?.get_mut(place)?.take());
    found.ok_or_else(|| D::Error::custom("the descriptor that belongs to a value has not come with it"))
}

/// A file, a socket, an end of a pipe, or anything else behind a descriptor, on its way
/// to another process.
///
/// The receiver gets a descriptor of its own for the same open file, with the same
/// position; the sender keeps its own until it drops it.
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
        let own = self.0.as_fd().try_clone_to_owned().map_err(S::Error::custom)?;
        put(&Arc::new(own), serializer)
    }
}

impl<'de, T: From<OwnedFd>> Deserialize<'de> for Passed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Passed<T>, D::Error> {
        match Arc::try_unwrap(take(deserializer)?) {
            Ok(descriptor) => Ok(Passed(descriptor.into())),
            Err(_) => Err(D::Error::custom("a descriptor that is to be passed is shared")),
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
        codec::begin(&mut bytes, 1).unwrap();
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
                put(&self.0, serializer)
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
}
