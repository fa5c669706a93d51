//! Listening sockets that processes hand to each other.

use std::net::TcpListener;
use std::os::fd::{BorrowedFd, IntoRawFd, RawFd};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use tollway_server::Listener;

/// Opens a listening socket and returns its descriptor, which the caller closes. `OSError` says in
/// one sentence what is wrong and what to do.
#[pyfunction]
#[pyo3(signature = (host, port, reuse_port=true))]
pub(super) fn listen(py: Python<'_>, host: &str, port: u16, reuse_port: bool) -> PyResult<RawFd> {
    Ok(bind(py, host, port, reuse_port)?.into_raw_fd())
}

pub(super) fn bind(py: Python<'_>, host: &str, port: u16, reuse_port: bool) -> PyResult<TcpListener> {
    tollway_server::bind(host, port, reuse_port).map_err(|error| os_error(py, &error))
}

/// A second descriptor for a socket that listens.
pub(super) fn duplicate(descriptor: RawFd) -> PyResult<Listener> {
    if descriptor < 0 {
        return Err(PyValueError::new_err(format!("{descriptor} is not a descriptor")));
    }
    // SAFETY: the descriptor is not -1, and it is only borrowed for the call that duplicates it. That
    // the caller keeps it open meanwhile is given, since the GIL is held; if it is not open at all,
    // the call fails.
    let borrowed = unsafe { BorrowedFd::borrow_raw(descriptor) };
    Ok(Listener::try_from(borrowed.try_clone_to_owned()?)?)
}

/// One sentence, with the error number as an attribute: `OSError(number, text)` would put the
/// number in front of the sentence.
fn os_error(py: Python<'_>, error: &tollway_server::BindError) -> PyErr {
    let exception = PyOSError::new_err(error.to_string());
    if let Some(number) = error.raw_os_error()
        && let Err(failure) = exception.value(py).setattr(intern!(py, "errno"), number)
    {
        return failure;
    }
    exception
}
