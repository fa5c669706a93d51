//! The arguments of a handler: values read in Rust become Python objects, in the order that was
//! resolved when the route was registered.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDate, PyDateTime, PyDelta, PyDict, PyFloat, PyInt, PyList, PyString, PyTime, PyTzInfo};
use pyo3::{IntoPyObjectExt, intern};
use tollway_server::app::{Date, FieldError, Part, PathParams, Time, Value};

use super::calls::Args;
use super::request::Request;
use super::routes::{Arg, Place, Route};

/// Parameters as Python objects, before the request object exists. `None` is the place of an
/// argument that is filled later.
pub(super) type Bound1 = smallvec::SmallVec<[Option<Py<PyAny>>; 6]>;

/// Why a handler is not called.
pub(super) enum Refusal {
    /// The client's parameters: a list of `{"type", "loc", "msg"}`.
    Invalid(Py<PyList>),
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
    head: &http::request::Parts,
) -> Result<Bound1, Refusal> {
    let mut bound = Bound1::new();
    if route.binder.is_empty() {
        bound.extend(route.args.iter().map(|_| None));
        return Ok(bound);
    }
    let (query, headers) = (head.uri.query(), &head.headers);
    let mut values = match route.binder.bind(path, query, headers) {
        Ok(values) => values,
        Err(errors) => return Err(Refusal::Invalid(error_list(py, &errors)?)),
    };
    let mut invalid: Option<Bound<'_, PyList>> = None;
    for arg in &route.args {
        let Arg::Param { index, default, decode, place } = arg else {
            bound.push(None);
            continue;
        };
        let value = std::mem::replace(&mut values[*index], Value::Absent);
        match (value, decode) {
            (Value::Absent, _) => bound.push(Some(default.clone_ref(py))),
            (value, None) => bound.push(Some(convert(py, value)?.unbind())),
            (value, Some(decode)) => {
                let errors = match &invalid {
                    Some(errors) => errors,
                    None => invalid.insert(PyList::empty(py)),
                };
                bound.push(Some(decoded(decode.bind(py), value, place, errors)?));
            }
        }
    }
    match invalid {
        Some(errors) if !errors.is_empty() => Err(Refusal::Invalid(errors.unbind())),
        _ => Ok(bound),
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

/// Runs a parameter's own decoder, on each element of a list. What it refuses goes to `errors`.
fn decoded(
    decode: &Bound<'_, PyAny>,
    value: Value<'_>,
    place: &Place,
    errors: &Bound<'_, PyList>,
) -> PyResult<Py<PyAny>> {
    let py = decode.py();
    let one = |value: Value<'_>, index: Option<usize>| -> PyResult<Bound<'_, PyAny>> {
        match decode.call1((convert(py, value)?,)) {
            Ok(object) => Ok(object),
            Err(error) if is_refusal(py, &error)? => {
                errors.append(refusal_entry(py, place, index, &error)?)?;
                Ok(py.None().into_bound(py))
            }
            Err(error) => Err(error),
        }
    };
    match value {
        Value::List(values) => {
            let objects = PyList::empty(py);
            for (index, value) in values.into_iter().enumerate() {
                objects.append(one(value, Some(index))?)?;
            }
            Ok(objects.into_any().unbind())
        }
        value => Ok(one(value, None)?.unbind()),
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

fn error_list(py: Python<'_>, errors: &[FieldError]) -> PyResult<Py<PyList>> {
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
        Value::List(values) => {
            let list = PyList::empty(py);
            for value in values {
                list.append(convert(py, value)?)?;
            }
            list.into_any()
        }
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
