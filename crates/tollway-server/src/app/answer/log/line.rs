//! One line: what it holds and how it looks.

use std::fmt;
use std::io::Write;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode, Uri};

use super::Outcome;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Values in the order of [`Field`], text from clients in quotes.
    Text,
    /// One JSON object a line.
    Json,
}

/// What a line can hold, in this order. The path is logged without the query unless that is
/// asked for: queries hold what people search for, and sometimes secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// When the answer was ready, in UTC.
    Time,
    /// `INFO`, `WARNING` from 400 on, `ERROR` from 500 on.
    Level,
    /// The client's address.
    Client,
    /// The method.
    Method,
    /// The path as it was sent.
    Path,
    /// The query as it was sent.
    Query,
    /// The status of the answer.
    Status,
    /// Bytes of the answer's body.
    Size,
    /// Milliseconds from the head of the request to the head of the answer.
    Duration,
    /// The request's id.
    RequestId,
    /// `Host`.
    Host,
    /// `Referer`.
    Referer,
    /// `User-Agent`.
    UserAgent,
}

impl Field {
    /// All of them.
    pub const ALL: [Field; 13] = [
        Field::Time,
        Field::Level,
        Field::Client,
        Field::Method,
        Field::Path,
        Field::Query,
        Field::Status,
        Field::Size,
        Field::Duration,
        Field::RequestId,
        Field::Host,
        Field::Referer,
        Field::UserAgent,
    ];

    /// Its name in settings and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Field::Time => "time",
            Field::Level => "level",
            Field::Client => "client_ip",
            Field::Method => "method",
            Field::Path => "path",
            Field::Query => "query",
            Field::Status => "status_code",
            Field::Size => "size",
            Field::Duration => "duration_ms",
            Field::RequestId => "request_id",
            Field::Host => "host",
            Field::Referer => "referer",
            Field::UserAgent => "user_agent",
        }
    }

    /// The field of that name.
    pub fn from_name(name: &str) -> Option<Field> {
        Field::ALL.into_iter().find(|field| field.name() == name)
    }
}

/// What the log needs of a request, taken before the request is handed on.
#[derive(Debug)]
pub(in crate::app::answer) struct Line {
    pub(in crate::app::answer) started: Instant,
    /// The method and the target, where they could be read.
    pub(in crate::app::answer) request: Option<(Method, Uri)>,
    pub(in crate::app::answer) client: Option<IpAddr>,
    /// Headers that some field asks for.
    pub(in crate::app::answer) headers: Vec<(Field, HeaderValue)>,
}

impl Line {
    pub(super) fn write(
        &self,
        format: LogFormat,
        fields: &[Field],
        outcome: &Outcome<'_>,
        stamp: &str,
        out: &mut Vec<u8>,
    ) {
        match format {
            LogFormat::Json => {
                let mut separator = b'{';
                for &field in fields {
                    out.push(separator);
                    separator = b',';
                    put(out, format_args!("\"{}\":", field.name()));
                    self.value(field, outcome, stamp).json(out);
                }
                out.extend_from_slice(b"}\n");
            }
            LogFormat::Text => {
                let start = out.len();
                for &field in fields {
                    if out.len() > start {
                        out.push(b' ');
                    }
                    self.value(field, outcome, stamp).text(out);
                }
                out.push(b'\n');
            }
        }
    }

    fn value<'a>(&'a self, field: Field, outcome: &'a Outcome<'_>, stamp: &'a str) -> Value<'a> {
        let uri = self.request.as_ref().map(|(_, uri)| uri);
        let foreign = |text: Option<&'a str>| text.map_or(Value::Nothing, |text| Value::Foreign(text.as_bytes()));
        match field {
            Field::Time => Value::Word(stamp),
            Field::Level => Value::Word(level(outcome.status)),
            Field::Client => self.client.map_or(Value::Nothing, Value::Address),
            Field::Method => self.request.as_ref().map_or(Value::Nothing, |(method, _)| Value::Word(method.as_str())),
            Field::Path => foreign(uri.map(Uri::path)),
            Field::Query => foreign(uri.and_then(Uri::query)),
            Field::Status => Value::Number(u64::from(outcome.status.as_u16())),
            Field::Size => outcome.size.map_or(Value::Nothing, Value::Number),
            Field::Duration => Value::Millis(outcome.duration),
            Field::RequestId => outcome.id.map_or(Value::Nothing, |id| Value::Foreign(id.as_bytes())),
            Field::Host | Field::Referer | Field::UserAgent => self
                .headers
                .iter()
                .find(|(known, _)| *known == field)
                .map_or(Value::Nothing, |(_, value)| Value::Foreign(value.as_bytes())),
        }
    }
}

fn level(status: StatusCode) -> &'static str {
    match status.as_u16() {
        500.. => "ERROR",
        400.. => "WARNING",
        _ => "INFO",
    }
}

enum Value<'a> {
    Nothing,
    /// Text of ours that needs no escaping.
    Word(&'a str),
    /// Text that a client chose.
    Foreign(&'a [u8]),
    Address(IpAddr),
    Number(u64),
    Millis(Duration),
}

impl Value<'_> {
    fn json(&self, out: &mut Vec<u8>) {
        match self {
            Value::Nothing => out.extend_from_slice(b"null"),
            Value::Word(text) => put(out, format_args!("\"{text}\"")),
            Value::Foreign(bytes) => quoted(bytes, out),
            Value::Address(address) => put(out, format_args!("\"{address}\"")),
            Value::Number(number) => put(out, format_args!("{number}")),
            Value::Millis(time) => put(out, format_args!("{:.3}", time.as_secs_f64() * 1000.0)),
        }
    }

    fn text(&self, out: &mut Vec<u8>) {
        match self {
            Value::Nothing => out.push(b'-'),
            Value::Word(text) => out.extend_from_slice(text.as_bytes()),
            Value::Address(address) => put(out, format_args!("{address}")),
            Value::Millis(time) => put(out, format_args!("{:.3}ms", time.as_secs_f64() * 1000.0)),
            other => other.json(out),
        }
    }
}

/// Writing to memory cannot fail.
fn put(out: &mut Vec<u8>, text: fmt::Arguments<'_>) {
    let _ = out.write_fmt(text);
}

/// Text of a client as a JSON string: nothing in it can end the line or the quotes. Bytes that are
/// not UTF-8 become U+FFFD.
fn quoted(bytes: &[u8], out: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(bytes);
    // Strings always can be written as JSON.
    let _ = serde_json::to_writer(out, &*text);
}

/// A line of the log about itself.
pub(super) fn note(format: LogFormat, stamp: &str, count: u64, what: &str, out: &mut Vec<u8>) {
    match format {
        LogFormat::Json => {
            put(
                out,
                format_args!(
                    "{{\"time\":\"{stamp}\",\"level\":\"WARNING\",\"message\":\"{count} {what}\",\"count\":{count}}}\n"
                ),
            );
        }
        LogFormat::Text => put(out, format_args!("{stamp} WARNING {count} {what}\n")),
    }
}

/// The time of a line. Most of it is the same for a whole second.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: u64,
    text: String,
}

/// The length of `2026-11-21T12:00:00`.
const TO_SECONDS: usize = 19;

impl Stamp {
    /// `2026-11-21T12:00:00.123Z` for a time since 1970.
    pub(super) fn at(&mut self, time: Duration) -> &str {
        if self.second != time.as_secs() || self.text.is_empty() {
            self.second = time.as_secs();
            let whole = i64::try_from(self.second).ok().and_then(|second| jiff::Timestamp::from_second(second).ok());
            self.text = whole.unwrap_or_default().to_string();
        }
        self.text.truncate(TO_SECONDS);
        // Writing to a String cannot fail.
        let _ = fmt::Write::write_fmt(&mut self.text, format_args!(".{:03}Z", time.subsec_millis()));
        &self.text
    }
}
