//! The program in memory: which build it is, and the part of it that nobody can write.
//!
//! Two processes of one build have the same bytes at the same distance from where
//! the program was loaded, though it is loaded elsewhere in each (address space
//! layout randomisation). So a distance can travel where an address cannot. Only
//! the main program counts: of a library nobody can say that the other process
//! has loaded the same one.
//!
//! # Why this file is unsafe
//!
//! The loader's account of what lies where is a C callback with raw pointers
//! (`dl_iterate_phdr`), and what it describes is handed out as slices. They lead to
//! memory the loader has mapped for the life of the process and made read-only, so
//! no damage and no input can have changed what stands there.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::OnceLock;

/// The main program, as it was loaded.
#[derive(Debug, Default)]
pub struct Image {
    base: usize,
    /// Addresses that are readable and never written after the start.
    constant: Vec<Range<usize>>,
    build: u64,
}

/// The note in which linkers leave the hash of what they linked.
const BUILD_ID: (u32, &[u8]) = (3, b"GNU\0");

impl Image {
    /// The program this process runs.
    pub fn get() -> &'static Image {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(Image::read)
    }

    /// A number that two processes share if they run the same build: from the
    /// linker's build id, or where it left none, from the program's code itself.
    pub fn build(&self) -> u64 {
        self.build
    }

    /// How far `bytes` stand from the program's start, where they stand in its
    /// constant part.
    pub fn offset_of(&self, bytes: &[u8]) -> Option<u64> {
        let start = bytes.as_ptr().addr();
        self.is_constant(start, bytes.len()).then(|| start.wrapping_sub(self.base) as u64)
    }

    /// The `len` bytes at `offset` from the program's start, where all of them stand
    /// in its constant part.
    pub fn constant(&'static self, offset: u64, len: usize) -> Option<&'static [u8]> {
        let start = self.base.wrapping_add(usize::try_from(offset).ok()?);
        if !self.is_constant(start, len) {
            return None;
        }
        // SAFETY: the range lies in one segment of the program that is mapped
        // readable and not writable until the process ends (checked just now).
        Some(unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(start), len) })
    }

    fn is_constant(&self, start: usize, len: usize) -> bool {
        let Some(end) = start.checked_add(len) else { return false };
        self.constant.iter().any(|part| part.start <= start && end <= part.end)
    }

    fn read() -> Image {
        let mut image = None;
        // SAFETY: `first` has the type the loader calls, and is done with the
        // pointer to `image` when the call returns.
        unsafe { libc::dl_iterate_phdr(Some(first), (&raw mut image).cast()) };
        // A program without headers has no constant part: nothing is ever found in it.
        image.unwrap_or_default()
    }

    /// The image of what the loader describes by `base` and `headers`.
    fn of(base: usize, headers: &[libc::Elf64_Phdr]) -> Image {
        let place = |header: &libc::Elf64_Phdr| {
            let start = base.wrapping_add(header.p_vaddr as usize);
            start..start.wrapping_add(header.p_memsz as usize)
        };
        let page = rustix::param::page_size();
        let mut image = Image { base, ..Image::default() };
        let mut noted = None;
        for header in headers {
            let (readable, writable) = (header.p_flags & libc::PF_R != 0, header.p_flags & libc::PF_W != 0);
            match header.p_type {
                libc::PT_LOAD if readable && !writable => image.constant.push(place(header)),
                // Addresses the loader filled in, and then protected by whole pages.
                libc::PT_GNU_RELRO => {
                    let Range { start, end } = place(header);
                    image.constant.push(start..end / page * page);
                }
                libc::PT_NOTE if readable => noted = noted.or_else(|| build_id(base, place(header), headers)),
                _ => {}
            }
        }
        image.build = noted.unwrap_or_else(|| hash_of_code(base, headers));
        image
    }
}

/// What the loader calls for each object, the program first: stops there.
unsafe extern "C" fn first(info: *mut libc::dl_phdr_info, _: libc::size_t, image: *mut c_void) -> c_int {
    // SAFETY: the loader gives a valid description whose headers are an array of
    // that many, and the pointer that `Image::read` gave it.
    unsafe {
        let headers = std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum));
        *image.cast::<Option<Image>>() = Some(Image::of((*info).dlpi_addr as usize, headers));
    }
    1
}

/// The bytes in `place`, where they are file contents of one readable segment.
fn loaded<'a>(base: usize, place: Range<usize>, headers: &[libc::Elf64_Phdr]) -> Option<&'a [u8]> {
    let inside = headers.iter().any(|header| {
        let start = base.wrapping_add(header.p_vaddr as usize);
        header.p_type == libc::PT_LOAD
            && header.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R
            && start <= place.start
            && place.end <= start.wrapping_add(header.p_filesz as usize)
    });
    // SAFETY: inside a segment that the loader has mapped readable and not writable.
    inside.then(|| unsafe {
        std::slice::from_raw_parts(std::ptr::with_exposed_provenance(place.start), place.end - place.start)
    })
}

/// The build id among the notes in `place`, hashed.
fn build_id(base: usize, place: Range<usize>, headers: &[libc::Elf64_Phdr]) -> Option<u64> {
    let mut notes = loaded(base, place, headers)?;
    // Each note: three numbers (bytes of name, bytes of contents, kind), the name, the contents.
    while let Some((head, rest)) = notes.split_at_checked(12) {
        let number = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (name_len, len) = (number(0) as usize, number(4) as usize);
        let (name, rest) = rest.split_at_checked(name_len.checked_next_multiple_of(4)?)?;
        let contents = rest.get(..len)?;
        if (number(8), name) == BUILD_ID {
            return Some(hash(contents));
        }
        notes = rest.get(len.checked_next_multiple_of(4)?..)?;
    }
    None
}

/// A hash of the program's code, which is the same wherever it is loaded.
fn hash_of_code(base: usize, headers: &[libc::Elf64_Phdr]) -> u64 {
    headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0)
        .filter_map(|header| {
            let start = base.wrapping_add(header.p_vaddr as usize);
            loaded(base, start..start.wrapping_add(header.p_filesz as usize), headers)
        })
        .fold(0, |whole, code| whole ^ hash(code))
}

/// FNV-1a by words of eight bytes: the code may be megabytes.
fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().map(|word| u64::from_le_bytes(*word));
    words
        .chain(rest.iter().map(|byte| u64::from(*byte)))
        .fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23))
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: [fn(); 2] = [|| (), || ()];
    static TEXT: &[u8] = b"a constant of this program";
    static WORD: std::sync::Mutex<u64> = std::sync::Mutex::new(7);

    fn bytes_of<T>(value: &T) -> &[u8] {
        // SAFETY: the test reads no byte of it, only where it stands.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
    }

    #[test]
    fn constants_are_found_again_by_their_offset() {
        let image = Image::get();
        let offset = image.offset_of(TEXT).expect("text is constant");
        assert_eq!(image.constant(offset, TEXT.len()), Some(TEXT));
        let table = image.offset_of(bytes_of(&TABLE)).expect("a table of functions is constant after the start");
        assert_eq!(image.constant(table, size_of_val(&TABLE)).map(<[u8]>::as_ptr), Some((&raw const TABLE).cast()));
    }

    #[test]
    fn what_can_be_written_is_not_constant() {
        let image = Image::get();
        let local = 7u64;
        assert_eq!(image.offset_of(bytes_of(&WORD)), None);
        assert_eq!(image.offset_of(bytes_of(&local)), None);
        assert_eq!(image.offset_of(String::from("on the heap").as_bytes()), None);
    }

    #[test]
    fn offsets_from_elsewhere_lead_nowhere() {
        let image = Image::get();
        for offset in [u64::MAX, u64::MAX / 2, 1 << 40] {
            assert_eq!(image.constant(offset, 16), None);
        }
        let offset = image.offset_of(TEXT).unwrap();
        assert_eq!(image.constant(offset, usize::MAX), None);
        assert_eq!(image.constant(offset, 1 << 40), None);
    }

    #[test]
    fn a_build_has_a_number() {
        assert_ne!(Image::get().build(), 0);
        assert_eq!(Image::read().build(), Image::get().build());
        assert_ne!(hash(b"one build"), hash(b"two build"));
    }

    #[test]
    fn damaged_notes_are_no_notes() {
        let note = |name_len: u32, len: u32| {
            let mut note: Vec<u8> = [name_len, len, 3].iter().flat_map(|number| number.to_ne_bytes()).collect();
            note.extend(b"GNU\0abcd");
            note
        };
        let parse = |bytes: &[u8]| {
            let start = bytes.as_ptr().expose_provenance();
            let header = libc::Elf64_Phdr {
                p_type: libc::PT_LOAD,
                p_flags: libc::PF_R,
                p_vaddr: start as u64,
                p_filesz: bytes.len() as u64,
                p_memsz: bytes.len() as u64,
                p_offset: 0,
                p_paddr: 0,
                p_align: 1,
            };
            build_id(0, start..start + bytes.len(), &[header])
        };
        assert_eq!(parse(&note(4, 4)), Some(hash(b"abcd")));
        assert_eq!(parse(&note(4, u32::MAX)), None);
        assert_eq!(parse(&note(u32::MAX, 4)), None);
        assert_eq!(parse(&[1, 2, 3]), None);
    }
}
