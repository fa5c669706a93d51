//! The server's settings as Python gives them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use tollway_http::ClientAddress;
use tollway_server::Tls;

use super::bodies::Bodies;
use super::respond::Hooks;

/// Suspended async handlers unless the settings say otherwise.
const MAX_TASKS: usize = 1024;
/// Threads for plain handlers unless the settings say otherwise.
const THREADS: usize = 4;

/// Streamed answers of async iterators unless the settings say otherwise.
const MAX_STREAMS: usize = 10_000;
/// Threads for streamed answers of plain iterators unless the settings say otherwise.
const MAX_LANES: usize = 8;

/// What there may be, and how much of it at a time.
pub(super) struct Bounds {
    pub(super) max_tasks: usize,
    pub(super) max_streams: usize,
    pub(super) max_lanes: usize,
    pub(super) threads: usize,
}

/// Everything that is set.
pub(super) struct Parsed {
    pub(super) engine: tollway_server::Settings,
    pub(super) hooks: Hooks,
    pub(super) bodies: Bodies,
    pub(super) bounds: Bounds,
    pub(super) address: Arc<ClientAddress>,
    /// Folders of the files that may be sent; none for all.
    pub(super) file_roots: Arc<[PathBuf]>,
    pub(super) behind_proxies: bool,
}

/// Reads the settings. Names that are missing or None keep their defaults.
///
/// # Errors
/// `ValueError` that names the setting: unknown, of a wrong type, or out of its range.
pub(super) fn parse(settings: &Bound<'_, PyDict>) -> PyResult<Parsed> {
    let mut engine = tollway_server::Settings::default();
    let mut hooks = Hooks { on_error: None, on_validation: None, response_type: None, carried: None };
    let mut bounds = Bounds { max_tasks: MAX_TASKS, max_streams: MAX_STREAMS, max_lanes: MAX_LANES, threads: THREADS };
    let mut file_roots: Vec<PathBuf> = Vec::new();
    let mut bodies = Bodies::new(engine.max_body_bytes);
    let mut max_upload = None;
    let (mut certificate, mut private_key) = (None::<PathBuf>, None::<PathBuf>);
    let (mut proxies, mut hops, mut prefix) = (Vec::<String>::new(), 0_usize, 64_u8);
    for (key, value) in settings.iter() {
        let name: String = key.extract()?;
        if value.is_none() {
            continue;
        }
        match name.as_str() {
            "max_head_bytes" => engine.max_head_bytes = read(&name, &value)?,
            "max_target_bytes" => engine.max_target_bytes = read(&name, &value)?,
            "max_http2_streams" => engine.max_http2_streams = read(&name, &value)?,
            "stream_window_bytes" => engine.stream_window_bytes = read(&name, &value)?,
            "max_headers" => engine.max_headers = read(&name, &value)?,
            "max_body_bytes" => engine.max_body_bytes = read(&name, &value)?,
            "max_upload_bytes" => max_upload = Some(read(&name, &value)?),
            "max_fields" => bodies.forms.max_fields = read(&name, &value)?,
            "max_files" => bodies.forms.max_files = read(&name, &value)?,
            "max_part_head_bytes" => bodies.forms.max_part_head_bytes = read(&name, &value)?,
            "max_connections" => engine.max_connections = read(&name, &value)?,
            "header_timeout" => engine.header_timeout = seconds(&name, &value)?,
            "body_timeout" => engine.body_timeout = seconds(&name, &value)?,
            "keep_alive_timeout" => engine.keep_alive_timeout = seconds(&name, &value)?,
            "linger_timeout" => engine.linger_timeout = seconds(&name, &value)?,
            "handler_timeout" => engine.handler_timeout = Some(seconds(&name, &value)?).filter(|time| !time.is_zero()),
            "tls_cert" => certificate = Some(read(&name, &value)?),
            "tls_key" => private_key = Some(read(&name, &value)?),
            "write_timeout" => engine.write_timeout = seconds(&name, &value)?,
            "cancel_on_half_close" => engine.cancel_on_half_close = read(&name, &value)?,
            "max_streams" => bounds.max_streams = at_least_one(&name, &value)?,
            "max_sync_streaming_threads" => bounds.max_lanes = at_least_one(&name, &value)?.min(1024),
            "max_tasks" => bounds.max_tasks = at_least_one(&name, &value)?,
            "file_roots" => file_roots = read(&name, &value)?,
            "carried" => hooks.carried = Some(read(&name, &value)?),
            "threads" => bounds.threads = at_least_one(&name, &value)?.min(1024),
            "trusted_proxies" => proxies = read(&name, &value)?,
            "proxy_hops" => hops = read(&name, &value)?,
            "ipv6_prefix" => prefix = read(&name, &value)?,
            // Read by `Finishes`.
            "answers" => {}
            "on_error" => hooks.on_error = Some(callable(&name, value)?),
            "on_validation" => hooks.on_validation = Some(callable(&name, value)?),
            "response_type" => hooks.response_type = Some(value.unbind()),
            _ => return Err(PyValueError::new_err(format!("the server has no setting {name:?}"))),
        }
    }
    engine.tls = tls(certificate, private_key)?;
    engine.check().map_err(|error| PyValueError::new_err(error.to_string()))?;
    let fresh = Bodies::new(engine.max_body_bytes);
    bodies = Bodies { forms: bodies.forms, max_upload: max_upload.unwrap_or(fresh.max_upload), ..fresh };
    let address = ClientAddress::new(&proxies, hops, prefix)
        .map_err(|error| PyValueError::new_err(format!("the setting \"trusted_proxies\": {error}")))?;
    let behind_proxies = hops > 0 || !proxies.is_empty();
    let (address, file_roots) = (Arc::new(address), file_roots.into());
    Ok(Parsed { engine, hooks, bodies, bounds, address, file_roots, behind_proxies })
}

fn tls(certificate: Option<PathBuf>, private_key: Option<PathBuf>) -> PyResult<Option<Tls>> {
    match (certificate, private_key) {
        (Some(certificate), Some(key)) => {
            let read = Tls::from_files(&certificate, &key);
            read.map(Some).map_err(|error| PyValueError::new_err(format!("TLS: {error}")))
        }
        (None, None) => Ok(None),
        _ => Err(PyValueError::new_err("TLS needs both a certificate and its key")),
    }
}

fn read<'py, T: FromPyObjectOwned<'py>>(name: &str, value: &Bound<'py, PyAny>) -> PyResult<T> {
    value.extract::<T>().map_err(|_| {
        let shown = value.repr().map_or_else(|_| "this value".to_owned(), |repr| repr.to_string());
        PyValueError::new_err(format!("the setting {name:?} cannot be {shown}"))
    })
}

fn seconds(name: &str, value: &Bound<'_, PyAny>) -> PyResult<Duration> {
    Duration::try_from_secs_f64(read(name, value)?)
        .map_err(|_| PyValueError::new_err(format!("the setting {name:?} must be a time in seconds")))
}

fn at_least_one(name: &str, value: &Bound<'_, PyAny>) -> PyResult<usize> {
    match read(name, value)? {
        0 => Err(PyValueError::new_err(format!("the setting {name:?} must be at least 1"))),
        count => Ok(count),
    }
}

fn callable(name: &str, value: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    if value.is_callable() {
        return Ok(value.unbind());
    }
    Err(PyValueError::new_err(format!("the setting {name:?} must be callable")))
}
