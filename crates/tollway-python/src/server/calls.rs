//! The few C calls that PyO3 has no safe door for: positional vectorcalls with a prepared
//! argument list, a keyword without a dictionary, stepping a coroutine, entering a Context.

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{ffi, intern};
use smallvec::SmallVec;

/// The arguments of one call, owned.
pub(super) type Args = SmallVec<[Py<PyAny>; 6]>;

/// Calls `callable` with positional arguments.
#[inline]
pub(super) fn call<'py>(callable: &Bound<'py, PyAny>, args: &[Py<PyAny>]) -> PyResult<Bound<'py, PyAny>> {
    let py = callable.py();
    let mut stack: SmallVec<[*mut ffi::PyObject; 8]> = SmallVec::new();
    // The free slot in front lets the callee put `self` there without copying the list.
    stack.push(std::ptr::null_mut());
    stack.extend(args.iter().map(Py::as_ptr));
    let flags = args.len() | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: the GIL is held; `stack[1..]` are `args.len()` live objects that `args` owns for
    // the whole call, and `stack[0]` is writable as the offset flag promises. The result is a
    // new reference or null with an exception set.
    unsafe {
        let result = ffi::PyObject_Vectorcall(callable.as_ptr(), stack.as_ptr().add(1), flags, std::ptr::null_mut());
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// Calls `receiver.name(*args, context=context)` for at most two arguments.
#[inline]
pub(super) fn call_in_context<'py>(
    receiver: &Bound<'py, PyAny>,
    name: &Bound<'py, pyo3::types::PyString>,
    args: &[&Bound<'py, PyAny>],
    context: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = receiver.py();
    let keywords = context_keyword(py)?;
    let mut stack: SmallVec<[*mut ffi::PyObject; 4]> = SmallVec::new();
    stack.push(receiver.as_ptr());
    stack.extend(args.iter().map(|arg| arg.as_ptr()));
    stack.push(context.as_ptr());
    let positional = args.len() + 1;
    let flags = positional | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: the GIL is held; the stack holds `positional` live objects (the receiver first)
    // and then one value for each of the one name in `keywords`. Its first slot may be
    // overwritten: nobody reads it afterwards.
    unsafe {
        let result = ffi::PyObject_VectorcallMethod(name.as_ptr(), stack.as_ptr(), flags, keywords.as_ptr());
        Bound::from_owned_ptr_or_err(py, result)
    }
}

fn context_keyword(py: Python<'_>) -> PyResult<&Bound<'_, PyTuple>> {
    static NAMES: pyo3::sync::PyOnceLock<Py<PyTuple>> = pyo3::sync::PyOnceLock::new();
    NAMES.get_or_try_init(py, || Ok(PyTuple::new(py, [intern!(py, "context")])?.unbind())).map(|names| names.bind(py))
}

/// What a coroutine did in one step.
pub(super) enum Step<'py> {
    /// It returned this.
    Returned(Bound<'py, PyAny>),
    /// It waits for this.
    Yielded(Bound<'py, PyAny>),
    /// It raised this.
    Raised(PyErr),
}

/// Runs a coroutine until it waits or ends.
#[inline]
pub(super) fn send<'py>(coroutine: &Bound<'py, PyAny>) -> Step<'py> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut();
    // SAFETY: the GIL is held, both objects live, and `result` is a valid place for the new
    // reference that comes back unless an exception is set.
    unsafe {
        match ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &raw mut result) {
            ffi::PySendResult::PYGEN_RETURN => Step::Returned(Bound::from_owned_ptr(py, result)),
            ffi::PySendResult::PYGEN_NEXT => Step::Yielded(Bound::from_owned_ptr(py, result)),
            ffi::PySendResult::PYGEN_ERROR => Step::Raised(PyErr::fetch(py)),
        }
    }
}

/// Raises `error` inside a coroutine and runs it until it waits or ends.
pub(super) fn throw<'py>(coroutine: &Bound<'py, PyAny>, error: &Bound<'py, PyAny>) -> Step<'py> {
    let py = coroutine.py();
    match coroutine.call_method1(intern!(py, "throw"), (error,)) {
        Ok(yielded) => Step::Yielded(yielded),
        Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
            match error.value(py).getattr(intern!(py, "value")) {
                Ok(value) => Step::Returned(value),
                Err(error) => Step::Raised(error),
            }
        }
        Err(error) => Step::Raised(error),
    }
}

/// The object whose `send` and `throw` drive an awaitable: a coroutine itself, or what
/// `__await__` of anything else returns.
#[inline]
pub(super) fn coroutine_of<'py>(awaitable: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the GIL is held and the object lives; the check reads its type only.
    if unsafe { ffi::PyCoro_CheckExact(awaitable.as_ptr()) } != 0 {
        return Ok(awaitable);
    }
    let py = awaitable.py();
    match awaitable.getattr_opt(intern!(py, "__await__"))? {
        Some(method) => method.call0(),
        None => {
            let name = awaitable.get_type().qualname()?;
            Err(pyo3::exceptions::PyTypeError::new_err(format!(
                "an async handler must return an awaitable, got {name}: write `async def`, or register it as a plain \
                 function"
            )))
        }
    }
}

/// A copy of the current Context.
#[inline]
pub(super) fn copy_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the GIL is held; the result is a new reference or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A Context that is current until this is dropped.
pub(super) struct Entered<'a, 'py> {
    context: &'a Bound<'py, PyAny>,
}

impl<'a, 'py> Entered<'a, 'py> {
    /// Makes `context` current on this thread.
    #[inline]
    pub(super) fn new(context: &'a Bound<'py, PyAny>) -> PyResult<Self> {
        // SAFETY: the GIL is held and `context` is a Context: it comes from `copy_context`.
        if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
            return Err(PyErr::fetch(context.py()));
        }
        Ok(Entered { context })
    }
}

impl Drop for Entered<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the GIL is held (`context` carries the token) and this Context was entered on
        // this thread by `new`. It is the innermost one: guards are dropped in reverse order.
        if unsafe { ffi::PyContext_Exit(self.context.as_ptr()) } != 0 {
            let error = PyErr::fetch(self.context.py());
            error.write_unraisable(self.context.py(), Some(self.context));
        }
    }
}

/// Whether anybody else holds `object`.
#[inline]
pub(super) fn is_shared(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the GIL is held and the object lives; its count is read only.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) > 1 }
}

/// Puts an object under the eye of the garbage collector. Objects that come out of a free list
/// are not; those that live for one step only need not be.
#[inline]
pub(super) fn track(object: &Bound<'_, PyAny>) -> PyResult<()> {
    // SAFETY: the GIL is held, and the check reads the object's type only.
    if unsafe { ffi::PyObject_IS_GC(object.as_ptr()) } == 0 {
        return Err(PyRuntimeError::new_err("only containers can be tracked"));
    }
    // SAFETY: the object is a container (checked above), fully initialised (it exists as a
    // `Bound`), and not tracked yet.
    unsafe {
        if ffi::PyObject_GC_IsTracked(object.as_ptr()) == 0 {
            ffi::PyObject_GC_Track(object.as_ptr().cast());
        }
    }
    Ok(())
}

/// Sets an attribute as `object.__setattr__` does, past the class's own `__setattr__`.
pub(super) fn set_attribute(
    object: &Bound<'_, PyAny>,
    name: &Bound<'_, pyo3::types::PyString>,
    value: &Bound<'_, PyAny>,
) -> PyResult<()> {
    // SAFETY: the GIL is held and all three objects live; the result is 0, or -1 with an exception set.
    match unsafe { ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value.as_ptr()) } {
        0 => Ok(()),
        _ => Err(PyErr::fetch(object.py())),
    }
}

/// A copy of `context`.
#[inline]
pub(super) fn copy_of<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the GIL is held and `context` is a Context (the call checks that too); the result
    // is a new reference or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
}
