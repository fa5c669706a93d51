//! Forms: the fields and files of a body, as browsers send them.

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::bind::{FieldError, Part};
use super::multipart;
use super::pairs::{QueryPairs, decode_form};

/// `application/x-www-form-urlencoded`.
const URLENCODED: &str = "application/x-www-form-urlencoded";
/// `multipart/form-data`.
const MULTIPART: &str = "multipart/form-data";

/// How much a form may hold.
///
/// ```
/// assert_eq!(tollway_server::app::FormLimits::default().max_fields, 1000);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormLimits {
    /// Fields, in either kind of form. Default 1000.
    pub max_fields: usize,
    /// Files. Default 100.
    pub max_files: usize,
    /// Bytes of the headers of one part. Default 8 KiB.
    pub max_part_head_bytes: usize,
}

impl Default for FormLimits {
    fn default() -> Self {
        FormLimits { max_fields: 1000, max_files: 100, max_part_head_bytes: 8 * 1024 }
    }
}

/// A file of a form. Its content shares the memory of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormFile {
    /// The name of the field.
    pub name: String,
    /// The name the file has at the client, without folders.
    pub filename: String,
    /// The media type as the client states it, `application/octet-stream` if it does not.
    pub content_type: String,
    /// All headers of the part, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The content.
    pub content: Bytes,
}

/// Why a body is no form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormError {
    /// Its `Content-Type` is another one: 415.
    WrongType(String),
    /// It is malformed or too much: an entry in the list of mistakes.
    Invalid(FieldError),
}

impl FormError {
    pub(super) fn invalid(code: &'static str, message: String) -> FormError {
        FormError::Invalid(FieldError { code, loc: vec![Part::Name("body".to_owned())], message })
    }
}

/// The fields and files of one body, in order.
///
/// ```
/// use http::HeaderMap;
/// use tollway_server::app::{Form, FormLimits};
///
/// let mut headers = HeaderMap::new();
/// headers.insert("content-type", "application/x-www-form-urlencoded".parse().unwrap());
/// let body = "name=lamp+oil&size=2".into();
/// let form = Form::read(&headers, &body, false, &FormLimits::default()).unwrap();
/// assert_eq!(form.fields().next().unwrap(), ("name", Some("lamp oil")));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Form<'b> {
    pub(super) fields: Vec<(Cow<'b, str>, Option<Cow<'b, str>>)>,
    pub(super) files: Vec<FormFile>,
}

impl<'b> Form<'b> {
    /// Reads a body. `files` says whether only a multipart form will do.
    ///
    /// # Errors
    /// Another media type, a malformed form, or one that holds more than `limits` allow.
    pub fn read(headers: &HeaderMap, body: &'b Bytes, files: bool, limits: &FormLimits) -> Result<Form<'b>, FormError> {
        let sent = headers.get(CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or(""));
        let media = sent.split(';').next().unwrap_or("").trim();
        if media.eq_ignore_ascii_case(MULTIPART) {
            return multipart::read(sent, body, limits);
        }
        if media.eq_ignore_ascii_case(URLENCODED) && !files {
            return urlencoded(body, limits);
        }
        // Nothing at all is a form without fields.
        if media.is_empty() && body.is_empty() {
            return Ok(Form::default());
        }
        Err(FormError::WrongType(media.to_owned()))
    }

    /// The media types that [`Form::read`] accepts.
    pub fn accepted(files: bool) -> &'static str {
        if files { "multipart/form-data" } else { "application/x-www-form-urlencoded, multipart/form-data" }
    }

    /// Names and values; a value that is not UTF-8 is `None`.
    pub fn fields(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.fields.iter().map(|(name, value)| (&**name, value.as_deref()))
    }

    /// The files.
    pub fn files(&self) -> &[FormFile] {
        &self.files
    }
}

fn urlencoded<'b>(body: &'b [u8], limits: &FormLimits) -> Result<Form<'b>, FormError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| FormError::invalid("form_invalid", "the form is not text in UTF-8".to_owned()))?;
    let mut form = Form::default();
    for (name, value) in QueryPairs::new(text) {
        if form.fields.len() == limits.max_fields {
            return Err(too_many(limits.max_fields, "fields"));
        }
        let name = decode_form(name).ok_or_else(|| {
            let number = form.fields.len() + 1;
            FormError::invalid("form_invalid", format!("the name of field {number} is not text in UTF-8"))
        })?;
        form.fields.push((name, decode_form(value)));
    }
    Ok(form)
}

pub(super) fn too_many(most: usize, what: &str) -> FormError {
    FormError::invalid("form_too_large", format!("the form has more than {most} {what}"))
}

/// What a file must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileRules {
    /// Most bytes of each file.
    pub max_size: Option<usize>,
    /// Least bytes of each file.
    pub min_size: Option<usize>,
    /// Media types, or such as `image/*`; any if empty.
    pub types: Vec<String>,
    /// Most files in a list.
    pub max_files: Option<usize>,
}

impl FileRules {
    /// What is wrong with one file: a code and the end of a sentence.
    pub(super) fn refuse(&self, file: &FormFile) -> Option<(&'static str, String)> {
        let size = file.content.len();
        match (self.max_size, self.min_size) {
            (Some(most), _) if size > most => {
                return Some(("file_too_large", format!("must not be larger than {most} bytes, it has {size}")));
            }
            (_, Some(least)) if size < least => {
                return Some(("file_too_small", format!("must have at least {least} bytes, it has {size}")));
            }
            _ => {}
        }
        let fits = self.types.is_empty() || self.types.iter().any(|rule| matches(rule, &file.content_type));
        (!fits).then(|| {
            let sent: String = file.content_type.chars().take(80).collect();
            ("file_type", format!("must be of the type {}, not {sent}", self.types.join(" or ")))
        })
    }
}

/// Whether a media type is what a rule says, parameters aside.
fn matches(rule: &str, content_type: &str) -> bool {
    let media = content_type.split(';').next().unwrap_or("").trim();
    match rule.strip_suffix("/*") {
        Some("*") => true,
        Some(major) => media.split_once('/').is_some_and(|(start, _)| start.eq_ignore_ascii_case(major)),
        None => media.eq_ignore_ascii_case(rule),
    }
}

#[cfg(test)]
#[path = "form_tests.rs"]
mod tests;
