//! The one tokio runtime of a process, made when a remote store is first used.

use std::mem::ManuallyDrop;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::{PyResult, Python};
use tokio::runtime::{Builder, Handle, Runtime};

/// The longest a fork waits for the runtime's thread.
const PATIENCE: Duration = Duration::from_secs(1);

/// The process it was made in, and the runtime. A forked child must not touch its parent's, not
/// even to drop it: its threads are not there.
static RUNTIME: Mutex<Option<(u32, ManuallyDrop<Runtime>)>> = Mutex::new(None);

/// The runtime of this process.
pub(crate) fn handle() -> PyResult<Handle> {
    let mut runtime = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    let here = std::process::id();
    if let Some(handle) = made_in(&runtime, here) {
        return Ok(handle);
    }
    let made = Builder::new_multi_thread().worker_threads(1).thread_name("tollway").enable_all().build();
    let made = made.map_err(|error| PyRuntimeError::new_err(format!("no thread for the stores: {error}")))?;
    let handle = made.handle().clone();
    *runtime = Some((here, ManuallyDrop::new(made)));
    Ok(handle)
}

fn made_in(runtime: &Option<(u32, ManuallyDrop<Runtime>)>, process: u32) -> Option<Handle> {
    runtime.as_ref().filter(|(made_in, _)| *made_in == process).map(|(_, runtime)| runtime.handle().clone())
}

/// The runtime's one thread stands still while this lives.
///
/// A forked child gets what the thread was in the middle of, and not the thread: a lock that it held,
/// or a value of the whole process that it was the first to make, would be waited for in the child
/// for ever. Inside this task the thread holds nothing.
pub(crate) struct Still {
    process: u32,
    release: Option<mpsc::Sender<()>>,
}

impl Still {
    /// Waits without the GIL, which the thread may need before it gets here, for at most a second.
    pub(crate) fn stand(py: Python<'_>) -> Option<Self> {
        let process = std::process::id();
        let handle = made_in(&RUNTIME.lock().unwrap_or_else(PoisonError::into_inner), process)?;
        let (arrived, arrival) = mpsc::sync_channel(1);
        let (release, released) = mpsc::channel::<()>();
        handle.spawn(async move {
            let _ = arrived.send(());
            let _ = released.recv();
        });
        py.detach(move || arrival.recv_timeout(PATIENCE).ok());
        Some(Self { process, release: Some(release) })
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            // In a child nobody waits for it, and its own lock may have been copied while it was held.
            std::mem::forget(self.release.take());
        }
    }
}
