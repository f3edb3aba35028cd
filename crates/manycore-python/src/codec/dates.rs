//! The types of `datetime`, read and made by that module's own C interface.
//!
//! # Why this file is unsafe
//!
//! The interface is a table of functions and macros over raw pointers of exact types.
#![allow(unsafe_code)]

use std::os::raw::c_int;

use pyo3::ffi::{self, PyDateTime_CAPI, PyObject, PyTypeObject};
use pyo3::prelude::*;

use super::access::Owned;
use super::classes::Special;
use super::decode::{Decoder, Fault, new};
use super::encode::{Encoder, Stop};
use super::format::tag;
use crate::known::Known;

// What follows the tag. All of them but a difference may be in UTC.
const DATE: u8 = 0;
const TIME: u8 = 1;
const DATE_TIME: u8 = 2;
const DELTA: u8 = 3;
const IN_UTC: u8 = 4;

/// The module's table; it lives as long as the interpreter.
struct Api(*mut PyDateTime_CAPI);

// SAFETY: a table that nobody changes, used by attached threads.
unsafe impl Send for Api {}
// SAFETY: as above.
unsafe impl Sync for Api {}

fn api(py: Python<'_>) -> PyResult<&'static PyDateTime_CAPI> {
    static API: Known<Api> = Known::new();
    let found = API.get_or_try_init(py, || {
        // SAFETY: attached; the capsule of this name holds such a table, or there is an exception.
        let table = unsafe { ffi::PyCapsule_Import(ffi::PyDateTime_CAPSULE_NAME.as_ptr(), 1) };
        if table.is_null() { Err(PyErr::fetch(py)) } else { Ok(Api(table.cast())) }
    })?;
    // SAFETY: not null, and never freed.
    Ok(unsafe { &*found.0 })
}

/// Which of the module's types this is.
pub(super) fn special(py: Python<'_>, kind: *mut PyTypeObject) -> Option<Special> {
    // SAFETY: a live type, whose name ends in a zero.
    let name = unsafe { std::ffi::CStr::from_ptr((*kind).tp_name) };
    if !name.to_bytes().starts_with(b"datetime.") {
        return None;
    }
    let Ok(api) = api(py) else { return None };
    [
        (api.DateType, Special::Date),
        (api.TimeType, Special::Time),
        (api.DateTimeType, Special::DateTime),
        (api.DeltaType, Special::Delta),
    ]
    .into_iter()
    .find_map(|(known, special)| (known == kind).then_some(special))
}

impl Encoder {
    /// One of the module's objects. A time zone that is not UTC is an object that has to be asked.
    pub(super) unsafe fn date(&mut self, object: *mut PyObject, special: Special, depth: u32) -> Result<(), Stop> {
        // SAFETY: attached; a live object, exactly of the type that `special` says.
        unsafe {
            let py = Python::assume_attached();
            let zone = match special {
                Special::DateTime => ffi::PyDateTime_DATE_GET_TZINFO(object),
                Special::Time => ffi::PyDateTime_TIME_GET_TZINFO(object),
                _ => ffi::Py_None(),
            };
            let in_utc = match zone {
                zone if zone == ffi::Py_None() => 0,
                zone if api(py).is_ok_and(|api| api.TimeZone_UTC == zone) => IN_UTC,
                _ => return self.reduce(object, std::ptr::null_mut(), depth),
            };
            if self.met(object)? {
                return Ok(());
            }
            self.head.push(tag::DATE);
            let day = |this: &mut Self| {
                this.head.extend_from_slice(&(ffi::PyDateTime_GET_YEAR(object) as u16).to_le_bytes());
                this.head.push(ffi::PyDateTime_GET_MONTH(object) as u8);
                this.head.push(ffi::PyDateTime_GET_DAY(object) as u8);
            };
            match special {
                Special::Date => {
                    self.head.push(DATE);
                    day(self);
                }
                Special::DateTime => {
                    self.head.push(DATE_TIME | in_utc);
                    day(self);
                    self.clock(
                        [
                            ffi::PyDateTime_DATE_GET_HOUR(object),
                            ffi::PyDateTime_DATE_GET_MINUTE(object),
                            ffi::PyDateTime_DATE_GET_SECOND(object),
                            c_int::from(ffi::PyDateTime_DATE_GET_FOLD(object)),
                        ],
                        ffi::PyDateTime_DATE_GET_MICROSECOND(object),
                    );
                }
                Special::Time => {
                    self.head.push(TIME | in_utc);
                    self.clock(
                        [
                            ffi::PyDateTime_TIME_GET_HOUR(object),
                            ffi::PyDateTime_TIME_GET_MINUTE(object),
                            ffi::PyDateTime_TIME_GET_SECOND(object),
                            c_int::from(ffi::PyDateTime_TIME_GET_FOLD(object)),
                        ],
                        ffi::PyDateTime_TIME_GET_MICROSECOND(object),
                    );
                }
                _ => {
                    self.head.push(DELTA);
                    for part in [
                        ffi::PyDateTime_DELTA_GET_DAYS(object),
                        ffi::PyDateTime_DELTA_GET_SECONDS(object),
                        ffi::PyDateTime_DELTA_GET_MICROSECONDS(object),
                    ] {
                        self.head.extend_from_slice(&part.to_le_bytes());
                    }
                }
            }
        }
        Ok(())
    }

    /// Hour, minute, second, fold; microseconds.
    fn clock(&mut self, parts: [c_int; 4], micro: c_int) {
        self.head.extend_from_slice(&parts.map(|part| part as u8));
        self.head.extend_from_slice(&micro.to_le_bytes());
    }
}

impl Decoder {
    /// What follows a DATE. The module checks what it is given.
    pub(super) fn date(&mut self, py: Python<'_>) -> Result<Owned, Fault> {
        let kind = self.byte()?;
        let api = api(py).map_err(|error| Fault::raise(py, error))?;
        // SAFETY: attached; UTC and None live for ever.
        let zone = if kind & IN_UTC != 0 { api.TimeZone_UTC } else { unsafe { ffi::Py_None() } };
        // SAFETY: attached; the interface's functions with the types they belong to, which check the numbers.
        unsafe {
            match kind & !IN_UTC {
                DATE if kind == DATE => {
                    let [year, month, day] = self.day()?;
                    new((api.Date_FromDate)(year, month, day, api.DateType))
                }
                DATE_TIME => {
                    let [year, month, day] = self.day()?;
                    let ([hour, minute, second, fold], micro) = self.clock()?;
                    new((api.DateTime_FromDateAndTimeAndFold)(
                        year,
                        month,
                        day,
                        hour,
                        minute,
                        second,
                        micro,
                        zone,
                        fold,
                        api.DateTimeType,
                    ))
                }
                TIME => {
                    let ([hour, minute, second, fold], micro) = self.clock()?;
                    new((api.Time_FromTimeAndFold)(hour, minute, second, micro, zone, fold, api.TimeType))
                }
                DELTA if kind == DELTA => {
                    let parts: [c_int; 3] =
                        [self.array()?, self.array()?, self.array()?].map(|bytes: [u8; 4]| i32::from_le_bytes(bytes));
                    new((api.Delta_FromDelta)(parts[0], parts[1], parts[2], 1, api.DeltaType))
                }
                _ => Err(Fault::Tag),
            }
        }
    }

    fn day(&mut self) -> Result<[c_int; 3], Fault> {
        let year = u16::from_le_bytes(self.array()?);
        let [month, day]: [u8; 2] = self.array()?;
        Ok([c_int::from(year), c_int::from(month), c_int::from(day)])
    }

    fn clock(&mut self) -> Result<([c_int; 4], c_int), Fault> {
        let parts: [u8; 4] = self.array()?;
        Ok((parts.map(c_int::from), i32::from_le_bytes(self.array()?)))
    }
}
