//! The functions a pool can run, known by number: no address crosses processes.
//!
//! Both processes run the same program, so both have the same list; that they do
//! is checked by its fingerprint. The caller finds a function by its type (every
//! function has one of its own), the worker by the hash of its name and signature.

use crate::codec::{self, Reader};
use crate::error::{Error, Kind, Result};
use crate::failure::{self, Failure, Reason};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::any::{TypeId, type_name};
use std::cell::Cell;
use std::sync::OnceLock;

/// Runs a function on every value of a chunk and writes the chunk of results.
pub type Run = fn(&[u8], &mut Vec<u8>) -> std::result::Result<(), Failure>;

/// One function given to `tasks!`, as the linker collects it.
#[derive(Debug)]
pub struct Entry {
    describe: fn() -> Description,
    run: Run,
    place: &'static str,
}

/// Who a function is.
#[derive(Debug)]
pub struct Description {
    kind: TypeId,
    name: &'static str,
    argument: &'static str,
    result: &'static str,
}

inventory::collect!(Entry);

impl Entry {
    /// For the expansion of `tasks!`, which stands at `place`.
    pub const fn new(describe: fn() -> Description, run: Run, place: &'static str) -> Entry {
        Entry { describe, run, place }
    }
}

/// Who `task` is.
pub fn describe<A: 'static, R: 'static, F: Fn(A) -> R + 'static>(_: F) -> Description {
    Description {
        kind: TypeId::of::<F>(),
        name: type_name::<F>(),
        argument: type_name::<A>(),
        result: type_name::<R>(),
    }
}

/// Runs `task` on the values in `input`.
pub fn run<A, R, F>(task: F, input: &[u8], output: &mut Vec<u8>) -> std::result::Result<(), Failure>
where
    A: DeserializeOwned,
    R: Serialize,
    F: Fn(A) -> R,
{
    let offset = Cell::new(0);
    let ran = failure::catch(|| {
        let mut arguments = Reader::new(input)?;
        codec::begin(output, arguments.count)?;
        while offset.get() < arguments.count {
            codec::push(output, &task(arguments.read()?))?;
            offset.set(offset.get() + 1);
        }
        Ok(())
    });
    let offset = offset.get();
    match ran {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::of(&error, offset)),
        Err(message) => Err(Failure { reason: Reason::Panic, offset, message }),
    }
}

/// One function of the registry.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: u64,
    pub(crate) name: &'static str,
    pub(crate) run: Run,
    kind: TypeId,
    place: &'static str,
}

/// Every function of this program that was given to `tasks!`.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Sorted by id.
    tasks: Vec<Task>,
    pub(crate) fingerprint: u64,
}

impl Registry {
    /// The registry of this program, built when first asked for.
    pub(crate) fn get() -> Result<&'static Registry> {
        static REGISTRY: OnceLock<Result<Registry>> = OnceLock::new();
        REGISTRY.get_or_init(|| Registry::build(inventory::iter::<Entry>())).as_ref().map_err(Error::clone)
    }

    fn build<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Registry> {
        let mut tasks: Vec<Task> = entries.into_iter().map(Task::of).collect();
        tasks.sort_by_key(|task| task.id);
        // A library and its user may both register one function.
        tasks.dedup_by(|one, other| (one.id, one.kind) == (other.id, other.kind));
        if let Some([one, other]) = tasks.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "two tasks cannot be told apart: `{}` (tasks! at {}) and `{}` (tasks! at {}); rename one of them",
                    one.name, one.place, other.name, other.place
                ),
            ));
        }
        let mut fingerprint = hash(FIRST, env!("CARGO_PKG_VERSION").as_bytes());
        for task in &tasks {
            fingerprint = hash(fingerprint, &task.id.to_le_bytes());
        }
        Ok(Registry { tasks, fingerprint })
    }

    /// The task that the type of a function stands for.
    pub(crate) fn by_type(&self, kind: TypeId) -> Option<&Task> {
        self.tasks.iter().find(|task| task.kind == kind)
    }

    /// The task with this id.
    pub(crate) fn by_id(&self, id: u64) -> Option<&Task> {
        self.tasks.binary_search_by_key(&id, |task| task.id).ok().map(|index| &self.tasks[index])
    }
}

impl Task {
    fn of(entry: &Entry) -> Task {
        let Description { kind, name, argument, result } = (entry.describe)();
        let id = [name, "(", argument, ") -> ", result].iter().fold(FIRST, |id, text| hash(id, text.as_bytes()));
        Task { id, name, run: entry.run, kind, place: entry.place }
    }
}

const FIRST: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a, which is the same in every build; the standard library's hash is not
/// promised to be.
fn hash(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(x: u32) -> u32 {
        2 * x
    }

    fn halve(x: u32) -> u32 {
        x / 2
    }

    macro_rules! entry {
        ($task:path) => {
            Entry::new(|| describe($task), |input, output| run($task, input, output), "here")
        };
    }

    #[test]
    fn the_order_of_the_linker_does_not_matter() {
        let one = Registry::build(&[entry!(double), entry!(halve)]).unwrap();
        let other = Registry::build(&[entry!(halve), entry!(double), entry!(halve)]).unwrap();
        assert_eq!(one.fingerprint, other.fingerprint);
        assert_ne!(one.fingerprint, Registry::build(&[entry!(halve)]).unwrap().fingerprint);
    }

    #[test]
    fn a_function_is_found_by_type_and_by_id() {
        let registry = Registry::build(&[entry!(double), entry!(halve)]).unwrap();
        let task = registry.by_type(describe(halve).kind).unwrap();
        assert!(task.name.ends_with("::halve"));
        let mut input = Vec::new();
        codec::begin(&mut input, 1).unwrap();
        codec::push(&mut input, &42u32).unwrap();
        let mut output = Vec::new();
        (registry.by_id(task.id).unwrap().run)(&input, &mut output).unwrap();
        assert_eq!(Reader::new(&output).unwrap().read::<u32>().unwrap(), 21);
    }

    #[test]
    fn two_functions_of_one_name_are_refused_with_both_places() {
        // Two blocks of one function: their paths are the same.
        let first = {
            fn twin(x: u32) -> u32 {
                x
            }
            Entry::new(|| describe(twin), |input, output| run(twin, input, output), "first.rs:1")
        };
        let second = {
            fn twin(x: u32) -> u32 {
                x + 1
            }
            Entry::new(|| describe(twin), |input, output| run(twin, input, output), "second.rs:2")
        };
        let error = Registry::build(&[first, second]).unwrap_err().to_string();
        assert!(error.contains("first.rs:1") && error.contains("second.rs:2") && error.contains("twin"), "{error}");
    }
}
