//! The rules of the house that no compiler knows: which room may use which, where
//! `unsafe` may stand, how long a file may be, and that the prose names files that exist.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room of the engine and what it may use. `fault` is a leaf for everyone.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("fault", &[]),
    ("sync", &["os", "error"]),
    ("os", &["error"]),
    ("shm", &["os", "sync", "error"]),
    ("process", &["os", "error"]),
    ("connection", &["os", "sync", "error"]),
    ("dispatch", &["error"]),
    ("pool", &["dispatch", "shm", "process", "os", "sync", "error"]),
];

/// What the crate's root gives on from room `error`.
const ERRORS: &[&str] = &["Error", "Kind", "Result"];

/// Where `unsafe` may stand, below `crates/`.
const UNSAFE: &[&str] = &[
    "manycore-engine/src/os/",
    "manycore-engine/src/shm/",
    "manycore-engine/tests/support/",
    // A task without a name is found by where its record stands in the program; see there.
    "manycore/src/record.rs",
    // Forks, as a C library may.
    "manycore/tests/forked.rs",
    // Shows what happens when a C library is wrong.
    "manycore/examples/parse_untrusted.rs",
    // Long runs of numbers are copied into shared memory from where they lie.
    "manycore/src/values/parts.rs",
    "manycore-python/src/buffer.rs",
    "manycore-python/src/codec/",
    "manycore-python/src/locks/fast.rs",
];

const LONGEST: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// Every file below `folder` whose name ends in `ending`; nothing hidden, nothing built.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with('.') || ["target", "results", "__pycache__"].contains(&&*name) {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a Rust file without comments and without the text of one-line strings.
fn code(text: &str) -> Vec<String> {
    let strip = |line: &str| {
        let mut kept = String::new();
        let mut inside = false;
        let mut previous = ' ';
        for (at, letter) in line.char_indices() {
            if !inside && line[at..].starts_with("//") {
                break;
            }
            if letter == '"' && previous != '\\' && previous != '\'' {
                inside = !inside;
            } else if !inside {
                kept.push(letter);
            }
            previous = letter;
        }
        kept
    };
    text.lines().map(strip).collect()
}

/// The first names after `crate::` in `code`, also those of a group in braces.
fn uses(code: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(name(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (at, letter) in group.char_indices() {
            match letter {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                _ if start && depth == 0 && letter.is_alphabetic() => {
                    found.push(name(&group[at..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

/// Collects what is wrong, so that one run tells everything.
#[derive(Default)]
struct Complaints(Vec<String>);

impl Complaints {
    fn check(&mut self, good: bool, complaint: impl FnOnce() -> String) {
        if !good {
            self.0.push(complaint());
        }
    }
}

impl Drop for Complaints {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
        }
    }
}

/// Who may find something out once by a lock: nobody whose threads a forked child may miss. For them there are `sync::Found`
/// and the binding's `Known`. The first two are asked in the process that made the pool, and in programs of the Rust face.
const ONCE: &[&str] =
    &["manycore-engine/src/os/linux/image.rs", "manycore-engine/src/pool/caller.rs", "manycore-python/src/known.rs"];

#[test]
fn nothing_is_found_out_once_by_a_lock() {
    let mut complaints = Complaints::default();
    let crates = root().join("crates");
    for folder in ["manycore-engine/src", "manycore-python/src"] {
        for path in files(&crates.join(folder), ".rs") {
            let allowed = ONCE.iter().any(|name| path.ends_with(name));
            for (number, line) in code(&read(&path)).iter().enumerate() {
                let words = ["OnceLock", "OnceCell", "LazyLock", "sync::Once", "Once::new", "intern!"];
                let found = words.iter().any(|word| line.contains(word));
                complaints.check(allowed || !found, || {
                    format!("{}:{}: a child forked in the midst of it would wait for ever", path.display(), number + 1)
                });
            }
        }
    }
}

#[test]
fn rooms_use_only_the_rooms_below() {
    let mut complaints = Complaints::default();
    let sources = root().join("crates/manycore-engine/src");
    for path in files(&sources, ".rs") {
        let inside = path.strip_prefix(&sources).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        if room == "lib" {
            continue;
        }
        let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
            complaints.check(false, || format!("{}: a room without rules", inside.display()));
            continue;
        };
        for used in uses(&code(&read(&path)).join("\n")) {
            let used = if ERRORS.contains(&&*used) { "error" } else { &*used };
            complaints.check(used == room || used == "fault" || allowed.contains(&used), || {
                format!("{}: room `{room}` must not use `{used}`", inside.display())
            });
        }
    }
}

#[test]
fn sync_is_the_only_door_to_atomics() {
    let mut complaints = Complaints::default();
    let sources = root().join("crates/manycore-engine/src");
    for path in files(&sources, ".rs") {
        let inside = path.strip_prefix(&sources).unwrap();
        // `park` is handed words by `sync` and cannot use what uses it.
        if inside == Path::new("sync.rs") || inside == Path::new("os/linux/park.rs") {
            continue;
        }
        for (number, line) in code(&read(&path)).iter().enumerate() {
            let inner = line.contains("sync::atomic") && !line.contains("crate::sync");
            complaints.check(!inner && !line.contains("loom::"), || {
                format!("{}:{}: atomics come from `crate::sync`", inside.display(), number + 1)
            });
        }
    }
}

#[test]
fn unsafe_stands_where_it_may_and_says_why() {
    let mut complaints = Complaints::default();
    let crates = root().join("crates");
    for path in files(&crates, ".rs") {
        let inside = path.strip_prefix(&crates).unwrap().to_str().unwrap();
        if inside.ends_with("tests/tidy.rs") {
            continue;
        }
        let allowed = UNSAFE.iter().any(|place| inside.starts_with(place));
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in code(&text).iter().enumerate() {
            let place = || format!("{inside}:{}", number + 1);
            let lifts = line.contains("allow(unsafe_code)") || line.contains("expect(unsafe_code)");
            let keyword = line.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|w| w == "unsafe");
            complaints.check(allowed || !(lifts || keyword), || format!("{}: no `unsafe` here", place()));
            if line.contains("unsafe {") || line.contains("unsafe impl") {
                let before = number.saturating_sub(8);
                let reasoned = lines[before..=number].iter().any(|line| line.contains("SAFETY:"));
                complaints.check(reasoned, || format!("{}: `unsafe` without a SAFETY argument", place()));
            }
        }
    }
    for room in ["pool", "process", "connection", "dispatch"] {
        let text = read(&crates.join(format!("manycore-engine/src/{room}/mod.rs")));
        complaints.check(text.contains("#![forbid(unsafe_code)]"), || format!("`{room}` must forbid unsafe code"));
    }
}

#[test]
fn files_are_short_enough_to_read() {
    let mut complaints = Complaints::default();
    let root = root();
    let python = files(&root.join("python/manycore"), ".py");
    for path in files(&root.join("crates"), ".rs").into_iter().chain(python) {
        let lines = read(&path).lines().count();
        complaints.check(lines <= LONGEST, || format!("{}: {lines} lines; split it", path.display()));
    }
}

#[test]
fn the_engine_knows_no_python_and_no_serde() {
    let manifest = read(&root().join("crates/manycore-engine/Cargo.toml"));
    for stranger in ["pyo3", "serde"] {
        assert!(!manifest.contains(stranger), "the engine's Cargo.toml names {stranger}");
    }
}

#[test]
fn prose_names_files_that_exist() {
    let mut complaints = Complaints::default();
    let root = root();
    let engine = root.join("crates/manycore-engine");
    for readme in files(&root, "README.md") {
        let folder = readme.parent().unwrap();
        // Outside the crates a bare name is more often an example than a file.
        let strict = readme.starts_with(root.join("crates"));
        let places = [folder.to_path_buf(), root.clone(), engine.clone(), engine.join("src")];
        for name in read(&readme).split('`').skip(1).step_by(2) {
            let file = [".rs", ".py", ".md", ".toml"].iter().any(|ending| name.ends_with(ending));
            let plain = !name.contains([' ', '*', '<', '\n', '{', '$', '%', '(', '=']);
            if file && plain && (strict || name.contains('/')) {
                let exists = places.iter().any(|place| place.join(name).exists());
                complaints.check(exists, || format!("{}: there is no `{name}`", readme.display()));
            }
        }
    }
}

/// Comments refer to sections as: "The queue" in README.md.
#[test]
fn comments_name_sections_that_exist() {
    let mut complaints = Complaints::default();
    let engine = root().join("crates/manycore-engine");
    for path in files(&engine, ".rs").into_iter().filter(|path| !path.ends_with("tidy.rs")) {
        let text = read(&path).replace("\n//! ", " ").replace("\n/// ", " ");
        for (at, _) in text.match_indices("README.md") {
            let Some(quote) = text[..at].rfind('"').filter(|quote| at - quote < 24) else { continue };
            let section = text[..quote].rsplit('"').next().unwrap();
            let link = text[quote + 1..at].trim().trim_start_matches("in").trim();
            let folder = if link.is_empty() { path.parent().unwrap().to_path_buf() } else { engine.join(link) };
            let readme = folder.join("README.md");
            let heading = format!("# {section}");
            let there = readme.exists() && read(&readme).lines().any(|line| line.ends_with(&heading));
            complaints.check(there, || format!("{}: no section \"{section}\" in {}", path.display(), readme.display()));
        }
    }
}
