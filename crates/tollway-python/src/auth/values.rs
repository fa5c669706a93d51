//! JSON values to Python's and back.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat, PyList, PyString};
use serde_json::{Map, Value};
use tollway_auth::Claims;

/// Claims as a dict.
pub(crate) fn dict_of<'py>(py: Python<'py>, map: &Map<String, Value>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in map {
        dict.set_item(name, object_of(py, value)?)?;
    }
    Ok(dict)
}

fn object_of<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    Ok(match value {
        Value::Null => py.None().into_bound(py),
        Value::Bool(flag) => flag.into_pyobject(py)?.to_owned().into_any(),
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => whole.into_pyobject(py)?.into_any(),
            (None, Some(whole)) => whole.into_pyobject(py)?.into_any(),
            (None, None) => PyFloat::new(py, number.as_f64().unwrap_or(f64::NAN)).into_any(),
        },
        Value::String(text) => PyString::new(py, text).into_any(),
        Value::Array(list) => {
            let items = PyList::empty(py);
            for item in list {
                items.append(object_of(py, item)?)?;
            }
            items.into_any()
        }
        Value::Object(map) => dict_of(py, map)?.into_any(),
    })
}

/// Claims that Python gives as JSON text.
///
/// # Errors
/// `ValueError` when the text is no JSON object.
pub(crate) fn claims_of(text: &[u8]) -> PyResult<Claims> {
    serde_json::from_slice(text)
        .map_err(|error| pyo3::exceptions::PyValueError::new_err(format!("claims are a JSON object: {error}")))
}
