//! The arguments of a handler: values read in Rust become Python objects, in the order that was
//! resolved when the route was registered.

use std::cell::RefCell;

use bytes::Bytes;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDate, PyDateTime, PyDelta, PyDict, PyFloat, PyInt, PyList, PyString, PyTime, PyTzInfo};
use pyo3::{IntoPyObjectExt, intern};
use tollway_server::app::{Date, FieldError, FormLimits, Part, PathParams, Problem, Time, Value};

use super::bodies::{Sent, UploadedPart};
use super::calls::Args;
use super::request::Request;
use super::routes::{Arg, Param, Place, Route};

/// Parameters as Python objects, before the request object exists. `None` is the place of an
/// argument that is filled later.
pub(super) type Bound1 = smallvec::SmallVec<[Option<Py<PyAny>>; 6]>;

/// Why a handler is not called.
pub(super) enum Refusal {
    /// The client's parameters: a list of `{"type", "loc", "msg"}`.
    Invalid(Py<PyList>),
    /// The body is of a type that the route does not read.
    Answer(Box<Problem>),
    /// Something raised.
    Failed(PyErr),
}

impl From<PyErr> for Refusal {
    fn from(error: PyErr) -> Self {
        Refusal::Failed(error)
    }
}

/// Reads and converts the parameters of a request.
pub(super) fn bind(
    py: Python<'_>,
    route: &Route,
    path: &PathParams<'_>,
    limits: &FormLimits,
    head: &http::request::Parts,
    body: &Bytes,
) -> Result<Bound1, Refusal> {
    let mut bound = Bound1::new();
    if route.binder.is_empty() {
        bound.extend(route.args.iter().map(|_| None));
        return Ok(bound);
    }
    let (query, headers) = (head.uri.query(), &head.headers);
    let sent = Sent::read(route, limits, head, body).map_err(|problem| Refusal::Answer(Box::new(problem)))?;
    let (mut values, mut errors) = route.binder.read(path, query, headers, sent.form());
    errors.extend(sent.wrong().cloned());
    // What could be read is decoded even where something else is wrong: all mistakes are told.
    let invalid = Invalid::default();
    for arg in &route.args {
        let Arg::Param(param) = arg else {
            bound.push(None);
            continue;
        };
        let value = match std::mem::replace(&mut values[param.index], Value::Absent) {
            Value::Absent if param.copied => param.default.call_method0(py, intern!(py, "copy"))?,
            Value::Absent => param.default.clone_ref(py),
            value => decoded(py, param, value, &invalid)?,
        };
        bound.push(Some(value));
    }
    match invalid.0.into_inner() {
        None if errors.is_empty() => Ok(bound),
        list => Err(Refusal::Invalid(error_list(py, &errors, list)?)),
    }
}

/// Fills in the request and the body.
///
/// # Errors
/// What the body's decoder raised.
pub(super) fn complete(py: Python<'_>, route: &Route, bound: Bound1, request: &Bound<'_, Request>) -> PyResult<Args> {
    let mut args = Args::with_capacity(bound.len());
    for (arg, value) in route.args.iter().zip(bound) {
        args.push(match (arg, value) {
            (_, Some(value)) => value,
            (Arg::Body { decode: Some(decode) }, None) => {
                decode.bind(py).call1((request.get().body_bytes(py),))?.unbind()
            }
            (Arg::Body { decode: None }, None) => request.get().body_bytes(py).into_any().unbind(),
            (_, None) => request.clone().into_any().unbind(),
        });
    }
    Ok(args)
}

/// Mistakes that decoders found.
#[derive(Default)]
struct Invalid<'py>(RefCell<Option<Bound<'py, PyList>>>);

impl<'py> Invalid<'py> {
    /// What a decoder returned, or None and an entry for what it refused.
    fn check(
        &self,
        decode: &Bound<'py, PyAny>,
        value: Bound<'py, PyAny>,
        place: &Place,
        index: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = decode.py();
        match decode.call1((value,)) {
            Err(error) if is_refusal(py, &error)? => {
                let entry = refusal_entry(py, place, index, &error)?;
                self.0.borrow_mut().get_or_insert_with(|| PyList::empty(py)).append(entry)?;
                Ok(py.None().into_bound(py))
            }
            result => result,
        }
    }
}

/// The object for a value: each element through the parameter's decoder, then the whole list.
fn decoded<'py>(py: Python<'py>, param: &Param, value: Value<'_>, invalid: &Invalid<'py>) -> PyResult<Py<PyAny>> {
    let one = |value: Value<'_>, index: Option<usize>| -> PyResult<Bound<'py, PyAny>> {
        let absent = matches!(value, Value::Absent);
        let object = convert(py, value)?;
        match &param.decode {
            Some(decode) if !absent => invalid.check(decode.bind(py), object, &param.place, index),
            _ => Ok(object),
        }
    };
    let Value::List(values) = value else { return Ok(one(value, None)?.unbind()) };
    let list = PyList::empty(py);
    for (index, value) in values.into_iter().enumerate() {
        list.append(one(value, Some(index))?)?;
    }
    match &param.whole {
        Some(whole) => Ok(invalid.check(whole.bind(py), list.into_any(), &param.place, None)?.unbind()),
        None => Ok(list.into_any().unbind()),
    }
}

/// Whether a decoder says that the text is wrong: `ValueError`, or the error of msgspec, which
/// is not one.
fn is_refusal(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    static MSGSPEC: PyOnceLock<Option<Py<PyAny>>> = PyOnceLock::new();
    if error.is_instance_of::<PyValueError>(py) {
        return Ok(true);
    }
    let class = MSGSPEC.get_or_try_init(py, || match py.import("msgspec") {
        Ok(module) => PyResult::Ok(Some(module.getattr("MsgspecError")?.unbind())),
        Err(_) => Ok(None),
    })?;
    Ok(class.as_ref().is_some_and(|class| error.is_instance(py, class.bind(py))))
}

fn refusal_entry<'py>(
    py: Python<'py>,
    place: &Place,
    index: Option<usize>,
    error: &PyErr,
) -> PyResult<Bound<'py, PyDict>> {
    let loc = PyList::new(py, [place.source, place.name.as_str()])?;
    if let Some(index) = index {
        loc.append(index)?;
    }
    entry(py, "value_error", loc, &error.value(py).to_string())
}

/// The mistakes as entries, then those that decoders found.
fn error_list(py: Python<'_>, errors: &[FieldError], more: Option<Bound<'_, PyList>>) -> PyResult<Py<PyList>> {
    let list = PyList::empty(py);
    for error in errors {
        let loc = PyList::empty(py);
        for part in &error.loc {
            match part {
                Part::Name(name) => loc.append(name)?,
                Part::Index(index) => loc.append(index)?,
            }
        }
        list.append(entry(py, error.code, loc, &error.message)?)?;
    }
    for entry in more.iter().flatten() {
        list.append(entry)?;
    }
    Ok(list.unbind())
}

fn entry<'py>(py: Python<'py>, code: &str, loc: Bound<'py, PyList>, message: &str) -> PyResult<Bound<'py, PyDict>> {
    let entry = PyDict::new(py);
    entry.set_item(intern!(py, "type"), code)?;
    entry.set_item(intern!(py, "loc"), loc)?;
    entry.set_item(intern!(py, "msg"), message)?;
    Ok(entry)
}

fn convert<'py>(py: Python<'py>, value: Value<'_>) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Absent => py.None().into_bound(py),
        Value::Str(text) => PyString::new(py, &text).into_any(),
        Value::Int(number) => PyInt::new(py, number).into_any(),
        Value::BigInt(text) => py.get_type::<PyInt>().call1((&*text,))?,
        Value::Float(number) => PyFloat::new(py, number).into_any(),
        Value::Bool(flag) => flag.into_bound_py_any(py)?,
        Value::Uuid(number) => uuid(py, number)?,
        Value::Date(date) => PyDate::new(py, year(date), date.month, date.day)?.into_any(),
        Value::Time(time) => {
            let zone = zone(py, time)?;
            PyTime::new(py, time.hour, time.minute, time.second, time.microsecond, zone.as_ref())?.into_any()
        }
        Value::DateTime(both) => {
            let (date, time) = (both.date, both.time);
            let zone = zone(py, time)?;
            let (hour, minute, second) = (time.hour, time.minute, time.second);
            let (month, day) = (date.month, date.day);
            PyDateTime::new(py, year(date), month, day, hour, minute, second, time.microsecond, zone.as_ref())?
                .into_any()
        }
        Value::Decimal(text) => {
            static DECIMAL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
            imported(py, &DECIMAL, "decimal", "Decimal")?.call1((&*text,))?
        }
        Value::File(file) => Bound::new(py, UploadedPart::new(file))?.into_any(),
        other => {
            return Err(PyValueError::new_err(format!("a parameter of an unknown kind: {other:?}")));
        }
    })
}

fn year(date: Date) -> i32 {
    i32::from(date.year)
}

fn zone<'py>(py: Python<'py>, time: Time) -> PyResult<Option<Bound<'py, PyTzInfo>>> {
    match time.offset {
        None => Ok(None),
        Some(0) => Ok(Some(PyTzInfo::utc(py)?.to_owned())),
        Some(seconds) => Ok(Some(PyTzInfo::fixed_offset(py, PyDelta::new(py, 0, seconds, 0, true)?)?)),
    }
}

fn uuid(py: Python<'_>, number: u128) -> PyResult<Bound<'_, PyAny>> {
    static UUID: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let keywords = PyDict::new(py);
    keywords.set_item(intern!(py, "int"), number)?;
    imported(py, &UUID, "uuid", "UUID")?.call((), Some(&keywords))
}

fn imported<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    module: &str,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    Ok(cell.get_or_try_init(py, || PyResult::Ok(py.import(module)?.getattr(name)?.unbind()))?.bind(py))
}
