//! The request as handlers see it. Nothing of it is converted before it is asked for.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HeaderMap;
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use pyo3::{PyTraverseError, PyVisit};
use tollway_auth::Caller;
use tollway_server::app::{CookiePairs, Found, RequestId, decode_path, fresh_id};

use super::auth;
use super::calls;
use super::cell::GilCell;
use super::mappings::{Headers, Query};
use super::meta::put_headers;
use super::passage::Passage;
use super::routes::Route;
use crate::auth::dict_of;

/// One request. Made by the server; handlers that take `request` receive it.
#[pyclass(name = "Request", module = "tollway._tollway", frozen, weakref, freelist = 256)]
pub(super) struct Request {
    pub(super) head: http::request::Parts,
    body: Bytes,
    peer: Option<SocketAddr>,
    secure: bool,
    route: Arc<Route>,
    made: GilCell<Made>,
}

/// Who asks, as far as is known before Python has a say.
#[derive(Default)]
pub(super) struct Asking {
    pub(super) caller: Option<Arc<Caller>>,
    /// Whether a session is to be looked up, and the guards asked then.
    pub(super) session: bool,
}

impl Asking {
    pub(super) fn of(passage: &Passage) -> Self {
        Self { caller: passage.caller.clone(), session: passage.session }
    }
}

/// What was converted so far.
#[derive(Default)]
struct Made {
    body: Option<Py<PyBytes>>,
    state: Option<Py<PyDict>>,
    rate_limit: Option<Py<PyAny>>,
    id: Option<String>,
    asking: Asking,
    user: Option<Py<PyAny>>,
    values: Option<Py<PyAny>>,
    django: Option<Py<PyAny>>,
}

impl Request {
    pub(super) fn new(
        request: tollway_server::Request,
        route: Arc<Route>,
        rate_limit: Option<Py<PyAny>>,
        asking: Asking,
    ) -> Self {
        let tollway_server::Request { head, body, peer, secure } = request;
        let made = GilCell::new(Made { rate_limit, asking, ..Made::default() });
        Request { head, body, peer, secure, route, made }
    }

    pub(super) fn headers_map(&self) -> &HeaderMap {
        &self.head.headers
    }

    pub(super) fn query_text(&self) -> &str {
        self.head.uri.query().unwrap_or("")
    }

    /// The body as one `bytes` object, made on first use.
    pub(super) fn body_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        if let Some(known) = self.made.with(py, |made| made.body.as_ref().map(|body| body.clone_ref(py))) {
            return known.into_bound(py);
        }
        let body = PyBytes::new(py, &self.body);
        let kept = body.clone().unbind();
        let replaced = self.made.with(py, |made| made.body.replace(kept));
        drop(replaced);
        body
    }

    /// Folders of the files that may be sent; none for all.
    pub(super) fn file_roots(&self) -> &[PathBuf] {
        &self.route.file_roots
    }

    /// Who asks, if somebody was verified.
    pub(super) fn caller(&self, py: Python<'_>) -> Option<Arc<Caller>> {
        self.made.with(py, |made| made.asking.caller.clone())
    }

    /// Whether Django has still to say whose session this is.
    pub(super) fn awaits_session(&self, py: Python<'_>) -> bool {
        self.made.with(py, |made| made.asking.session)
    }

    /// What Django's own authentication says, where Bolt was not told to verify anybody.
    fn django_user<'py>(&self, py: Python<'py>, name: &str) -> Option<Bound<'py, PyAny>> {
        let django = self._django(py).filter(|_| self.caller(py).is_none())?;
        django.bind(py).getattr(name).ok()
    }

    /// Takes in what Django said, and asks the guards. Returns the refusal, if it is one.
    pub(super) fn admit(&self, py: Python<'_>, caller: Option<Caller>) -> Option<auth::Judgement> {
        let caller = caller.map(Arc::new);
        let asking = Asking { caller: caller.clone(), session: false };
        self.made.with(py, |made| made.asking = asking);
        self.route.auth.as_ref()?.judge(caller.as_deref(), None)
    }

    /// The value of `WWW-Authenticate` for a caller that is turned away later.
    pub(super) fn challenge(&self, problem: Option<&str>) -> Option<String> {
        Some(self.route.auth.as_ref()?.challenge(problem))
    }

    fn client_address(&self) -> Option<IpAddr> {
        let peer = self.peer?.ip();
        Some(self.route.address.resolve_headers(peer, &self.head.headers))
    }
}

#[pymethods]
impl Request {
    /// The method, in upper case.
    #[getter]
    fn method(&self) -> &str {
        self.head.method.as_str()
    }

    /// `https` where the connection to this server is encrypted, or a proxy says with
    /// `SECURE_PROXY_SSL_HEADER` that the client's is; `http` otherwise.
    #[getter]
    fn scheme(&self) -> &'static str {
        if self.secure || self.route.secure.is_secure(&self.head) { "https" } else { "http" }
    }

    /// The decoded path.
    #[getter]
    fn path(&self) -> String {
        let raw = self.head.uri.path();
        decode_path(raw).map_or_else(|| raw.to_owned(), |path| path.into_owned())
    }

    /// The path as it was sent, percent-encoded.
    #[getter]
    fn raw_path(&self) -> &str {
        self.head.uri.path()
    }

    /// The part after `?` as it was sent, without the `?`.
    #[getter]
    fn query_string(&self) -> &str {
        self.query_text()
    }

    /// The path of the route that answers, for example `/items/{item_id}`.
    #[getter]
    fn route(&self) -> &str {
        &self.route.path
    }

    /// The headers: a read-only mapping that ignores case.
    #[getter]
    fn headers(slf: &Bound<'_, Self>) -> Headers {
        Headers::new(slf.clone().unbind())
    }

    /// The decoded query: a read-only mapping; the last of several values counts.
    #[getter]
    fn query(&self) -> Query {
        Query::new(self.query_text())
    }

    /// The cookies as a dict.
    #[getter]
    fn cookies<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let cookies = PyDict::new(py);
        for (name, value) in CookiePairs::new(&self.head.headers) {
            if !cookies.contains(name)? {
                cookies.set_item(name, value)?;
            }
        }
        Ok(cookies)
    }

    /// The whole body.
    #[getter]
    fn body<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        self.body_bytes(py)
    }

    /// The client's address: the peer's, or what a trusted proxy says. None where there is none.
    #[getter]
    fn client(&self) -> Option<String> {
        self.client_address().map(|address| address.to_string())
    }

    /// The path parameters as decoded text, before any conversion.
    #[getter]
    fn params<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let params = PyDict::new(py);
        if let Found::Route(found) = self.route.alone.find(&self.route.method, self.head.uri.path()) {
            for (index, name) in found.names().iter().enumerate() {
                let raw = found.params.get(index).unwrap_or("");
                params.set_item(name, decode_path(raw).unwrap_or(raw.into()))?;
            }
        }
        Ok(params)
    }

    /// The request's id: the one in the answer and the access log, or one of its own.
    #[getter]
    fn id(&self, py: Python<'_>) -> String {
        if let Some(RequestId(id)) = self.head.extensions.get() {
            return String::from_utf8_lossy(id.as_bytes()).into_owned();
        }
        self.made.with(py, |made| made.id.get_or_insert_with(fresh_id).clone())
    }

    /// A dict for whatever middleware and handlers want to pass on.
    #[getter]
    fn state<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        let py = slf.py();
        let made = &slf.get().made;
        if let Some(known) = made.with(py, |made| made.state.as_ref().map(|state| state.clone_ref(py))) {
            return Ok(known.into_bound(py));
        }
        let state = PyDict::new(py);
        let kept = state.clone().unbind();
        let replaced = made.with(py, |made| made.state.replace(kept));
        drop(replaced);
        // From here on the request can be part of a cycle.
        calls::track(slf.as_any())?;
        Ok(state)
    }

    /// The decision of the route's limits, or None where there are none.
    #[getter]
    fn rate_limit(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.made.with(py, |made| made.rate_limit.as_ref().map(|decision| decision.clone_ref(py)))
    }

    /// The claims of the verified token, or of the session; None where nobody was verified or a key was.
    #[getter]
    fn auth<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        match self.caller(py).filter(|caller| caller.key().is_none()) {
            Some(caller) => dict_of(py, caller.claims().all()).map(Some),
            None => Ok(None),
        }
    }

    /// What is known of the caller, or None where nobody was verified.
    #[getter]
    fn context<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        self.caller(py).map(|caller| auth::context(py, &caller)).transpose()
    }

    /// The user: loaded when it is used for the first time, by one query; AnonymousUser for nobody.
    #[getter]
    fn user<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let made = &slf.get().made;
        if let Some(known) = made.with(py, |made| made.user.as_ref().map(|user| user.clone_ref(py))) {
            return Ok(known.into_bound(py));
        }
        if let Some(user) = slf.get().django_user(py, "user") {
            return Ok(user);
        }
        let user = auth::user_of(slf.as_any(), "lazy_user")?;
        Self::set_user(slf, user.clone())?;
        Ok(user)
    }

    #[setter]
    fn set_user(slf: &Bound<'_, Self>, user: Bound<'_, PyAny>) -> PyResult<()> {
        if let Some(django) = slf.get()._django(slf.py()) {
            django.bind(slf.py()).setattr("user", &user)?;
        }
        let kept = user.unbind();
        drop(slf.get().made.with(slf.py(), |made| made.user.replace(kept)));
        calls::track(slf.as_any())
    }

    /// The user, to be awaited.
    fn auser<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        match slf.get().django_user(slf.py(), "auser") {
            Some(user) => user.call0(),
            None => auth::user_of(slf.as_any(), "auser"),
        }
    }

    /// What the handler is called with, kept while middleware run before it.
    #[getter]
    fn _values(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.made.with(py, |made| made.values.as_ref().map(|values| values.clone_ref(py)))
    }

    #[setter(_values)]
    fn set_values(&self, py: Python<'_>, values: Py<PyAny>) {
        let replaced = self.made.with(py, |made| made.values.replace(values));
        drop(replaced);
    }

    /// Whether the caller was verified by a header, which no page of another site can have a browser send.
    #[getter]
    fn _by_header(&self, py: Python<'_>) -> bool {
        self.caller(py).is_some_and(|caller| !caller.is_by_cookie())
    }

    /// The request as Django's middleware see it, where there are some.
    #[getter]
    fn _django(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.made.with(py, |made| made.django.as_ref().map(|django| django.clone_ref(py)))
    }

    #[setter(_django)]
    fn set_django(slf: &Bound<'_, Self>, django: Py<PyAny>) -> PyResult<()> {
        let replaced = slf.get().made.with(slf.py(), |made| made.django.replace(django));
        drop(replaced);
        // The two refer to each other.
        calls::track(slf.as_any())
    }

    /// Puts the headers into a dict as Django's `META` has them.
    fn _put_headers(&self, meta: &Bound<'_, PyDict>) -> PyResult<()> {
        put_headers(meta, &self.head.headers)
    }

    /// What is not here may be what Django's middleware gave: `session`, `META`, …
    fn __getattr__<'py>(&self, py: Python<'py>, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        match self._django(py) {
            Some(django) => django.bind(py).getattr(name),
            None => Err(PyAttributeError::new_err(format!("a request has no {name}"))),
        }
    }

    fn __setattr__<'py>(
        slf: &Bound<'py, Self>,
        name: &Bound<'py, PyString>,
        value: &Bound<'py, PyAny>,
    ) -> PyResult<()> {
        match (calls::set_attribute(slf.as_any(), name, value), slf.get()._django(slf.py())) {
            (Err(error), Some(django)) if error.is_instance_of::<PyAttributeError>(slf.py()) => {
                django.bind(slf.py()).setattr(name, value)
            }
            (Err(error), None) if error.is_instance_of::<PyAttributeError>(slf.py()) => Err(PyAttributeError::new_err(
                format!("a request cannot be given {name}: put it into request.state[\"{name}\"]"),
            )),
            (done, _) => done,
        }
    }

    fn __repr__(&self) -> String {
        format!("<Request {} {}>", self.head.method, self.head.uri)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.made
            .look(|made| {
                visit.call(&made.state)?;
                visit.call(&made.user)?;
                visit.call(&made.values)?;
                visit.call(&made.django)?;
                visit.call(&made.rate_limit)
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.made.take(py));
    }
}
