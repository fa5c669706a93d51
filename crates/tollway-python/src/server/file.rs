//! A file as a body: opened when the answer is made, read by the engine.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use tollway_server::app::Problem;
use tollway_server::{File, Response};

use super::core::Core;
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
}

impl FileBody {
    /// The answer: `response` with the file, a part of it, or only what the client has to know. 404
    /// where there is no such file among those that may be sent.
    pub(super) fn answer(&self, core: &Arc<Core>, request: &Bound<'_, Request>, response: Response) -> Response {
        let head = &request.get().head;
        match File::open(&self.path, &core.file_roots) {
            Some(file) => file.answer(head, response),
            None => problem(Problem::not_found(head.uri.path())),
        }
    }
}
