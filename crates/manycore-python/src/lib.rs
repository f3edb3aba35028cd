//! The compiled half of manycore's Python face.

mod buffer;
mod channel;
mod codec;
mod connection;
mod core;
mod feed;
mod gate;
mod hooks;
mod imap;
mod locks;
mod map;
mod result;
mod worker;

use pyo3::prelude::*;

#[pymodule]
mod _engine {
    #[pymodule_export]
    use crate::channel::PyChannel;
    #[pymodule_export]
    use crate::codec::Items;
    #[pymodule_export]
    use crate::codec::python::{
        decode_call_py, decode_into_py, decode_items_py, decode_py, encode_call_py, encode_items_py, encode_py,
        set_reducers,
    };
    #[pymodule_export]
    use crate::connection::{ConnectionEnd, pickler_patched, socket_pair};
    #[pymodule_export]
    use crate::core::{Core, usable_cpu_count};
    #[pymodule_export]
    use crate::imap::{Feeder, IMapIterator};
    #[pymodule_export]
    use crate::locks::{Barrier, Condition, Event, LockRegion, SemLock, install_fast_methods};
    #[pymodule_export]
    use crate::result::ApplyResult;
    #[pymodule_export]
    use crate::worker::{PoolWorker, WorkerForkGuard};
}
