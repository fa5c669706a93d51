//! Who may call a route: what Python says of it at start-up, and the answers to those who may not.

use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyFloat, PyInt, PyList, PyString};
use tollway_auth::{Authentication, Backend, Caller, Found, Guard, Refusal, Scalar, Scheme, Wanted, check_all};
use tollway_http::Verified;
use tollway_server::app::Problem;
use tollway_server::{Request as Incoming, Response};

use super::request::Request;
use super::respond::problem;
use crate::auth::{ApiKeys, TokenVerifier, claims_of, dict_of, wall_clock};

/// The ways to show who one is, and the guards, of one route.
#[derive(Debug)]
pub(super) struct Auth {
    authentication: Authentication,
    guards: Vec<Guard>,
}

/// Why a caller may not pass: status, detail, challenge.
pub(super) type Judgement = (StatusCode, String, Option<String>);

/// What a request's credentials came to.
pub(super) enum Entry {
    /// Somebody or nobody; the guards have the word.
    Known(Option<Caller>),
    /// Python must look the session up before the guards can be asked.
    Session,
    /// The request must not go on.
    Refused(Response),
}

impl Auth {
    /// Reads `{"backends": [...], "guards": [...], "trusted_origins": [...]}`.
    ///
    /// # Errors
    /// `ValueError` for what is of another shape.
    pub(super) fn read(given: &Bound<'_, PyAny>) -> PyResult<Auth> {
        let wrong = |what: &str| PyValueError::new_err(format!("auth {what}"));
        let dict = given.cast::<PyDict>().map_err(|_| wrong("must be a dict"))?;
        let list = |name: &str| -> PyResult<Vec<Bound<'_, PyAny>>> {
            dict.get_item(name)?.map_or_else(|| Ok(Vec::new()), |value| value.try_iter()?.collect())
        };
        let backends = list("backends")?.iter().map(backend).collect::<PyResult<_>>()?;
        let guards = list("guards")?.iter().map(guard).collect::<PyResult<_>>()?;
        let trusted_origins = list("trusted_origins")?.iter().map(|one| one.extract()).collect::<PyResult<_>>()?;
        Ok(Auth { authentication: Authentication { backends, trusted_origins }, guards })
    }

    /// Who asks.
    pub(super) fn enter(&self, request: &Incoming) -> (Entry, Option<&'static str>) {
        match self.authentication.find(&request.head.method, &request.head.headers, wall_clock()) {
            Found::Caller(caller) => (Entry::Known(Some(caller)), None),
            Found::Nobody(wrong) => (Entry::Known(None), wrong),
            Found::Session => (Entry::Session, None),
            Found::CrossSite => {
                let detail = "a page of another site sent this request: its cookies are not believed here";
                (Entry::Refused(problem(Problem::new(StatusCode::FORBIDDEN, detail))), None)
            }
        }
    }

    /// The refusal of a caller that the guards do not let pass.
    pub(super) fn refuse(&self, caller: Option<&Caller>, wrong: Option<&'static str>) -> Option<Response> {
        let (status, detail, challenge) = self.judge(caller, wrong)?;
        let mut response = problem(Problem::new(status, &detail));
        if let Some(value) = challenge.and_then(|text| HeaderValue::from_str(&text).ok()) {
            response.headers_mut().insert(WWW_AUTHENTICATE, value);
        }
        Some(response)
    }

    /// The value of `WWW-Authenticate`.
    pub(super) fn challenge(&self, problem: Option<&str>) -> String {
        self.authentication.challenge(problem)
    }

    /// The refusal in words.
    pub(super) fn judge(&self, caller: Option<&Caller>, wrong: Option<&'static str>) -> Option<Judgement> {
        match check_all(&self.guards, caller) {
            Ok(()) => None,
            Err(Refusal::Forbidden(detail)) => Some((StatusCode::FORBIDDEN, detail.to_owned(), None)),
            Err(Refusal::Unauthenticated) => {
                let detail = wrong.unwrap_or("credentials are needed here");
                let challenge = self.authentication.challenge(wrong);
                Some((StatusCode::UNAUTHORIZED, detail.to_owned(), Some(challenge)))
            }
        }
    }
}

fn backend(given: &Bound<'_, PyAny>) -> PyResult<Backend> {
    if let Ok(verifier) = given.cast::<TokenVerifier>() {
        let verifier = verifier.get();
        return Ok(Backend::Token { verifier: verifier.inner.clone(), carrier: verifier.carrier.clone() });
    }
    if let Ok(keys) = given.cast::<ApiKeys>() {
        let keys = keys.get();
        return Ok(Backend::Key { keys: keys.inner.clone(), header: keys.header.clone() });
    }
    let (kind, cookie, csrf): (String, String, bool) = given.extract().map_err(|_| {
        PyValueError::new_err("auth backends are TokenVerifier, ApiKeys or (\"session\", cookie, csrf)")
    })?;
    match kind.as_str() {
        "session" => Ok(Backend::Session { cookie, csrf }),
        _ => Err(PyValueError::new_err(format!("auth backend {kind:?} is not known"))),
    }
}

/// Reads `("any",)`, `("authenticated",)` or `("requires", claim, mode, values, message)`.
fn guard(given: &Bound<'_, PyAny>) -> PyResult<Guard> {
    let wrong = || PyValueError::new_err("auth guards are tuples of a kind and its parts");
    let kind: String = given.get_item(0).map_err(|_| wrong())?.extract()?;
    match kind.as_str() {
        "any" => return Ok(Guard::AllowAny),
        "authenticated" => return Ok(Guard::Authenticated),
        "requires" => {}
        _ => return Err(wrong()),
    }
    type Parts<'py> = (String, String, String, Bound<'py, PyList>, Option<String>);
    let (_, claim, mode, values, message): Parts<'_> = given.extract()?;
    let values = values.iter().map(|value| scalar(&value)).collect::<PyResult<Vec<_>>>()?;
    let wanted = match mode.as_str() {
        "present" => Wanted::Present,
        "any_of" => Wanted::Any(values),
        "all_of" => Wanted::All(values),
        "none_of" => Wanted::None(values),
        _ => return Err(wrong()),
    };
    let mut guard = Guard::requires(&claim, wanted);
    if let (Guard::Requires { message, .. }, Some(given)) = (&mut guard, message) {
        *message = given;
    }
    Ok(guard)
}

fn scalar(value: &Bound<'_, PyAny>) -> PyResult<Scalar> {
    if let Ok(flag) = value.cast::<PyBool>() {
        Ok(Scalar::Flag(flag.is_true()))
    } else if let Ok(text) = value.cast::<PyString>() {
        Ok(Scalar::Text(text.to_str()?.to_owned()))
    } else if value.is_instance_of::<PyInt>() {
        Ok(Scalar::Whole(value.extract()?))
    } else if value.is_instance_of::<PyFloat>() {
        Ok(Scalar::Real(value.extract()?))
    } else {
        Err(PyValueError::new_err("a guard compares with str, bool, int and float"))
    }
}

/// What handlers see of a caller in `request.context`.
pub(super) fn context<'py>(py: Python<'py>, caller: &Caller) -> PyResult<Bound<'py, PyDict>> {
    let flag = |name: &str| matches!(caller.claims().get(name), Some(serde_json::Value::Bool(true)));
    let context = PyDict::new(py);
    let user_id = caller.key().is_none().then(|| caller.user()).flatten();
    context.set_item("user_id", user_id)?;
    context.set_item("is_staff", flag("is_staff"))?;
    context.set_item("is_superuser", flag("is_superuser"))?;
    context.set_item("auth_backend", caller.scheme().name())?;
    context.set_item("permissions", caller.permissions())?;
    context.set_item("auth_claims", dict_of(py, caller.claims().all())?)?;
    if let Some(key) = caller.key() {
        context.set_item("api_key", &key.hash)?;
        context.set_item("owner", key.owner.as_deref())?;
        context.set_item("tier", key.tier.as_deref())?;
    }
    Ok(context)
}

/// What a function of `tollway.bolt.auth.users` says of a request.
pub(super) fn user_of<'py>(request: &Bound<'py, PyAny>, function: &str) -> PyResult<Bound<'py, PyAny>> {
    request.py().import("tollway.bolt.auth.users")?.getattr(function)?.call1((request,))
}

/// Whether Django has still to say whose session a request brings.
#[pyfunction]
fn awaits_session(request: &Bound<'_, Request>) -> bool {
    request.get().awaits_session(request.py())
}

/// Tells a request whose session it brings: claims as a JSON object, or None for nobody's. Returns
/// None when the guards let them pass, otherwise status, detail and challenge of the refusal.
#[pyfunction]
fn admit_session(
    request: &Bound<'_, Request>,
    claims: Option<&[u8]>,
) -> PyResult<Option<(u16, String, Option<String>)>> {
    let caller = claims.map(claims_of).transpose()?.map(|claims| Caller::with_claims(Scheme::Session, claims));
    let judged = request.get().admit(request.py(), caller);
    Ok(judged.map(|(status, detail, challenge)| (status.as_u16(), detail, challenge)))
}

/// The value of `WWW-Authenticate` for a request that is turned away with 401 by Python.
#[pyfunction]
#[pyo3(signature = (request, problem = None))]
fn challenge(request: &Bound<'_, Request>, problem: Option<&str>) -> Option<String> {
    request.get().challenge(problem)
}

/// Adds the functions to the native module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(awaits_session, module)?)?;
    module.add_function(wrap_pyfunction!(admit_session, module)?)?;
    module.add_function(wrap_pyfunction!(challenge, module)?)?;
    Ok(())
}
