//! A place in shared memory, as a value that travels.

use crate::passing;
use manycore_engine::shm::slots::{Resident, Slot, Slots, SlotsId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A handle of what stands in a place that processes share.
pub(crate) struct Place<T: Resident>(Arc<Slot<T>>);

impl<T: Resident> Place<T> {
    /// A new place, of zero bytes.
    pub(crate) fn new() -> manycore_engine::Result<Place<T>> {
        Slot::new().map(Arc::new).map(Place)
    }
}

impl<T: Resident> Deref for Place<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Resident> Clone for Place<T> {
    fn clone(&self) -> Place<T> {
        Place(Arc::clone(&self.0))
    }
}

impl<T: Resident> fmt::Debug for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Place")
    }
}

impl<T: Resident> Serialize for Place<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (slots, offset) = self.0.address();
        let SlotsId { creator, number } = slots.id();
        let file = passing::put(Some((creator, number)), || slots.file().try_clone_to_owned().map(Arc::new))?;
        (creator, number, offset as u64, file).serialize(serializer)
    }
}

impl<'de, T: Resident> Deserialize<'de> for Place<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Place<T>, D::Error> {
        let (creator, number, offset, file) = <(u64, u64, u64, u64)>::deserialize(deserializer)?;
        let (id, offset) = (SlotsId { creator, number }, usize::try_from(offset).map_err(de::Error::custom)?);
        let slots = match Slots::find_attached(id) {
            Some(slots) => slots,
            None => {
                let file = passing::get::<D::Error>(file)?.try_clone().map_err(de::Error::custom)?;
                Slots::attach(id, file).map_err(de::Error::custom)?
            }
        };
        Slot::at(&slots, offset).map(Arc::new).map(Place).map_err(de::Error::custom)
    }
}
