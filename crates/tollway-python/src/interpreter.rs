//! Entering Python from threads of our own, and not at its end.
//!
//! A foreign thread that asks for the GIL while the interpreter finalizes is ended by it in the
//! middle of our frames, and the process aborts. So foreign threads enter through [`enter`], and
//! before finalizing begins an exit handler closes the door and waits for those inside.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::runtime::Still;

/// Set when nobody may enter any more; below it how many are inside, or will be.
const CLOSED: usize = 1 << (usize::BITS - 1);
/// The longest the exit waits for threads that are inside.
const PATIENCE: Duration = Duration::from_secs(1);

static DOOR: AtomicUsize = AtomicUsize::new(0);

/// The right to enter, for which the exit waits.
pub(crate) struct Visit(());

impl Visit {
    /// `None` at the interpreter's end.
    pub(crate) fn announce() -> Option<Self> {
        let before = DOOR.fetch_add(1, Ordering::AcqRel);
        let visit = Self(());
        (before & CLOSED == 0).then_some(visit)
    }

    /// Runs `step` in the interpreter.
    pub(crate) fn enter<T>(self, step: impl FnOnce(Python<'_>) -> T) -> Option<T> {
        Python::try_attach(step)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        DOOR.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Runs `step` in the interpreter. `None` at its end.
pub(crate) fn enter<T>(step: impl FnOnce(Python<'_>) -> T) -> Option<T> {
    // SAFETY: it reads the calling thread's own state.
    if unsafe { pyo3::ffi::PyGILState_Check() } == 1 {
        // A thread of Python's, which waits for nothing.
        return Some(Python::attach(step));
    }
    Visit::announce()?.enter(step)
}

/// At exit: closes the door, and waits until nobody is inside.
#[pyfunction]
fn _leave(py: Python<'_>) {
    DOOR.fetch_or(CLOSED, Ordering::AcqRel);
    py.detach(|| {
        let since = Instant::now();
        while DOOR.load(Ordering::Acquire) != CLOSED && since.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
}

thread_local! {
    /// What a fork of this thread keeps from happening meanwhile.
    static FORKING: Cell<Option<Forking>> = const { Cell::new(None) };
}

struct Forking {
    _still: Option<Still>,
    #[cfg(feature = "sqlite")]
    _files: tollway_stores::sql::Forking,
}

/// Before a fork: waits until what a child would wait for in vain is held by nobody. Without the GIL,
/// as somebody who is waited for may need it.
#[pyfunction]
fn _forking(py: Python<'_>) {
    drop(FORKING.take());
    let still = Still::stand(py);
    py.detach(|| {
        let forking = Forking {
            _still: still,
            #[cfg(feature = "sqlite")]
            _files: tollway_stores::sql::before_fork(),
        };
        FORKING.set(Some(forking));
    });
}

/// After a fork, in the parent and in the child.
#[pyfunction]
fn _forked() {
    drop(FORKING.take());
}

/// In a forked child: the threads that were inside are not there.
#[pyfunction]
fn _alone() {
    DOOR.fetch_and(CLOSED, Ordering::AcqRel);
    _forked();
}

/// Has the interpreter call them.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    py.import("atexit")?.call_method1("register", (wrap_pyfunction!(_leave, module)?,))?;
    let os = py.import("os")?;
    if os.hasattr("register_at_fork")? {
        let named = pyo3::types::PyDict::new(py);
        named.set_item("before", wrap_pyfunction!(_forking, module)?)?;
        named.set_item("after_in_parent", wrap_pyfunction!(_forked, module)?)?;
        named.set_item("after_in_child", wrap_pyfunction!(_alone, module)?)?;
        os.call_method("register_at_fork", (), Some(&named))?;
    }
    Ok(())
}
