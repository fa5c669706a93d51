//! A file as a body: opened when the answer is made, read by the engine.

use std::os::fd::{IntoRawFd, RawFd};
use std::path::PathBuf;

use pyo3::prelude::*;
use tollway_server::app::Problem;
use tollway_server::{File, Response};

use super::request::Request;
use super::respond::problem;

/// The path of a file that an answer consists of.
#[pyclass(module = "tollway._tollway", frozen)]
pub(super) struct FileBody {
    path: PathBuf,
}

#[pymethods]
impl FileBody {
    #[new]
    fn new(path: PathBuf) -> Self {
        FileBody { path }
    }

    /// Opens the file for somebody else to send as the answer to `request`: a descriptor to be
    /// closed by the caller, or None where there is no such file among those that may be sent.
    fn open(&self, request: &Bound<'_, Request>) -> Option<RawFd> {
        Some(File::open(&self.path, request.get().file_roots())?.into_inner().ok()?.into_raw_fd())
    }
}

impl FileBody {
    /// The answer: `response` with the file, a part of it, or only what the client has to know. 404
    /// where there is no such file among those that may be sent.
    pub(super) fn answer(&self, request: &Bound<'_, Request>, response: Response) -> Response {
        let request = request.get();
        let head = &request.head;
        match File::open(&self.path, request.file_roots()) {
            Some(file) => file.answer(head, response),
            None => problem(Problem::not_found(head.uri.path())),
        }
    }
}
