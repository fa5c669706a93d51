//! Bodies: how large they may be, forms, and the files in them.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use tollway_server::app::{FieldError, Form, FormError, FormFile, FormLimits, Problem};

use super::routes::Route;

/// Largest body of a route with files, unless the settings say otherwise.
const MAX_UPLOAD: usize = 10 * 1024 * 1024;

/// What bodies may be like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bodies {
    /// Most bytes of a body.
    pub(super) max_body: usize,
    /// Most bytes of a body with files.
    pub(super) max_upload: usize,
    pub(super) forms: FormLimits,
}

impl Bodies {
    pub(super) fn new(max_body: usize) -> Self {
        Bodies { max_body, max_upload: MAX_UPLOAD.max(max_body), forms: FormLimits::default() }
    }

    /// Most bytes of a body of this route.
    pub(super) fn most(&self, route: &Route) -> usize {
        let usual = if route.binder.uses_files() { self.max_upload } else { self.max_body };
        route.max_body.unwrap_or(usual)
    }
}

/// The form of a request, where the route reads one.
pub(super) enum Sent<'b> {
    /// The route reads none.
    Nothing,
    /// The form.
    Form(Form<'b>),
    /// What is wrong with it.
    Wrong(FieldError),
}

impl<'b> Sent<'b> {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// The answer to a body of another media type.
    pub(super) fn read(
        route: &Route,
        limits: &FormLimits,
        head: &http::request::Parts,
        body: &'b Bytes,
    ) -> Result<Sent<'b>, Problem> {
        if !route.binder.uses_form() {
            return Ok(Sent::Nothing);
        }
        let files = route.binder.needs_files();
        match Form::read(&head.headers, body, files, limits) {
            Ok(form) => Ok(Sent::Form(form)),
            Err(FormError::Invalid(error)) => Ok(Sent::Wrong(error)),
            Err(FormError::WrongType(sent)) => Err(Problem::unsupported(&sent, Form::accepted(files))),
        }
    }

    /// What is wrong with the form.
    pub(super) fn wrong(&self) -> Option<&FieldError> {
        match self {
            Sent::Wrong(error) => Some(error),
            Sent::Nothing | Sent::Form(_) => None,
        }
    }

    pub(super) fn form(&self) -> Option<&Form<'b>> {
        match self {
            Sent::Form(form) => Some(form),
            Sent::Nothing | Sent::Wrong(_) => None,
        }
    }
}

/// A file of a form, in the memory of the body.
#[pyclass(name = "UploadedPart", module = "tollway._tollway", frozen)]
pub(super) struct UploadedPart {
    file: FormFile,
}

impl UploadedPart {
    pub(super) fn new(file: &FormFile) -> Self {
        UploadedPart { file: file.clone() }
    }
}

#[pymethods]
impl UploadedPart {
    /// The name of the file, without folders.
    #[getter]
    fn filename(&self) -> &str {
        &self.file.filename
    }

    /// The media type that the client states.
    #[getter]
    fn content_type(&self) -> &str {
        &self.file.content_type
    }

    /// The headers of the part, names in lower case.
    #[getter]
    fn headers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.file.headers.iter().map(|(name, value)| (name, value)))
    }

    fn __len__(&self) -> usize {
        self.file.content.len()
    }

    /// The bytes from `start` up to `stop`, both within the length.
    fn bytes<'py>(&self, py: Python<'py>, start: usize, stop: usize) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.file.content.get(start..stop).unwrap_or_default())
    }

    /// Writes the content to a file, without the GIL. `OSError` says why it cannot.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        Ok(py.detach(|| File::create(path)?.write_all(&self.file.content))?)
    }
}
