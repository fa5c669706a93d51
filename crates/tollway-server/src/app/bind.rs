//! Typed arguments out of a request: every parameter is read, and every mistake is listed.

use std::borrow::Cow;
use std::fmt;

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use super::form::{FileRules, Form, FormFile};
use super::kind::{Kind, Value};
use super::pairs::{CookiePairs, QueryPairs, decode_form, decode_path};
use super::router::PathParams;

/// Where a parameter comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A piece of the path.
    Path,
    /// The query string.
    Query,
    /// A header.
    Header,
    /// A cookie.
    Cookie,
    /// A field of a form.
    Form,
    /// A file of a form.
    File,
}

impl Source {
    /// Its name in a route's description.
    pub fn name(self) -> &'static str {
        match self {
            Source::Path => "path",
            Source::Query => "query",
            Source::Header => "header",
            Source::Cookie => "cookie",
            Source::Form => "form",
            Source::File => "file",
        }
    }

    /// The word that stands first in an error's `loc`.
    pub fn place(self) -> &'static str {
        if self.is_form() { "body" } else { self.name() }
    }

    /// Whether it is a form.
    pub fn is_form(self) -> bool {
        matches!(self, Source::Form | Source::File)
    }

    /// What a parameter from here is called in a sentence.
    fn noun(self) -> &'static str {
        match self {
            Source::Path => "path parameter",
            Source::Query => "query parameter",
            Source::Header => "header parameter",
            Source::Cookie => "cookie parameter",
            Source::Form => "form field",
            Source::File => "file",
        }
    }

    /// The source with this name.
    pub fn from_name(name: &str) -> Option<Source> {
        Some(match name {
            "path" => Source::Path,
            "query" => Source::Query,
            "header" => Source::Header,
            "cookie" => Source::Cookie,
            "form" => Source::Form,
            "file" => Source::File,
            _ => return None,
        })
    }
}

/// One parameter of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamSpec {
    /// The name on the wire. In headers `_` stands for `-` and case does not matter.
    pub name: String,
    /// Where it comes from.
    pub source: Source,
    /// Its type.
    pub kind: Kind,
    /// Whether leaving it out is an error. Otherwise it is [`Value::Absent`].
    pub required: bool,
    /// Whether it may come several times (not in the path, not as a cookie).
    pub list: bool,
    /// What a file must be like.
    pub rules: FileRules,
}

impl ParamSpec {
    /// A required parameter that comes once.
    pub fn new(name: impl Into<String>, source: Source, kind: Kind) -> Self {
        ParamSpec { name: name.into(), source, kind, required: true, list: false, rules: FileRules::default() }
    }

    /// The same parameter, free to be left out.
    pub fn optional(mut self) -> Self {
        self.required = false;
        self
    }

    /// The same parameter, allowed several times.
    pub fn list(mut self) -> Self {
        self.list = true;
        self
    }
}

/// One step of the way to the place of an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// A name.
    Name(String),
    /// A position in a list.
    Index(usize),
}

/// One mistake in a request: a stable code, the place and a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What is wrong, for programs: `missing`, `int_parsing`, `string_unicode` …
    pub code: &'static str,
    /// Where: the source, the name and for lists the position.
    pub loc: Vec<Part>,
    /// What is wrong, for people.
    pub message: String,
}

/// A list of parameters that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BindError {
    message: String,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BindError {}

/// Arguments in the order of the specifications.
pub type Values<'a> = SmallVec<[Value<'a>; 4]>;

/// Reads the parameters of one route.
///
/// ```
/// use http::HeaderMap;
/// use tollway_server::app::{Binder, Kind, ParamSpec, PathParams, Source, Value};
///
/// let specs = vec![ParamSpec::new("page", Source::Query, Kind::Int)];
/// let binder = Binder::new(specs, &[]).unwrap();
/// let path = PathParams::empty();
/// let headers = HeaderMap::new();
/// let values = binder.bind(&path, Some("page=2"), &headers).unwrap();
/// assert_eq!(values[0], Value::Int(2));
/// let errors = binder.bind(&path, Some("page=two"), &headers).unwrap_err();
/// assert_eq!(errors[0].code, "int_parsing");
/// ```
#[derive(Debug)]
pub struct Binder {
    params: Vec<Param>,
    uses_query: bool,
    uses_cookies: bool,
    uses_form: bool,
    uses_files: bool,
    needs_files: bool,
}

#[derive(Debug)]
struct Param {
    spec: ParamSpec,
    slot: Slot,
}

#[derive(Debug)]
enum Slot {
    Path(usize),
    Query,
    Header(HeaderName),
    Cookie,
    Form,
    File,
}

impl Binder {
    /// Prepares the reading of `specs` for a route whose path has the parameters
    /// `path_names` in this order.
    ///
    /// # Errors
    /// A path parameter that the path does not have, an impossible header name, or a list
    /// where only one value can come.
    pub fn new(specs: Vec<ParamSpec>, path_names: &[String]) -> Result<Binder, BindError> {
        let params = specs
            .into_iter()
            .map(|spec| Ok(Param { slot: slot(&spec, path_names)?, spec }))
            .collect::<Result<Vec<_>, BindError>>()?;
        let uses = |wanted: fn(Source) -> bool| params.iter().any(|p| wanted(p.spec.source));
        Ok(Binder {
            uses_query: uses(|source| source == Source::Query),
            uses_cookies: uses(|source| source == Source::Cookie),
            uses_form: uses(Source::is_form),
            uses_files: uses(|source| source == Source::File),
            needs_files: params.iter().any(|p| p.spec.required && p.spec.source == Source::File),
            params,
        })
    }

    /// How many values [`Binder::bind`] returns.
    pub fn len(&self) -> usize {
        self.params.len()
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.params.is_empty()
    }

    /// Whether the body is a form.
    pub fn uses_form(&self) -> bool {
        self.uses_form
    }

    /// Whether the form has files.
    pub fn uses_files(&self) -> bool {
        self.uses_files
    }

    /// Whether a form without files will not do.
    pub fn needs_files(&self) -> bool {
        self.needs_files
    }

    /// The specification of the value at `index`.
    pub fn spec(&self, index: usize) -> Option<&ParamSpec> {
        self.params.get(index).map(|param| &param.spec)
    }

    /// Reads all parameters of a request without a form.
    ///
    /// # Errors
    /// All mistakes, in the order of the specifications.
    pub fn bind<'a>(
        &self,
        path: &'a PathParams<'_>,
        query: Option<&'a str>,
        headers: &'a HeaderMap,
    ) -> Result<Values<'a>, Vec<FieldError>> {
        match self.read(path, query, headers, None) {
            (values, errors) if errors.is_empty() => Ok(values),
            (_, errors) => Err(errors),
        }
    }

    /// Reads all parameters, those of the form too where there is one. What is wrong is
    /// [`Value::Absent`] among the values, and in the list of mistakes.
    pub fn read<'a>(
        &self,
        path: &'a PathParams<'_>,
        query: Option<&'a str>,
        headers: &'a HeaderMap,
        form: Option<&'a Form<'_>>,
    ) -> (Values<'a>, Vec<FieldError>) {
        let mut input = Input { path, headers, form, query: SmallVec::new(), cookies: SmallVec::new() };
        if self.uses_query {
            input.query.extend(QueryPairs::new(query.unwrap_or("")));
        }
        if self.uses_cookies {
            input.cookies.extend(CookiePairs::new(headers));
        }
        let mut values = Values::new();
        let mut errors = Vec::new();
        for param in &self.params {
            let value = param.read(&input, &mut errors);
            // Without a form there is no telling what it lacks.
            if value.is_none() && param.spec.required && (form.is_some() || !param.spec.source.is_form()) {
                errors.push(missing(&param.spec));
            }
            values.push(value.unwrap_or(Value::Absent));
        }
        (values, errors)
    }
}

fn slot(spec: &ParamSpec, path_names: &[String]) -> Result<Slot, BindError> {
    if spec.list && matches!(spec.source, Source::Path | Source::Cookie) {
        let source = spec.source.name();
        return Err(BindError {
            message: format!(
                "the {source} parameter {} is a list, but what comes several times are query and \
                 header parameters, form fields and files: take it from the query or give it a single type",
                spec.name
            ),
        });
    }
    Ok(match spec.source {
        Source::Query => Slot::Query,
        Source::Cookie => Slot::Cookie,
        Source::Form => Slot::Form,
        Source::File => Slot::File,
        Source::Path => match path_names.iter().position(|name| *name == spec.name) {
            Some(index) => Slot::Path(index),
            None => {
                return Err(BindError {
                    message: format!(
                        "the path has no parameter {{{}}}: add it to the path, or take the \
                         argument from the query",
                        spec.name
                    ),
                });
            }
        },
        Source::Header => match HeaderName::try_from(spec.name.replace('_', "-")) {
            Ok(name) => Slot::Header(name),
            Err(_) => {
                return Err(BindError {
                    message: format!(
                        "the header parameter {:?} is not a possible header name: use letters, \
                         digits, - and _",
                        spec.name
                    ),
                });
            }
        },
    })
}

/// The request as the parameters see it.
struct Input<'a, 'p> {
    path: &'a PathParams<'p>,
    headers: &'a HeaderMap,
    form: Option<&'a Form<'a>>,
    query: SmallVec<[(&'a str, &'a str); 8]>,
    cookies: SmallVec<[(&'a str, &'a str); 8]>,
}

/// Decoded text, or `None` inside when it is not UTF-8.
type Text<'a> = Option<Cow<'a, str>>;

impl Param {
    /// The value, or `None` when the parameter was not sent. A mistake is added to `errors`
    /// and answered with [`Value::Absent`].
    fn read<'a>(&self, input: &Input<'a, '_>, errors: &mut Vec<FieldError>) -> Option<Value<'a>> {
        let spec = &self.spec;
        let one = |text: Text<'a>, errors: &mut Vec<FieldError>| read_one(spec, text, None, errors);
        match &self.slot {
            Slot::Path(index) => Some(one(decode_path(input.path.get(*index)?), errors)),
            Slot::Header(name) if spec.list => {
                let lines = input.headers.get_all(name).iter();
                read_list(spec, lines.map(header_text), errors)
            }
            Slot::Header(name) => Some(one(header_text(input.headers.get(name)?), errors)),
            Slot::Cookie => {
                let found = input.cookies.iter().find(|(name, _)| *name == spec.name)?;
                Some(one(Some(Cow::Borrowed(found.1)), errors))
            }
            Slot::Query => {
                let mut found = input.query.iter().filter(|(name, _)| same_name(name, &spec.name));
                if spec.list {
                    return read_list(spec, found.map(|(_, value)| decode_form(value)), errors);
                }
                // As in HTML forms and in Django: the last one counts.
                Some(one(decode_form(found.next_back()?.1), errors))
            }
            Slot::Form => {
                let all = input.form?.fields.iter();
                let mut found = all.filter(|(name, _)| *name == spec.name).map(|(_, value)| borrowed(value));
                if spec.list {
                    return read_list(spec, found, errors);
                }
                Some(one(found.next_back()?, errors))
            }
            Slot::File => read_files(spec, input.form?, errors),
        }
    }
}

fn same_name(raw: &str, name: &str) -> bool {
    raw == name || (raw.len() >= name.len() && decode_form(raw).is_some_and(|text| text == name))
}

fn header_text(value: &http::HeaderValue) -> Text<'_> {
    std::str::from_utf8(value.as_bytes()).ok().map(Cow::Borrowed)
}

fn read_one<'a>(spec: &ParamSpec, text: Text<'a>, index: Option<usize>, errors: &mut Vec<FieldError>) -> Value<'a> {
    let Some(text) = text else {
        errors.push(mistake(spec, Kind::Str, index));
        return Value::Absent;
    };
    match spec.kind.read(text) {
        Some(value) => value,
        None => {
            errors.push(mistake(spec, spec.kind, index));
            Value::Absent
        }
    }
}

fn read_list<'a>(
    spec: &ParamSpec,
    texts: impl Iterator<Item = Text<'a>>,
    errors: &mut Vec<FieldError>,
) -> Option<Value<'a>> {
    let values: Vec<_> = texts.enumerate().map(|(index, text)| read_one(spec, text, Some(index), errors)).collect();
    (!values.is_empty()).then_some(Value::List(values))
}

/// A text that somebody else holds.
fn borrowed<'a>(text: &'a Text<'_>) -> Text<'a> {
    text.as_deref().map(Cow::Borrowed)
}

fn read_files<'a>(spec: &ParamSpec, form: &'a Form<'_>, errors: &mut Vec<FieldError>) -> Option<Value<'a>> {
    let found: Vec<&FormFile> = form.files.iter().filter(|file| file.name == spec.name).collect();
    for (index, file) in found.iter().enumerate() {
        if let Some((code, message)) = spec.rules.refuse(file) {
            let mut loc = place(spec);
            loc.extend(spec.list.then_some(Part::Index(index)));
            errors.push(FieldError { code, loc, message: format!("the file {} {message}", spec.name) });
        }
    }
    let most = if spec.list { spec.rules.max_files } else { Some(1) };
    if let Some(most) = most.filter(|most| found.len() > *most) {
        let message = format!("the file {} came {} times, at most {most} are allowed", spec.name, found.len());
        errors.push(FieldError { code: "too_many_files", loc: place(spec), message });
    }
    if spec.list {
        return (!found.is_empty()).then(|| Value::List(found.into_iter().map(Value::File).collect()));
    }
    found.last().map(|file| Value::File(file))
}

fn place(spec: &ParamSpec) -> Vec<Part> {
    vec![Part::Name(spec.source.place().to_owned()), Part::Name(spec.name.clone())]
}

fn missing(spec: &ParamSpec) -> FieldError {
    FieldError {
        code: "missing",
        loc: place(spec),
        message: format!("the {} {} is required", spec.source.noun(), spec.name),
    }
}

fn mistake(spec: &ParamSpec, kind: Kind, index: Option<usize>) -> FieldError {
    let mut loc = place(spec);
    loc.extend(index.map(Part::Index));
    FieldError {
        code: kind.error_code(),
        loc,
        message: format!("the {} {} must be {}", spec.source.noun(), spec.name, kind.expectation()),
    }
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
