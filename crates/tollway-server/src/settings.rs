//! Limits and time-outs of an engine.

use std::fmt;
use std::time::Duration;

use crate::Tls;

/// Limits and time-outs of an [`Engine`](crate::Engine).
///
/// The defaults suit a server that faces the internet with JSON traffic.
/// Every limit is a bound on memory or time that one client can take.
///
/// ```
/// let settings = tollway_server::Settings { max_body_bytes: 64 * 1024, ..Default::default() };
/// assert!(settings.check().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Settings {
    /// Largest request line plus headers, in bytes. Larger heads get 431. Default 32 KiB.
    pub max_head_bytes: usize,
    /// Longest request target (path and query), in bytes. Longer ones get 414.
    /// Default 8 KiB.
    pub max_target_bytes: usize,
    /// Most header lines in one request. More get 431. Default 100.
    pub max_headers: usize,
    /// Largest request body after removing chunk framing, in bytes. Larger ones
    /// get 413, before they are read when `Content-Length` says so. Default 1 MiB.
    pub max_body_bytes: usize,
    /// Time from the first byte of a head (or from accepting the connection) to
    /// its last. Then 408, or a silent close when no byte came. Default 10 s.
    pub header_timeout: Duration,
    /// Time from the end of a head to the end of its body. Then 408. Raise it
    /// together with `max_body_bytes`. Default 30 s.
    pub body_timeout: Duration,
    /// Time a handler may take until its answer begins. Then 504, and its future
    /// is dropped, which cancels it. `None`: any time. Default 60 s.
    pub handler_timeout: Option<Duration>,
    /// Time a connection may wait between two requests. Default 75 s.
    pub keep_alive_timeout: Duration,
    /// Time a client may take without accepting a single byte of a response
    /// that is ready. Then the connection is dropped. Default 30 s.
    pub write_timeout: Duration,
    /// Time a connection that was refused is still read from, so that the
    /// client sees the answer and not a reset. Default 1 s.
    pub linger_timeout: Duration,
    /// Most open connections. Further ones wait in the kernel's queue. Default 10 000.
    pub max_connections: usize,
    /// Most requests that one HTTP/2 connection may have open at once. Default 100.
    pub max_http2_streams: u32,
    /// Bytes that a client may send ahead of what was read, for each HTTP/2
    /// stream; a connection as a whole gets four times as much. Default 256 KiB.
    pub stream_window_bytes: u32,
    /// Whether a client that closes its sending side while its handler is
    /// running counts as gone, which cancels the handler. A close cannot be told
    /// from a half-close until something is sent. Default `true`.
    pub cancel_on_half_close: bool,
    /// The certificate with which connections are encrypted; `None`: they are
    /// not. With it HTTP/2 is offered too. Default `None`.
    pub tls: Option<Tls>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            max_head_bytes: 32 * 1024,
            max_target_bytes: 8 * 1024,
            max_headers: 100,
            max_body_bytes: 1024 * 1024,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            handler_timeout: Some(Duration::from_secs(60)),
            keep_alive_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            linger_timeout: Duration::from_secs(1),
            max_connections: 10_000,
            max_http2_streams: 100,
            stream_window_bytes: 256 * 1024,
            cancel_on_half_close: true,
            tls: None,
        }
    }
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError {
    name: &'static str,
    rule: &'static str,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server setting {} must be {}", self.name, self.rule)
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    /// Says which setting cannot work, if one cannot.
    pub fn check(&self) -> Result<(), SettingsError> {
        let fail = |name, rule| Err(SettingsError { name, rule });
        if !(256..=64 * 1024).contains(&self.max_head_bytes) {
            return fail("max_head_bytes", "from 256 to 65536 bytes");
        }
        if !(16..=64 * 1024).contains(&self.max_target_bytes) {
            return fail("max_target_bytes", "from 16 to 65536 bytes");
        }
        if !(1..=10_000).contains(&self.max_http2_streams) {
            return fail("max_http2_streams", "from 1 to 10000");
        }
        if !(16 * 1024..=64 * 1024 * 1024).contains(&self.stream_window_bytes) {
            return fail("stream_window_bytes", "from 16384 to 67108864 bytes");
        }
        if !(1..=1000).contains(&self.max_headers) {
            return fail("max_headers", "from 1 to 1000");
        }
        if !(1..=1_000_000).contains(&self.max_connections) {
            return fail("max_connections", "from 1 to 1000000");
        }
        for (name, value) in [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("handler_timeout", self.handler_timeout.unwrap_or(self.body_timeout)),
            ("keep_alive_timeout", self.keep_alive_timeout),
            ("write_timeout", self.write_timeout),
            ("linger_timeout", self.linger_timeout),
        ] {
            if value.is_zero() || value > Duration::from_secs(24 * 3600) {
                return fail(name, "longer than nothing and at most a day");
            }
        }
        Ok(())
    }
}
