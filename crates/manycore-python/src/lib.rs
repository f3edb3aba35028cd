//! The compiled half of manycore's Python face.

mod answers;
mod buffer;
mod call;
mod channel;
mod codec;
mod connection;
mod core;
mod feed;
mod feeders;
mod functions;
mod gate;
mod hooks;
mod imap;
mod journey;
mod known;
mod lazy;
mod locks;
mod map;
mod options;
mod parts;
mod result;
mod tending;
mod views;
mod worker;

use pyo3::prelude::*;

#[pymodule]
mod _engine {
    #[pymodule_export]
    use crate::channel::PyChannel;
    #[pymodule_export]
    use crate::codec::Items;
    #[pymodule_export]
    use crate::codec::by_value::{forget_settled, set_main_hidden};
    #[pymodule_export]
    use crate::codec::python::{
        decode_call_py, decode_into_py, decode_items_py, decode_py, encode_call_py, encode_items_py, encode_py,
        set_reducers,
    };
    #[pymodule_export]
    use crate::connection::{ConnectionEnd, pickler_patched, socket_pair};
    #[pymodule_export]
    use crate::core::Core;
    #[pymodule_export]
    use crate::imap::IMapIterator;
    #[pymodule_export]
    use crate::journey::{carrier, for_sending, if_lost};
    #[pymodule_export]
    use crate::lazy::Feeder;
    #[pymodule_export]
    use crate::locks::{Barrier, Condition, Event, LockRegion, SemLock, install_fast_methods};
    #[pymodule_export]
    use crate::options::JobOptions;
    #[pymodule_export]
    use crate::result::ApplyResult;
    #[pymodule_export]
    use crate::views::{items_left, open_work};
    #[pymodule_export]
    use crate::worker::{PoolWorker, WorkerForkGuard};

    /// How many processors this process may use: its affinity, cut down by the CPU
    /// quotas of its control groups.
    #[pyo3::pyfunction]
    fn usable_cpu_count() -> usize {
        manycore_engine::os::cpus::usable()
    }

    /// This process may have `bytes` bytes of memory of its own from now on; what asks for more gets none.
    #[pyo3::pyfunction]
    fn limit_memory(bytes: u64) -> pyo3::PyResult<()> {
        manycore_engine::os::limits::data(bytes).map_err(crate::gate::raise)
    }

    /// OSError (ENOMEM) if `size` bytes of new memory are more than the machine or its control groups have free.
    #[pyo3::pyfunction]
    fn check_memory(size: u64) -> pyo3::PyResult<()> {
        manycore_engine::os::room::check(size).map_err(crate::gate::raise)
    }
}
