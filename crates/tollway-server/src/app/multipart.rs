//! `multipart/form-data` (RFC 7578) out of a whole body, strictly: what is not a form to the
//! letter is refused, with the number of the part. One pass, and contents are not copied.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;
use percent_encoding::percent_decode_str;

use super::form::{Form, FormError, FormFile, FormLimits, too_many};

/// Longest boundary that RFC 2046 allows.
const MAX_BOUNDARY: usize = 70;
/// Headers of one part.
const MAX_HEADERS: usize = 16;
/// The type of a file that states none.
const OCTETS: &str = "application/octet-stream";

/// Reads the body of a request with this `Content-Type`.
pub(super) fn read<'b>(content_type: &str, body: &'b Bytes, limits: &FormLimits) -> Result<Form<'b>, FormError> {
    let boundary = boundary(content_type)
        .ok_or_else(|| FormError::invalid("form_invalid", "the Content-Type names no usable boundary".to_owned()))?;
    let mut reader = Reader { body, at: 0, number: 0, limits, form: Form::default() };
    reader.read(&format!("\r\n--{boundary}"))?;
    Ok(reader.form)
}

/// The boundary in a `Content-Type`: 1 to 70 characters of those that need no escape.
fn boundary(content_type: &str) -> Option<Cow<'_, str>> {
    let (_, rest) = content_type.split_once(';')?;
    let found = Parameters { rest }.find_map(|pair| match pair {
        Some((name, value)) if name.eq_ignore_ascii_case("boundary") => Some(value),
        _ => None,
    })?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    let fits = (1..=MAX_BOUNDARY).contains(&found.len()) && found.bytes().all(allowed) && !found.ends_with(' ');
    fits.then_some(found)
}

/// One pass over a body.
struct Reader<'b, 'l> {
    body: &'b Bytes,
    at: usize,
    /// The part that is being read, from 1.
    number: usize,
    limits: &'l FormLimits,
    form: Form<'b>,
}

impl<'b> Reader<'b, '_> {
    fn read(&mut self, delimiter: &str) -> Result<(), FormError> {
        // Some clients begin with an empty line.
        let first = if self.body.starts_with(b"\r\n") { delimiter } else { &delimiter[2..] };
        if !self.body.starts_with(first.as_bytes()) {
            return Err(self.wrong("the form does not begin with its boundary"));
        }
        self.at = first.len();
        let finder = memmem::Finder::new(delimiter.as_bytes());
        while !self.after_boundary()? {
            self.number += 1;
            let head = self.head()?;
            let Some(length) = finder.find(self.rest()) else {
                return Err(self.wrong("it has no end"));
            };
            let (start, end) = (self.at, self.at + length);
            self.at = end + delimiter.len();
            self.keep(head, start, end)?;
        }
        Ok(())
    }

    fn rest(&self) -> &'b [u8] {
        &self.body[self.at..]
    }

    fn wrong(&self, what: &str) -> FormError {
        let place = if self.number == 0 { String::new() } else { format!("part {} of the form: ", self.number) };
        FormError::invalid("form_invalid", format!("{place}{what}"))
    }

    /// Goes past the end of a boundary's line. Whether it was the last one.
    fn after_boundary(&mut self) -> Result<bool, FormError> {
        let rest = self.rest();
        if rest.starts_with(b"\r\n") {
            self.at += 2;
            return Ok(false);
        }
        let end = rest.strip_prefix(b"--").map(|tail| tail.iter().all(|byte| b"\r\n".contains(byte)));
        match end {
            Some(true) => Ok(true),
            Some(false) => Err(self.wrong("something follows the end of the form")),
            None => Err(self.wrong("a boundary is not followed by the end of its line")),
        }
    }

    /// The headers of a part.
    fn head(&mut self) -> Result<Head, FormError> {
        let rest = self.rest();
        let window = &rest[..rest.len().min(self.limits.max_part_head_bytes + 4)];
        let end = if window.starts_with(b"\r\n") { Some(0) } else { memmem::find(window, b"\r\n\r\n") };
        let Some(end) = end else {
            return Err(self.wrong(&match rest.len() > window.len() {
                true => format!("its headers are longer than {} bytes", self.limits.max_part_head_bytes),
                false => "its headers do not end".to_owned(),
            }));
        };
        let text = std::str::from_utf8(&rest[..end]).map_err(|_| self.wrong("its headers are not UTF-8"))?;
        self.at += if end == 0 { 2 } else { end + 4 };
        let mut head = Head::default();
        for line in text.split("\r\n").filter(|line| !line.is_empty()) {
            let Some((name, value)) = header(line) else {
                return Err(self.wrong("a header is malformed"));
            };
            if head.headers.len() == MAX_HEADERS {
                return Err(self.wrong(&format!("it has more than {MAX_HEADERS} headers")));
            }
            head.headers.push((name, value.to_owned()));
        }
        head.disposition().map_err(|what| self.wrong(what))?;
        Ok(head)
    }

    /// Puts a part among the fields or the files.
    fn keep(&mut self, head: Head, start: usize, end: usize) -> Result<(), FormError> {
        let Some(filename) = head.filename else {
            if self.form.fields.len() == self.limits.max_fields {
                return Err(too_many(self.limits.max_fields, "fields"));
            }
            let text = std::str::from_utf8(&self.body[start..end]).ok();
            self.form.fields.push((Cow::Owned(head.name), text.map(Cow::Borrowed)));
            return Ok(());
        };
        // What a browser sends for a file that was not chosen.
        if filename.is_empty() && start == end {
            return Ok(());
        }
        if self.form.files.len() == self.limits.max_files {
            return Err(too_many(self.limits.max_files, "files"));
        }
        let stated = head.headers.iter().find(|(name, _)| name == "content-type");
        let content_type = stated.map_or_else(|| OCTETS.to_owned(), |(_, value)| value.clone());
        let content = self.body.slice(start..end);
        self.form.files.push(FormFile { name: head.name, filename, content_type, headers: head.headers, content });
        Ok(())
    }
}

/// The headers of a part, and what its `Content-Disposition` says.
#[derive(Default)]
struct Head {
    headers: Vec<(String, String)>,
    name: String,
    filename: Option<String>,
}

impl Head {
    fn disposition(&mut self) -> Result<(), &'static str> {
        let mut found = None;
        for (name, value) in &self.headers {
            match name.as_str() {
                "content-disposition" if found.is_some() => return Err("it has two Content-Disposition headers"),
                "content-disposition" => found = Some(value),
                "content-transfer-encoding" if !matches!(&*value.to_ascii_lowercase(), "7bit" | "8bit" | "binary") => {
                    return Err("its Content-Transfer-Encoding is not read here: send it as it is");
                }
                _ => {}
            }
        }
        let value = found.ok_or("it has no Content-Disposition")?;
        let (kind, rest) = value.split_once(';').unwrap_or((value, ""));
        if !kind.trim().eq_ignore_ascii_case("form-data") {
            return Err("its Content-Disposition is not form-data");
        }
        let (mut name, mut plain, mut extended) = (None, None, None);
        for pair in (Parameters { rest }) {
            let (key, value) = pair.ok_or("its Content-Disposition is malformed")?;
            let slot = match &*key.to_ascii_lowercase() {
                "name" => &mut name,
                "filename" => &mut plain,
                "filename*" => &mut extended,
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err("its Content-Disposition says a thing twice");
            }
        }
        self.name = name.ok_or("it has no name")?;
        self.filename = match extended {
            Some(text) => Some(extended_name(&text).ok_or("its filename* is malformed")?),
            None => plain,
        };
        if let Some(filename) = &mut self.filename {
            *filename = base_name(filename).ok_or("its file name cannot be one")?;
        }
        Ok(())
    }
}

/// `Name: value`, the name in lower case.
fn header(line: &str) -> Option<(String, &str)> {
    let (name, value) = line.split_once(':')?;
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let value = value.trim_matches([' ', '\t']);
    let clean = !name.is_empty() && name.bytes().all(token) && !value.bytes().any(|byte| byte < b' ' && byte != b'\t');
    clean.then(|| (name.to_ascii_lowercase(), value))
}

/// The file's name without the folders that it was in. `None` for one that names a folder.
fn base_name(text: &str) -> Option<String> {
    let name = text.rsplit(['/', '\\']).next().unwrap_or("").trim();
    let folder = name == "." || name == ".." || (name.is_empty() && !text.is_empty());
    (!folder && !name.contains('\0')).then(|| name.to_owned())
}

/// `UTF-8''percent%20encoded`.
fn extended_name(text: &str) -> Option<String> {
    let mut pieces = text.splitn(3, '\'');
    let (charset, _, encoded) = (pieces.next()?, pieces.next()?, pieces.next()?);
    let decoded = percent_decode_str(encoded).decode_utf8().ok()?;
    let clean = charset.eq_ignore_ascii_case("utf-8") && !decoded.chars().any(char::is_control);
    clean.then(|| decoded.into_owned())
}

/// The parameters of a header: `; name=value; other="quoted \" value"`. `None` inside for one
/// that is malformed; nothing comes after it.
struct Parameters<'t> {
    rest: &'t str,
}

impl<'t> Parameters<'t> {
    fn pair(&mut self, text: &'t str) -> Option<(&'t str, Cow<'t, str>)> {
        let (name, rest) = text.split_once('=')?;
        let name = name.trim();
        let (value, rest) = match rest.trim_start_matches([' ', '\t']).strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = rest.find(';').unwrap_or(rest.len());
                (Cow::Borrowed(rest[..end].trim()), &rest[end..])
            }
        };
        let rest = rest.trim_start_matches([' ', '\t']);
        self.rest = match rest.strip_prefix(';') {
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return None,
        };
        (!name.is_empty()).then_some((name, value))
    }
}

impl<'t> Iterator for Parameters<'t> {
    type Item = Option<(&'t str, Cow<'t, str>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = std::mem::take(&mut self.rest).trim_start_matches([' ', '\t', ';']);
        if text.is_empty() {
            return None;
        }
        Some(self.pair(text))
    }
}

/// The text up to the closing quote, and what follows. `\"` and `\\` stand for one character; any
/// other backslash is itself, because file names of Windows hold them.
fn unquote(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text.as_bytes()[end] == b'"' {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((Cow::Owned(value), &text[at + 1..])),
            '\\' if text[at + 1..].starts_with(['"', '\\']) => value.extend(characters.next().map(|(_, next)| next)),
            other => value.push(other),
        }
    }
    None
}
