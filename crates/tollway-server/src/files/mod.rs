//! Files as answers: streamed, with validators, conditions and ranges (RFC 9110).

mod conditions;
mod ranges;
mod reader;

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ACCEPT_RANGES, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue, LAST_MODIFIED};
use http::{Method, StatusCode, request};

use crate::{Body, Response};
use conditions::Outcome;
use ranges::Wanted;
use reader::{FileBody, Part};

/// A regular file that is open for an answer.
///
/// What is sent is what was opened, also when the path means another file by
/// then. Nothing of it is in memory but the pieces on their way.
///
/// ```
/// use tollway_server::{Body, File, Response};
///
/// let path = std::env::temp_dir().join("tollway-doc-file.txt");
/// std::fs::write(&path, "hello")?;
/// let file = File::open(&path, &[]).expect("it was just written");
/// let (request, ()) = http::Request::get("/").header("range", "bytes=1-3").body(())?.into_parts();
/// let response = file.answer(&request, Response::new(Body::Empty));
/// assert_eq!((response.status().as_u16(), response.body().exact_len()), (206, Some(3)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct File {
    file: Arc<fs::File>,
    len: u64,
    modified: SystemTime,
}

impl File {
    /// Opens a file for an answer; `None` where there is none to send: it does
    /// not exist, cannot be read, is a directory or a device, or lies outside
    /// of all `roots` once every link and `..` is followed. Without roots it
    /// may lie anywhere.
    ///
    /// A link that is changed meanwhile cannot lead outside: what was opened
    /// must be what is inside. Costs a few system calls on the caller's thread.
    pub fn open(path: &Path, roots: &[PathBuf]) -> Option<File> {
        // Opening a FIFO must not wait for its other end.
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
        let found = file.metadata().ok()?;
        if !found.is_file() || !(roots.is_empty() || is_inside(path, roots, &found).unwrap_or(false)) {
            return None;
        }
        let modified = found.modified().unwrap_or(UNIX_EPOCH);
        Some(File { file: Arc::new(file), len: found.len(), modified })
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file itself, for somebody else to read.
    ///
    /// ```
    /// # let path = std::env::temp_dir().join("tollway-doc-inner.txt");
    /// std::fs::write(&path, "hello")?;
    /// let file = tollway_server::File::open(&path, &[]).expect("it was just written");
    /// assert_eq!(std::io::read_to_string(file.into_inner()?)?, "hello");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    ///
    /// # Errors
    /// Where no descriptor is left.
    pub fn into_inner(self) -> io::Result<fs::File> {
        Arc::try_unwrap(self.file).or_else(|shared| shared.try_clone())
    }

    /// A strong validator, made of the length and the time of the last change
    /// in nanoseconds.
    pub fn etag(&self) -> HeaderValue {
        let since = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let text = format!("\"{:x}-{:x}\"", since.as_nanos(), self.len);
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
    }

    /// The answer to `request` with this file: `response` with the file, the
    /// part of it that was asked for, or no body, and the headers that say so.
    ///
    /// Headers that `response` has already are kept, `ETag` and
    /// `Last-Modified` among them. Conditions and ranges count for `GET` and
    /// `HEAD` and a response of 200 only. Up to 16 ranges that do not overlap
    /// are sent as `multipart/byteranges`; other sets get the whole file.
    pub fn answer(self, request: &request::Parts, mut response: Response) -> Response {
        let headers = response.headers_mut();
        if !headers.contains_key(ETAG) {
            headers.insert(ETAG, self.etag());
        }
        if !headers.contains_key(LAST_MODIFIED)
            && let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(self.modified))
        {
            headers.insert(LAST_MODIFIED, date);
        }
        let readable = matches!(request.method, Method::GET | Method::HEAD);
        if response.status() != StatusCode::OK || !readable {
            return self.whole(response);
        }
        response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        match conditions::judge(&request.headers, response.headers()) {
            Outcome::NotModified => return bare(response, StatusCode::NOT_MODIFIED),
            Outcome::Failed => return bare(response, StatusCode::PRECONDITION_FAILED),
            Outcome::Send { ranges: false } => return self.whole(response),
            Outcome::Send { ranges: true } => {}
        }
        match ranges::wanted(request, self.len) {
            Wanted::Whole => self.whole(response),
            Wanted::Nothing => {
                set_range(&mut response, &format!("bytes */{}", self.len));
                bare(response, StatusCode::RANGE_NOT_SATISFIABLE)
            }
            Wanted::Some(ranges) => self.some(&ranges, response),
        }
    }

    fn whole(self, response: Response) -> Response {
        let parts = vec![Part::File { from: 0, left: self.len }];
        response.map(|_| body(self.file, parts))
    }

    /// The answer with some ranges, of which there is at least one.
    fn some(self, ranges: &[(u64, u64)], mut response: Response) -> Response {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        if let [(first, last)] = *ranges {
            set_range(&mut response, &format!("bytes {first}-{last}/{}", self.len));
            let parts = vec![Part::File { from: first, left: last - first + 1 }];
            return response.map(|_| body(self.file, parts));
        }
        let boundary = ranges::boundary();
        let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_vec());
        let mut parts = Vec::new();
        for (index, &(first, last)) in ranges.iter().enumerate() {
            let mut head = if index == 0 { Vec::new() } else { b"\r\n".to_vec() };
            head.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
            if let Some(kind) = &kind {
                head.extend_from_slice(b"Content-Type: ");
                head.extend_from_slice(kind);
                head.extend_from_slice(b"\r\n");
            }
            head.extend_from_slice(format!("Content-Range: bytes {first}-{last}/{}\r\n\r\n", self.len).as_bytes());
            parts.push(Part::Bytes(Bytes::from(head)));
            parts.push(Part::File { from: first, left: last - first + 1 });
        }
        parts.push(Part::Bytes(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
        if let Ok(kind) = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}")) {
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        response.map(|_| body(self.file, parts))
    }
}

fn body(file: Arc<fs::File>, parts: Vec<Part>) -> Body {
    Body::stream(FileBody::new(file, parts))
}

/// An answer without a body.
fn bare(response: Response, status: StatusCode) -> Response {
    let mut response = response.map(|_| Body::Empty);
    *response.status_mut() = status;
    response.headers_mut().remove(CONTENT_TYPE);
    response
}

fn set_range(response: &mut Response, text: &str) {
    if let Ok(value) = HeaderValue::try_from(text) {
        response.headers_mut().insert(CONTENT_RANGE, value);
    }
}

/// Whether what was opened is what `path` means inside of one of the roots.
fn is_inside(path: &Path, roots: &[PathBuf], opened: &fs::Metadata) -> io::Result<bool> {
    let real = path.canonicalize()?;
    let within = roots.iter().filter_map(|root| root.canonicalize().ok()).any(|root| real.starts_with(root));
    let there = fs::symlink_metadata(&real)?;
    Ok(within && there.dev() == opened.dev() && there.ino() == opened.ino())
}
