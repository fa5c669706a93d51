//! The HTTP server for Python: an event loop's thread is the server.
//!
//! The engine's epoll descriptor is registered with the loop like any other reader. When it is
//! readable the loop calls `Server._pump`, which accepts, reads, parses, calls handlers and
//! writes, all under the one GIL acquisition that the loop holds anyway. An async handler is
//! stepped at once by a task of our own; only one that waits touches the loop again. Plain
//! functions run on a small pool of threads.

mod arguments;
mod asyncio;
mod auth;
mod bodies;
mod calls;
mod cell;
mod core;
mod file;
mod finish;
mod handler;
mod lanes;
mod lifecycle;
mod limits;
mod mappings;
mod meta;
mod outcome;
mod passage;
mod pool;
mod request;
mod respond;
mod routes;
mod settings;
mod sockets;
mod stream;
mod task;
mod task_api;

use pyo3::prelude::*;

/// Adds the server's classes to the native module.
///
/// # Errors
/// What Python raised.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<lifecycle::Server>()?;
    module.add_class::<request::Request>()?;
    module.add_class::<bodies::UploadedPart>()?;
    module.add_class::<task::Task>()?;
    module.add_function(wrap_pyfunction!(sockets::listen, module)?)?;
    auth::register(module)?;
    module.add_class::<stream::Stream>()?;
    module.add_class::<file::FileBody>()?;
    Ok(())
}
