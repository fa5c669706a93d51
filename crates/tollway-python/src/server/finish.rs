//! What is added to answers, as Python describes it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use tollway_http::ClientAddress;
use tollway_server::app::{
    AccessLog, Coding, Compression, Cors, CorsSpec, Field, Finish, Found, LogFormat, LogRule, LogSpec, LogTarget,
    Preflight, RequestIds, Router, Secure, Seen,
};
use tollway_server::{Refused, Response};

use super::routes::Route;

/// What a route adds to its answers, made once for each dict that describes it.
pub(super) struct Finishes {
    log: Option<Arc<AccessLog>>,
    elsewhere: Option<Arc<Finish>>,
    /// When a request counts as one over TLS beside those that are.
    pub(super) secure: Arc<Secure>,
    made: HashMap<usize, Option<Arc<Finish>>>,
}

impl Finishes {
    /// The setting `answers`: `{"log": …, "elsewhere": …, "secure": …}`, the second for requests
    /// that no route answers.
    ///
    /// # Errors
    /// `OSError` for a log that cannot be written, `ValueError` for anything else.
    pub(super) fn of(settings: &Bound<'_, PyDict>) -> PyResult<Finishes> {
        let mut finishes = Finishes { log: None, elsewhere: None, secure: Arc::default(), made: HashMap::new() };
        let Some(answers) = settings.get_item("answers")?.filter(|value| !value.is_none()) else { return Ok(finishes) };
        let log = answers.get_item("log")?;
        if !log.is_none() {
            finishes.log = Some(access_log(&log)?);
        }
        let told = answers.cast::<PyDict>()?.get_item("secure")?.filter(|value| !value.is_none());
        finishes.secure = Arc::new(told.map_or(Ok(Secure::Never), |value| secure(&value))?);
        finishes.elsewhere = finishes.read(&answers.get_item("elsewhere")?)?;
        Ok(finishes)
    }

    /// What `dict` describes; `None` where nothing is added. Dicts are told apart by identity, so
    /// the caller keeps them alive while it reads.
    ///
    /// # Errors
    /// `ValueError` that says what cannot be.
    pub(super) fn read(&mut self, dict: &Bound<'_, PyAny>) -> PyResult<Option<Arc<Finish>>> {
        if let Some(known) = self.made.get(&(dict.as_ptr() as usize)) {
            return Ok(known.clone());
        }
        let fields = dict.cast::<PyDict>()?;
        let mut finish = Finish::default();
        let mut empty = true;
        for (name, value) in fields.iter() {
            let name: String = name.extract()?;
            if value.is_none() {
                continue;
            }
            empty &= name == "secure";
            match name.as_str() {
                "cors" => finish.cors = Some(cors(&value)?),
                "headers" => finish.headers = headers(&value)?,
                "secure_headers" => finish.secure_headers = headers(&value)?,
                "secure" => finish.secure = secure(&value)?,
                "request_id" => {
                    let (header, trusted): (String, bool) = value.extract()?;
                    finish.ids = Some(RequestIds { header: header_name(&header)?, trusted });
                }
                "log" => finish.log = self.rule(&value)?,
                "compression" => finish.compression = Some(compression(&value)?),
                _ => return Err(PyValueError::new_err(format!("answers cannot be finished with {name:?}"))),
            }
        }
        let made = (!empty).then(|| Arc::new(finish));
        self.made.insert(dict.as_ptr() as usize, made.clone());
        Ok(made)
    }

    fn rule(&self, value: &Bound<'_, PyAny>) -> PyResult<Option<LogRule>> {
        let Some(log) = &self.log else { return Ok(None) };
        let names: Vec<String> = need(value, "fields")?;
        let field = |name: &String| {
            let every: Vec<_> = Field::ALL.iter().map(|field| field.name()).collect();
            let unknown =
                || PyValueError::new_err(format!("a log has no field {name:?}; there are {}", every.join(", ")));
            Field::from_name(name).ok_or_else(unknown)
        };
        let fields = names.iter().map(field).collect::<PyResult<_>>()?;
        let min = Duration::try_from_secs_f64(need::<f64>(value, "min_duration_ms")? / 1000.0);
        let min = min.map_err(|_| PyValueError::new_err("min_duration_ms is a number of milliseconds"))?;
        let rule = LogRule::new(Arc::clone(log), fields, need(value, "sample_rate")?, min, need(value, "skip")?);
        Ok(Some(rule))
    }
}

/// The access log that the settings describe.
///
/// # Errors
/// `OSError` for a file that cannot be written, `ValueError` for anything else.
fn access_log(value: &Bound<'_, PyAny>) -> PyResult<Arc<AccessLog>> {
    let target = match need::<Option<PathBuf>>(value, "file")? {
        Some(path) => LogTarget::File(path),
        None => LogTarget::Stderr,
    };
    let format = if need::<bool>(value, "json")? { LogFormat::Json } else { LogFormat::Text };
    let spec = LogSpec { target, format, capacity: need(value, "buffer")?, refusals: need(value, "refusals")? };
    Ok(Arc::new(AccessLog::new(spec)?))
}

fn need<'py, T: FromPyObjectOwned<'py>>(dict: &Bound<'py, PyAny>, name: &str) -> PyResult<T> {
    let value = dict.get_item(name)?;
    value.extract::<T>().map_err(|_| PyValueError::new_err(format!("{name:?} cannot be {value}")))
}

fn cors(value: &Bound<'_, PyAny>) -> PyResult<Cors> {
    let spec = CorsSpec {
        origins: need(value, "origins")?,
        patterns: need(value, "origin_regexes")?,
        credentials: need(value, "credentials")?,
        methods: need(value, "methods")?,
        headers: need(value, "headers")?,
        expose: need(value, "expose_headers")?,
        max_age: need(value, "max_age")?,
        private_network: need(value, "private_network")?,
    };
    Cors::new(&spec).map_err(|error| PyValueError::new_err(error.to_string()))
}

fn compression(value: &Bound<'_, PyAny>) -> PyResult<Compression> {
    let named: Vec<(String, i32)> = need(value, "codings")?;
    let coding = |(name, level): (String, i32)| {
        let found = Coding::ALL.into_iter().find(|coding| coding.name() == name);
        let unknown = || PyValueError::new_err(format!("there is no coding {name:?}; there are zstd, br and gzip"));
        found.map(|coding| (coding, level)).ok_or_else(unknown)
    };
    Ok(Compression {
        minimum_size: need(value, "minimum_size")?,
        codings: named.into_iter().map(coding).collect::<PyResult<_>>()?,
        types: need(value, "types")?,
    })
}

fn headers(value: &Bound<'_, PyAny>) -> PyResult<Vec<(HeaderName, HeaderValue)>> {
    let pairs: Vec<(String, String)> = value.extract()?;
    pairs.iter().map(|(name, value)| Ok((header_name(name)?, header_value(name, value)?))).collect()
}

fn secure(value: &Bound<'_, PyAny>) -> PyResult<Secure> {
    if value.is_instance_of::<PyString>() {
        return Ok(Secure::Always);
    }
    let (name, told): (String, String) = value.extract()?;
    Ok(Secure::Told(header_name(&name)?, header_value(&name, &told)?))
}

fn header_name(name: &str) -> PyResult<HeaderName> {
    HeaderName::try_from(name).map_err(|_| PyValueError::new_err(format!("{name:?} is not a possible header name")))
}

fn header_value(name: &str, value: &str) -> PyResult<HeaderValue> {
    HeaderValue::from_str(value)
        .map_err(|_| PyValueError::new_err(format!("the header {name} cannot have the value {value:?}")))
}

/// What is added to answers, and to whose.
pub(super) struct Finishing {
    /// For requests that no route answers.
    elsewhere: Option<Arc<Finish>>,
    /// Whether some route has rules for other origins.
    cors: bool,
    address: Arc<ClientAddress>,
    /// Whether some proxies are trusted. Then only what they say is believed.
    behind_proxies: bool,
    log: Option<Arc<AccessLog>>,
}

impl Finishing {
    pub(super) fn new(
        finishes: Finishes,
        router: &Router<Arc<Route>>,
        address: Arc<ClientAddress>,
        behind_proxies: bool,
    ) -> Self {
        let Finishes { log, elsewhere, .. } = finishes;
        let has_cors = |finish: &Option<Arc<Finish>>| finish.as_ref().is_some_and(|finish| finish.cors.is_some());
        let cors = has_cors(&elsewhere) || router.values().any(|route| has_cors(&route.finish));
        Finishing { elsewhere, cors, address, behind_proxies, log }
    }

    /// Begins to write the access log, if there is one.
    pub(super) fn start(&self) -> PyResult<()> {
        self.log.as_ref().map_or(Ok(()), |log| Ok(log.start()?))
    }

    /// Writes the last lines of the access log. The caller must not hold the GIL.
    pub(super) fn close(&self) {
        if let Some(log) = &self.log {
            log.close();
        }
    }

    /// Lines of the access log that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.log.as_ref().map_or(0, |log| log.dropped())
    }

    fn of<'a>(&'a self, found: &'a Found<'_, '_, Arc<Route>>) -> Option<&'a Arc<Finish>> {
        match found {
            Found::Route(found) => found.value().finish.as_ref(),
            _ => self.elsewhere.as_ref(),
        }
    }

    /// Looks at a request: what its answer gets, and the answer itself if a browser only asks
    /// whether it may send something.
    #[inline]
    pub(super) fn see(
        &self,
        router: &Router<Arc<Route>>,
        found: &Found<'_, '_, Arc<Route>>,
        request: &tollway_server::Request,
    ) -> (Option<Box<Seen>>, Option<Response>) {
        if self.cors
            && let Some(asked) = Preflight::of(&request.head)
        {
            let target = router.find(&asked.method, request.head.uri.path());
            if let Some(finish) = self.of(&target)
                && let Some(answer) = finish.preflight(&request.head)
            {
                return (Some(self.begin(finish, request)), Some(answer));
            }
        }
        (self.of(found).map(|finish| self.begin(finish, request)), None)
    }

    /// What the answer to a request gets that is refused before it is handled.
    pub(super) fn refuse(&self, router: &Router<Arc<Route>>, refused: &Refused) -> Option<Seen> {
        let Some(head) = &refused.head else {
            return self.elsewhere.as_ref().map(|finish| finish.begin_unread(refused.peer.map(|peer| peer.ip())));
        };
        let found = router.find(&head.method, head.uri.path());
        self.of(&found).map(|finish| self.look(finish, head, refused.peer))
    }

    fn begin(&self, finish: &Arc<Finish>, request: &tollway_server::Request) -> Box<Seen> {
        Box::new(self.look(finish, &request.head, request.peer))
    }

    /// Remembers what has to be known of a request when its answer is there.
    fn look(&self, finish: &Arc<Finish>, head: &Parts, peer: Option<SocketAddr>) -> Seen {
        let peer = peer.map(|peer| peer.ip());
        let believed = !self.behind_proxies || peer.is_some_and(|peer| self.address.trusts(peer));
        let client = |head: &Parts| -> Option<IpAddr> { Some(self.address.resolve_headers(peer?, &head.headers)) };
        finish.begin(head, believed, client)
    }
}
