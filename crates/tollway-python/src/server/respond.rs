//! From what a handler returned or raised to a response.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Response as HttpResponse, StatusCode};
use pyo3::exceptions::{PyBaseException, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};
use pyo3::{PyTraverseError, PyVisit, intern};
use tollway_server::app::{PROBLEM_JSON, Problem};
use tollway_server::{Body, Response};

use super::core::Core;
use super::file::FileBody;
use super::handler::busy;
use super::request::Request;
use super::routes::{JSON, OCTETS, Route, TEXT};
use super::stream::Stream;

/// Bodies from this size on are sent from the Python object's own memory.
pub(super) const SHARE_FROM: usize = 16 * 1024;

/// The callables that shape answers.
#[derive(Debug)]
pub(super) struct Hooks {
    pub(super) on_error: Option<Py<PyAny>>,
    pub(super) on_validation: Option<Py<PyAny>>,
    pub(super) response_type: Option<Py<PyAny>>,
    /// A class of responses that are not ours, and what makes ours of them.
    pub(super) carried: Option<(Py<PyAny>, Py<PyAny>)>,
}

impl Hooks {
    /// Shows the collector every Python object.
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.on_error)?;
        visit.call(&self.on_validation)?;
        if let Some((class, carry)) = &self.carried {
            visit.call(class)?;
            visit.call(carry)?;
        }
        visit.call(&self.response_type)
    }

    /// The response for what a handler returned. A value that cannot be sent is an error of the
    /// handler.
    #[inline]
    pub(super) fn returned(
        &self,
        core: &Arc<Core>,
        route: &Arc<Route>,
        request: &Bound<'_, Request>,
        value: &Bound<'_, PyAny>,
    ) -> Response {
        match self.encode(core, route, request, value) {
            Ok(response) => response,
            Err(error) => self.raised(request, error),
        }
    }

    fn encode(
        &self,
        core: &Arc<Core>,
        route: &Arc<Route>,
        request: &Bound<'_, Request>,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<Response> {
        let py = value.py();
        if let Some(class) = &self.response_type
            && value.is_instance(class.bind(py))?
        {
            let status: u16 = value.getattr(intern!(py, "status_code"))?.extract()?;
            let headers = value.getattr(intern!(py, "headers"))?;
            let content = value.getattr(intern!(py, "body"))?;
            if let Ok(stream) = content.cast_exact::<Stream>() {
                return match stream.get().body(core, route, request)? {
                    Some(body) => assembled(status, &headers, body),
                    None => Ok(busy("too many answers are being streamed")),
                };
            }
            if let Ok(file) = content.cast_exact::<FileBody>() {
                let response = assembled(status, &headers, Body::Empty)?;
                return Ok(file.get().answer(request, response));
            }
            return assemble(status, &headers, &content);
        }
        if let Some((class, carry)) = &self.carried
            && !value.is_exact_instance_of::<PyDict>()
            && value.is_instance(class.bind(py))?
        {
            let carried = carry.bind(py).call1((value,))?;
            return self.encode(core, route, request, &carried);
        }
        let mut response = if route.status == StatusCode::NO_CONTENT {
            HttpResponse::new(Body::Empty)
        } else if let Ok(bytes) = value.cast_exact::<PyBytes>() {
            with_type(body(bytes), OCTETS)
        } else if let Ok(text) = value.cast_exact::<PyString>() {
            with_type(Body::from(text.to_str()?.to_owned()), TEXT)
        } else {
            let encoded = route.encode.bind(py).call1((value,))?;
            with_type(body(bytes_of(&encoded, "encode")?), JSON)
        };
        *response.status_mut() = route.status;
        Ok(response)
    }

    /// The response for what a handler raised.
    pub(super) fn raised(&self, request: &Bound<'_, Request>, error: PyErr) -> Response {
        let py = request.py();
        let Some(hook) = &self.on_error else {
            report(py, "a handler failed", &error);
            return problem(Problem::internal());
        };
        match hook.bind(py).call1((request, exception(py, &error))).and_then(|answer| answered(&answer)) {
            Ok(response) => response,
            Err(failure) => {
                report(py, "a handler failed", &error);
                report(py, "the error handler failed too", &failure);
                problem(Problem::internal())
            }
        }
    }

    /// The response for parameters that could not be read.
    pub(super) fn invalid(&self, request: &Bound<'_, Request>, errors: &Bound<'_, PyList>) -> Response {
        let py = request.py();
        let Some(hook) = &self.on_validation else {
            return plain_invalid(errors).unwrap_or_else(|error| self.raised(request, error));
        };
        match hook.bind(py).call1((request, errors)).and_then(|answer| answered(&answer)) {
            Ok(response) => response,
            Err(failure) => {
                report(py, "the handler of invalid requests failed", &failure);
                problem(Problem::internal())
            }
        }
    }
}

/// A response of the server's own.
pub(super) fn problem(problem: Problem) -> Response {
    problem.response().map(Body::from)
}

/// Sends an exception to the log `tollway.bolt`; to standard error when even that fails.
pub(super) fn report(py: Python<'_>, message: &str, error: &PyErr) {
    let log = || -> PyResult<()> {
        let logger = py.import("logging")?.call_method1("getLogger", ("tollway.bolt",))?;
        let keywords = PyDict::new(py);
        keywords.set_item("exc_info", exception(py, error))?;
        logger.call_method("error", (message,), Some(&keywords))?;
        Ok(())
    };
    if let Err(failure) = log() {
        failure.write_unraisable(py, None);
        error.clone_ref(py).write_unraisable(py, None);
    }
}

/// The exception object, complete with its traceback: before Python 3.12 the two travel apart.
fn exception(py: Python<'_>, error: &PyErr) -> Py<PyBaseException> {
    error.clone_ref(py).into_value(py)
}

/// The 422 of a server without a hook for it.
fn plain_invalid(errors: &Bound<'_, PyList>) -> PyResult<Response> {
    let py = errors.py();
    let members = PyDict::new(py);
    members.set_item("type", "about:blank")?;
    members.set_item("title", "Unprocessable Content")?;
    members.set_item("status", 422)?;
    members.set_item("detail", "the request has parameters that are not valid")?;
    members.set_item("errors", errors)?;
    let text: String = py.import("json")?.call_method1("dumps", (members,))?.extract()?;
    let mut response = with_type(Body::from(text), HeaderValue::from_static(PROBLEM_JSON));
    *response.status_mut() = StatusCode::UNPROCESSABLE_ENTITY;
    Ok(response)
}

fn answered(answer: &Bound<'_, PyAny>) -> PyResult<Response> {
    let (status, headers, body): (u16, Bound<'_, PyAny>, Bound<'_, PyAny>) = answer.extract()?;
    assemble(status, &headers, &body)
}

fn assemble(status: u16, headers: &Bound<'_, PyAny>, content: &Bound<'_, PyAny>) -> PyResult<Response> {
    assembled(status, headers, body(bytes_of(content, "a response's body")?))
}

fn assembled(status: u16, headers: &Bound<'_, PyAny>, content: Body) -> PyResult<Response> {
    let code = match StatusCode::from_u16(status) {
        Ok(code) if (200..600).contains(&status) => code,
        _ => return Err(PyValueError::new_err(format!("a response's status must be from 200 to 599, got {status}"))),
    };
    let bodiless = matches!(code, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let mut response = HttpResponse::new(if bodiless { Body::Empty } else { content });
    *response.status_mut() = code;
    let map = response.headers_mut();
    for pair in headers.try_iter()? {
        append(map, &pair?)?;
    }
    Ok(response)
}

/// Adds one header. The framing is the server's own: lengths given by hand are left out.
fn append(map: &mut HeaderMap, pair: &Bound<'_, PyAny>) -> PyResult<()> {
    let (name, value): (Bound<'_, PyString>, Bound<'_, PyString>) = pair.extract()?;
    let (name, value) = (name.to_cow()?, value.to_cow()?);
    let key = HeaderName::try_from(&*name)
        .map_err(|_| PyValueError::new_err(format!("{name:?} is not a possible header name")))?;
    if key == CONTENT_LENGTH || key == TRANSFER_ENCODING {
        return Ok(());
    }
    map.append(key, header_value(&name, &value)?);
    Ok(())
}

/// Header values are Latin-1 on the wire.
fn header_value(name: &str, value: &str) -> PyResult<HeaderValue> {
    let bad = || PyValueError::new_err(format!("the header {name} cannot have the value {value:?}"));
    if value.is_ascii() {
        return HeaderValue::from_str(value).map_err(|_| bad());
    }
    let bytes: Vec<u8> =
        value.chars().map(|c| u8::try_from(u32::from(c))).collect::<Result<_, _>>().map_err(|_| bad())?;
    HeaderValue::from_bytes(&bytes).map_err(|_| bad())
}

fn with_type(body: Body, content_type: HeaderValue) -> Response {
    let mut response = HttpResponse::new(body);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn bytes_of<'a, 'py>(value: &'a Bound<'py, PyAny>, what: &str) -> PyResult<&'a Bound<'py, PyBytes>> {
    value.cast::<PyBytes>().map_err(|_| {
        let class = value.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!("{what} must be bytes, got {class}"))
    })
}

/// Small bodies are copied next to the head; large ones are sent from where they are.
fn body(bytes: &Bound<'_, PyBytes>) -> Body {
    let content = bytes.as_bytes();
    if content.is_empty() {
        Body::Empty
    } else if content.len() < SHARE_FROM {
        Body::Full(Bytes::copy_from_slice(content))
    } else {
        Body::Full(Bytes::from_owner(PyBackedBytes::from(bytes.clone())))
    }
}
