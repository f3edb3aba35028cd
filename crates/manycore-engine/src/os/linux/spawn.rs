//! Starting a program.
//!
//! `posix_spawn` costs the same whatever the size of this process (0.6 ms where
//! fork and exec take 20 ms at 512 MiB), and lets exactly the named descriptors
//! through: `dup2(fd, fd)` in the child clears close-on-exec there and nowhere else.
//!
//! # Why this file is unsafe
//!
//! rustix has no `posix_spawn`; libc's takes pointers to C strings and to
//! structures it initialises itself.

#![allow(unsafe_code)]

use crate::error::{Error, Kind, Result};
use std::ffi::{CString, OsStr};
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;

/// Starts `program` with `arguments` (the first is its name) and `environment`
/// (`KEY=value`); it inherits the standard streams and the descriptors `inherit`
/// under the same numbers. Gives its process number.
pub fn spawn(program: &OsStr, arguments: &[&OsStr], environment: &[&OsStr], inherit: &[RawFd]) -> Result<u32> {
    let program = c_string(program)?;
    let arguments = arguments.iter().map(|text| c_string(text)).collect::<Result<Vec<_>>>()?;
    let environment = environment.iter().map(|text| c_string(text)).collect::<Result<Vec<_>>>()?;
    let pointers = |list: &[CString]| {
        list.iter().map(|text| text.as_ptr().cast_mut()).chain([std::ptr::null_mut()]).collect::<Vec<_>>()
    };
    let (argv, envp) = (pointers(&arguments), pointers(&environment));

    let mut actions = MaybeUninit::uninit();
    // SAFETY: `init` fills the structure; on failure it is not used.
    let code = unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) };
    if code != 0 {
        return Err(Error::os("preparing to start a process", code));
    }
    let mut code = 0;
    for fd in inherit {
        // SAFETY: `actions` was initialised above and is destroyed below.
        code = unsafe { libc::posix_spawn_file_actions_adddup2(actions.as_mut_ptr(), *fd, *fd) };
        if code != 0 {
            break;
        }
    }
    let mut pid = 0;
    if code == 0 {
        // SAFETY: every pointer leads to a NUL-terminated string or to an array
        // that ends with a null pointer, all alive until after the call.
        code = unsafe {
            libc::posix_spawn(
                &mut pid,
                program.as_ptr(),
                actions.as_ptr(),
                std::ptr::null(),
                argv.as_ptr(),
                envp.as_ptr(),
            )
        };
    }
    // SAFETY: initialised above, not used afterwards.
    unsafe { libc::posix_spawn_file_actions_destroy(actions.as_mut_ptr()) };
    if code != 0 {
        return Err(Error::os(format!("starting {}", program.to_string_lossy()), code));
    }
    u32::try_from(pid).map_err(|_| Error::new(Kind::Os, "posix_spawn gave no process number"))
}

fn c_string(text: &OsStr) -> Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| {
        Error::new(Kind::Os, format!("{} holds a zero byte and cannot be passed to a process", text.to_string_lossy()))
    })
}
