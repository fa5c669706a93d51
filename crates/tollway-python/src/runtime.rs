//! The one tokio runtime of a process, made when a remote store is first used.

use std::mem::ManuallyDrop;
use std::sync::{Mutex, PoisonError};

use pyo3::PyResult;
use pyo3::exceptions::PyRuntimeError;
use tokio::runtime::{Builder, Handle, Runtime};

/// The process it was made in, and the runtime. A forked child must not touch its parent's, not
/// even to drop it: its threads are not there.
static RUNTIME: Mutex<Option<(u32, ManuallyDrop<Runtime>)>> = Mutex::new(None);

/// The runtime of this process.
pub(crate) fn handle() -> PyResult<Handle> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let here = std::process::id();
    if let Some((process, runtime)) = &*runtime
        && *process == here
    {
        return Ok(runtime.handle().clone());
    }
    let made = Builder::new_multi_thread().worker_threads(1).thread_name("tollway").enable_all().build();
    let made = made.map_err(|error| PyRuntimeError::new_err(format!("no thread for the stores: {error}")))?;
    let handle = made.handle().clone();
    *runtime = Some((here, ManuallyDrop::new(made)));
    Ok(handle)
}
