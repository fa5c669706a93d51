//! Shared state guarded by the GIL.

use std::cell::RefCell;

use pyo3::Python;

/// A value that many Python objects share and that only a thread holding the GIL touches.
/// `Server` refuses to be made where there is no GIL.
///
/// The closures given to [`GilCell::with`] must be short and must not call into Python: Python
/// code may come back and find the cell taken. Values to drop are moved out first.
#[derive(Debug)]
pub(super) struct GilCell<T>(RefCell<T>);

// SAFETY: there is a GIL (`Server::new` checks, and all cells belong to a server). Every access needs a `Python` token (or runs inside the collector, which holds the
// GIL), so accesses from different threads are ordered by the GIL and never overlap, and the
// closures cannot release it because they do not call into Python. `T: Send` because the
// thread that drops the value may not be the one that made it.
unsafe impl<T: Send> Sync for GilCell<T> {}

impl<T> GilCell<T> {
    pub(super) const fn new(value: T) -> Self {
        GilCell(RefCell::new(value))
    }

    /// Runs `access` on the value.
    #[inline]
    pub(super) fn with<R>(&self, _py: Python<'_>, access: impl FnOnce(&mut T) -> R) -> R {
        access(&mut self.0.borrow_mut())
    }

    /// Runs `look` on the value for the garbage collector, which has no token. `None` when the
    /// collector was started by an allocation inside [`GilCell::with`].
    pub(super) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> Option<R> {
        self.0.try_borrow().ok().map(|value| look(&value))
    }
}

impl<T: Default> GilCell<T> {
    /// Moves the value out. The caller drops it, outside of the cell.
    #[inline]
    pub(super) fn take(&self, py: Python<'_>) -> T {
        self.with(py, std::mem::take)
    }
}

/// A value that is made on the loop's thread and used there only, held by an object that any
/// thread may drop.
#[derive(Debug)]
pub(super) struct LoopBound<T>(pub(super) T);

// SAFETY: the value is reached through a `GilCell` only, and only by methods that run on the
// thread of the event loop (they are called by the loop). What another thread may do is drop
// it, under the GIL, when nothing else refers to it any more.
unsafe impl<T> Send for LoopBound<T> {}
