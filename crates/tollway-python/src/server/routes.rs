//! Routes as Python describes them, checked and resolved once, when the server is made.

use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use pyo3::{PyTraverseError, PyVisit};
use tollway_http::ClientAddress;
use tollway_server::app::{Binder, FileRules, Finish, Kind, ParamSpec, Router, Secure, Source, path_names};

use super::auth::Auth;
use super::finish::Finishes;
use super::limits::Limits;

/// How a handler is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// `async def`, on the event loop.
    Async,
    /// `def`, on the thread pool.
    Pool,
    /// `def`, on the event loop's thread.
    Inline,
}

/// One positional argument of a handler.
#[derive(Debug)]
pub(super) enum Arg {
    /// The request itself.
    Request,
    /// The body, decoded where a decoder is given.
    Body { decode: Option<Py<PyAny>> },
    /// A parameter that the binder reads.
    Param(Param),
}

/// What becomes of a value that the binder read.
#[derive(Debug)]
pub(super) struct Param {
    /// Its position among those of the binder.
    pub(super) index: usize,
    pub(super) default: Py<PyAny>,
    /// Whether each request gets a copy of the default.
    pub(super) copied: bool,
    /// What it goes through, element by element where it is a list.
    pub(super) decode: Option<Py<PyAny>>,
    /// What a list goes through in the end.
    pub(super) whole: Option<Py<PyAny>>,
    pub(super) place: Place,
}

/// Where an argument comes from, for errors.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) source: &'static str,
    pub(super) name: String,
}

/// One route, ready to be called.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) name: String,
    pub(super) mode: Mode,
    pub(super) handler: Py<PyAny>,
    pub(super) args: Vec<Arg>,
    pub(super) binder: Binder,
    pub(super) status: StatusCode,
    pub(super) encode: Py<PyAny>,
    pub(super) limits: Option<Limits>,
    /// Most bytes of a body, where the route has a limit of its own.
    pub(super) max_body: Option<usize>,
    pub(super) auth: Option<Auth>,
    pub(super) address: Arc<ClientAddress>,
    /// When a request counts as one over TLS beside those that are.
    pub(super) secure: Arc<Secure>,
    pub(super) file_roots: Arc<[PathBuf]>,
    pub(super) finish: Option<Arc<Finish>>,
    /// A router with this route only, for the few who ask a request for its raw parameters.
    pub(super) alone: Router<()>,
}

impl Route {
    /// Shows the collector every Python object of the route.
    pub(super) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.handler)?;
        visit.call(&self.encode)?;
        if let Some(limits) = &self.limits {
            limits.traverse(visit)?;
        }
        for arg in &self.args {
            match arg {
                Arg::Request => {}
                Arg::Body { decode } => visit.call(decode)?,
                Arg::Param(param) => {
                    visit.call(&param.default)?;
                    visit.call(&param.decode)?;
                    visit.call(&param.whole)?;
                }
            }
        }
        Ok(())
    }
}

/// Builds the router of a server.
///
/// # Errors
/// `ValueError` that names the route and what is wrong with it.
pub(super) fn build(
    routes: &Bound<'_, PyList>,
    address: &Arc<ClientAddress>,
    file_roots: &Arc<[PathBuf]>,
    finishes: &mut Finishes,
) -> PyResult<Router<Arc<Route>>> {
    let mut router = Router::new();
    for (position, item) in routes.iter().enumerate() {
        let Ok(dict) = item.cast::<PyDict>() else {
            return Err(PyValueError::new_err(format!("routes[{position}] must be a dict")));
        };
        let fields = Fields { dict, what: format!("routes[{position}]") };
        let mut route = route(&fields, address, finishes)?;
        route.file_roots = Arc::clone(file_roots);
        let route = Arc::new(route);
        let (method, path, name) = (route.method.clone(), route.path.clone(), route.name.clone());
        router.insert(method, &path, &name, route).map_err(|error| PyValueError::new_err(error.to_string()))?;
    }
    Ok(router)
}

/// A dict whose fields are read with errors that name it.
struct Fields<'a, 'py> {
    dict: &'a Bound<'py, PyDict>,
    what: String,
}

impl<'py> Fields<'_, 'py> {
    fn get(&self, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.dict.get_item(name)?.filter(|value| !value.is_none()))
    }

    fn need(&self, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.get(name)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn text(&self, name: &str) -> PyResult<String> {
        let value = self.need(name)?;
        Ok(value.cast::<PyString>().map_err(|_| self.wrong(name, "must be a str"))?.to_string())
    }

    fn flag(&self, name: &str, default: bool) -> PyResult<bool> {
        self.get(name)?.map_or(Ok(default), |value| value.is_truthy())
    }

    fn number(&self, name: &str) -> PyResult<Option<usize>> {
        let value = self.get(name)?;
        value.map(|value| value.extract().map_err(|_| self.wrong(name, "must be a whole number"))).transpose()
    }

    fn texts(&self, name: &str) -> PyResult<Vec<String>> {
        let value = self.get(name)?;
        value.map_or(Ok(Vec::new()), |value| value.extract().map_err(|_| self.wrong(name, "must be a list of text")))
    }

    fn callable(&self, name: &str) -> PyResult<Option<Py<PyAny>>> {
        match self.get(name)? {
            Some(value) if !value.is_callable() => Err(self.wrong(name, "must be callable")),
            value => Ok(value.map(Bound::unbind)),
        }
    }

    fn list(&self, name: &str) -> PyResult<Option<Bound<'py, PyList>>> {
        self.get(name)?
            .map(|value| value.cast_into::<PyList>().map_err(|_| self.wrong(name, "must be a list")))
            .transpose()
    }

    fn wrong(&self, name: &str, problem: &str) -> PyErr {
        PyValueError::new_err(format!("{}: {name:?} {problem}", self.what))
    }
}

fn route(fields: &Fields<'_, '_>, address: &Arc<ClientAddress>, finishes: &mut Finishes) -> PyResult<Route> {
    let py = fields.dict.py();
    let path = fields.text("path")?;
    let method_text = fields.text("method")?;
    let method = Method::from_bytes(method_text.to_ascii_uppercase().as_bytes())
        .map_err(|_| fields.wrong("method", "is not an HTTP method"))?;
    let name = match fields.get("name")? {
        Some(name) => name.to_string(),
        None => format!("{method} {path}"),
    };
    let fields = Fields { dict: fields.dict, what: format!("route {method} {path} ({name})") };
    let refuse = |error: &dyn std::fmt::Display| PyValueError::new_err(format!("{}: {error}", fields.what));

    let names = path_names(&path).map_err(|error| refuse(&error))?;
    let mut specs = Vec::new();
    let mut args = Vec::new();
    if let Some(list) = fields.list("args")? {
        for (position, item) in list.iter().enumerate() {
            let dict = item.cast::<PyDict>().map_err(|_| fields.wrong("args", "must hold dicts"))?;
            let what = format!("{}: args[{position}]", fields.what);
            args.push(arg(&Fields { dict, what }, &mut specs)?);
        }
    }
    let binder = Binder::new(specs, &names).map_err(|error| refuse(&error))?;
    let mut alone = Router::new();
    alone.insert(method.clone(), &path, &name, ()).map_err(|error| refuse(&error))?;
    let handler = fields.callable("handler")?.ok_or_else(|| fields.wrong("handler", "is missing"))?;
    let encode = fields.callable("encode")?.ok_or_else(|| fields.wrong("encode", "is missing"))?;
    let limits = match fields.list("limits")? {
        Some(list) => Limits::read(&list).map_err(|error| refuse(&error.value(py)))?,
        None => None,
    };
    let auth = fields.get("auth")?.map(|given| Auth::read(&given)).transpose();
    let auth = auth.map_err(|error| refuse(&error.value(py)))?;
    let finish = match fields.get("finish")? {
        Some(dict) => finishes.read(&dict).map_err(|error| refuse(&error.value(py)))?,
        None => None,
    };
    Ok(Route {
        mode: mode(&fields)?,
        status: status(&fields)?,
        max_body: fields.number("max_body")?,
        address: Arc::clone(address),
        secure: Arc::clone(&finishes.secure),
        file_roots: Arc::default(),
        finish,
        method,
        path,
        name,
        handler,
        args,
        binder,
        encode,
        limits,
        auth,
        alone,
    })
}

fn mode(fields: &Fields<'_, '_>) -> PyResult<Mode> {
    match fields.text("mode")?.as_str() {
        "async" => Ok(Mode::Async),
        "sync" => Ok(Mode::Pool),
        "inline" => Ok(Mode::Inline),
        _ => Err(fields.wrong("mode", "must be \"async\", \"sync\" or \"inline\"")),
    }
}

fn status(fields: &Fields<'_, '_>) -> PyResult<StatusCode> {
    let Some(value) = fields.get("status")? else { return Ok(StatusCode::OK) };
    let code: u16 = value.extract().map_err(|_| fields.wrong("status", "must be a number from 200 to 599"))?;
    match StatusCode::from_u16(code) {
        Ok(status) if (200..600).contains(&code) => Ok(status),
        _ => Err(fields.wrong("status", "must be a number from 200 to 599")),
    }
}

fn arg(fields: &Fields<'_, '_>, specs: &mut Vec<ParamSpec>) -> PyResult<Arg> {
    let py = fields.dict.py();
    let source_name = fields.text("source")?;
    let decode = fields.callable("decode")?;
    match source_name.as_str() {
        "request" => return Ok(Arg::Request),
        "body" => return Ok(Arg::Body { decode }),
        _ => {}
    }
    let source = Source::from_name(&source_name).ok_or_else(|| {
        fields.wrong("source", "must be one of request, path, query, header, cookie, form, file and body")
    })?;
    let name = match fields.get("alias")? {
        Some(alias) => alias.to_string(),
        None => fields.text("name")?,
    };
    let kind_name = match fields.get("kind")? {
        Some(kind) => kind.to_string(),
        None => "str".to_owned(),
    };
    let kind = Kind::from_name(&kind_name).ok_or_else(|| {
        let problem =
            format!("must be one of {}; for other types give \"str\" and a \"decode\"", Kind::NAMES.join(", "));
        fields.wrong("kind", &problem)
    })?;
    let spec = ParamSpec {
        name: name.clone(),
        source,
        kind,
        required: fields.flag("required", source == Source::Path)?,
        list: fields.flag("list", false)?,
        rules: FileRules {
            max_size: fields.number("max_size")?,
            min_size: fields.number("min_size")?,
            types: fields.texts("types")?,
            max_files: fields.number("max_files")?,
        },
    };
    specs.push(spec);
    Ok(Arg::Param(Param {
        index: specs.len() - 1,
        default: fields.dict.get_item("default")?.map_or_else(|| py.None(), Bound::unbind),
        copied: fields.flag("copied", false)?,
        decode,
        whole: fields.callable("whole")?,
        place: Place { source: source.place(), name },
    }))
}

/// `application/json`.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// `application/octet-stream`.
pub(super) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
/// `text/plain; charset=utf-8`.
pub(super) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
