//! Tasks with a name: the functions marked `#[manycore::task]`, known by number.
//!
//! Both processes run the same program, so both have the same list; that they do
//! is checked by its fingerprint. The caller finds a function by its type (every
//! function has one of its own), the other process by the hash of its name and
//! signature. No distance travels, so functions of shared libraries are found, too.

use crate::code::Call;
use crate::error::{Error, Kind, Result};
use crate::task::Task;
use manycore_engine::os::image::Image;
use std::any::{TypeId, type_name};
use std::sync::OnceLock;

/// One function marked `#[manycore::task]`, as the linker collects it.
pub struct Entry {
    describe: fn() -> Description,
    open: fn() -> Box<dyn Call>,
    place: &'static str,
}

/// Who a function is.
#[derive(Debug)]
pub struct Description {
    kind: TypeId,
    name: &'static str,
    arguments: &'static str,
    result: &'static str,
}

inventory::collect!(Entry);

impl Entry {
    /// For the expansion of the attribute, which stands at `place`.
    pub const fn new(describe: fn() -> Description, open: fn() -> Box<dyn Call>, place: &'static str) -> Entry {
        Entry { describe, open, place }
    }
}

/// Who `task` is.
pub fn describe<Args: 'static, F: Task<Args>>(_: F) -> Description {
    Description {
        kind: TypeId::of::<F>(),
        name: type_name::<F>(),
        arguments: type_name::<Args>(),
        result: type_name::<F::Output>(),
    }
}

/// `task`, ready to be called.
pub fn open<Args, F: Task<Args>>(task: F) -> Box<dyn Call> {
    task.ready()
}

/// One function of the registry.
pub(crate) struct Known {
    pub(crate) id: u64,
    pub(crate) open: fn() -> Box<dyn Call>,
    name: &'static str,
    kind: TypeId,
    place: &'static str,
}

/// Every function of this program that is marked `#[manycore::task]`.
pub(crate) struct Registry {
    /// Sorted by id.
    known: Vec<Known>,
    /// The same in two processes if they are the same build with the same libraries.
    pub(crate) fingerprint: u64,
}

impl Registry {
    /// The registry of this program, built when first asked for.
    pub(crate) fn get() -> Result<&'static Registry> {
        static REGISTRY: OnceLock<Result<Registry>> = OnceLock::new();
        REGISTRY.get_or_init(|| Registry::build(inventory::iter::<Entry>())).as_ref().map_err(Error::clone)
    }

    fn build<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Registry> {
        let mut known: Vec<Known> = entries.into_iter().map(Known::of).collect();
        known.sort_by_key(|task| task.id);
        if let Some([one, other]) = known.windows(2).find(|pair| pair[0].id == pair[1].id) {
            return Err(Error::new(
                Kind::Usage,
                format!(
                    "two tasks cannot be told apart: `{}` ({}) and `{}` ({}); rename one of them",
                    one.name, one.place, other.name, other.place
                ),
            ));
        }
        let mut fingerprint = hash(FIRST, env!("CARGO_PKG_VERSION").as_bytes());
        fingerprint = hash(fingerprint, &Image::get().build().to_le_bytes());
        for task in &known {
            fingerprint = hash(fingerprint, &task.id.to_le_bytes());
        }
        Ok(Registry { known, fingerprint })
    }

    /// The task that the type of a function stands for.
    pub(crate) fn by_type(&self, kind: TypeId) -> Option<&Known> {
        self.known.iter().find(|task| task.kind == kind)
    }

    /// The task with this id.
    pub(crate) fn by_id(&self, id: u64) -> Option<&Known> {
        self.known.binary_search_by_key(&id, |task| task.id).ok().map(|index| &self.known[index])
    }
}

impl Known {
    fn of(entry: &Entry) -> Known {
        let Description { kind, name, arguments, result } = (entry.describe)();
        let id = [name, arguments, " -> ", result].iter().fold(FIRST, |id, text| hash(id, text.as_bytes()));
        Known { id, name, open: entry.open, kind, place: entry.place }
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
    use crate::code::{self, Code};
    use crate::codec::{self, Reader};

    fn double(x: u32) -> u32 {
        2 * x
    }

    fn halve(x: u32) -> u32 {
        x / 2
    }

    /// In the registry of the tests' own program.
    #[crate::task]
    fn add(a: i64, b: i64) -> i64 {
        a + b
    }

    macro_rules! entry {
        ($task:path, $place:literal) => {
            Entry::new(|| describe::<(u32,), _>($task), || open::<(u32,), _>($task), $place)
        };
    }

    #[test]
    fn the_order_of_the_linker_does_not_matter() {
        let one = Registry::build(&[entry!(double, "a"), entry!(halve, "b")]).ok().unwrap();
        let other = Registry::build(&[entry!(halve, "b"), entry!(double, "a")]).ok().unwrap();
        assert_eq!(one.fingerprint, other.fingerprint);
        assert_ne!(one.fingerprint, Registry::build(&[entry!(halve, "b")]).ok().unwrap().fingerprint);
    }

    #[test]
    fn a_registered_function_is_found_by_type_and_by_id() {
        let code = Code::of(&add).unwrap();
        assert_eq!((code.bytes[0], code.bytes.len(), code.has_captures), (0, 9, false));
        assert!(code.name.ends_with("::add"));
        let (mut input, mut output) = (Vec::new(), Vec::new());
        codec::begin(&mut input, 1);
        [40i64, 2].iter().for_each(|number| codec::push(&mut input, number).unwrap());
        code::open(&code.bytes).unwrap().run(&input, &mut output).unwrap();
        assert_eq!(Reader::new(&output).unwrap().read::<i64>().unwrap(), 42);
    }

    #[test]
    fn two_functions_of_one_name_are_refused_with_both_places() {
        // Two blocks of one function: their paths are the same.
        let first = {
            fn twin(x: u32) -> u32 {
                x
            }
            entry!(twin, "first.rs:1")
        };
        let second = {
            fn twin(x: u32) -> u32 {
                x + 1
            }
            entry!(twin, "second.rs:2")
        };
        let error = Registry::build(&[first, second]).err().unwrap().to_string();
        assert!(error.contains("first.rs:1") && error.contains("second.rs:2") && error.contains("twin"), "{error}");
    }
}
